"""A part of a description: a title, words, and the value that the words tell of."""

from __future__ import annotations

import enum
from collections.abc import Callable, Mapping
from typing import Any

import attrs

from anyvisor.bits import Bits
from anyvisor.folding import fold


def readable(text: str) -> str:
    r"""The text with what cannot be printed escaped: a table's strings may hold anything, and terminals obey some.

    >>> readable("two\nlines \x1b[2J")
    'two\nlines \\x1b[2J'
    """
    return "".join(each if each.isprintable() or each == "\n" else _escaped(each) for each in text)


def _escaped(character: str) -> str:
    return character.encode("unicode_escape", "backslashreplace").decode("ascii")


@attrs.frozen
class Section:
    """A title and a text of several lines; `value` is what was decoded, None where the text is all there is."""

    title: str
    text: str = attrs.field(converter=readable)
    value: Any = None

    @property
    def short(self) -> str:
        """The text with runs of like lines told as one."""
        return fold(self.text)

    def to_data(self) -> dict[str, Any]:
        """The section for JSON: `title`, `text` as a list of lines, `value`."""
        return {"title": self.title, "text": self.text.splitlines(), "value": plain(self.value)}


def plain(value: Any) -> Any:
    """Any decoded value as what JSON has: objects with their class as `is`, bytes as hexadecimal text, numbers.

    Bits are their number and the names of what is set. It is made to be read, and not read back.

    >>> from anyvisor.memory import Region
    >>> plain(Region(0x1000, 16, "table"))
    {'is': 'Region', 'start': 4096, 'size_bytes': 16, 'name': 'table'}
    """
    if attrs.has(type(value)):
        fields = {each.name.lstrip("_"): plain(getattr(value, each.name)) for each in attrs.fields(type(value))}
        return {"is": type(value).__name__, **fields}
    for kind, convert in _PLAIN:
        if isinstance(value, kind):
            return convert(value)
    return str(value)


_PLAIN: tuple[tuple[Any, Callable[[Any], Any]], ...] = (
    (bool | None, lambda value: value),
    (Bits, lambda value: {"number": int(value), "set": value.words()}),
    (enum.Enum, lambda value: value.name),
    (str, lambda value: value.encode("utf-8", "backslashreplace").decode()),
    (bytes, bytes.hex),
    (int, int),
    (float, float),
    (Mapping, lambda value: {str(key): plain(each) for key, each in value.items()}),
    (list | tuple | set | frozenset, lambda value: [plain(each) for each in value]),
)
"""Kinds of values and what becomes of them; the first that fits counts."""
