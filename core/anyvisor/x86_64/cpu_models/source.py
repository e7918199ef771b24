"""A template's text and its tables, read with checks whose errors name the file and the line."""

from __future__ import annotations

import functools
import re
import reprlib
import tomllib
from typing import Any

from anyvisor.errors import ConfigError
from anyvisor.toml_lines import Lines
from anyvisor.x86_64.cpu_models.names import near

_PLACE = re.compile(r" \(at line (\d+), column \d+\)")
"""How the standard library's parser says where it gave up."""
U32, U64 = (1 << 32) - 1, (1 << 64) - 1
TOO_DEEP = "brackets are nested too deep"
_SHORT = reprlib.Repr()
_SHORT.maxstring = 60


def shown(value: object) -> str:
    """A value as a message shows it: in full, unless it is long."""
    return _SHORT.repr(value)


class Source:
    """A template's text, and where things stand in it."""

    def __init__(self, name: str, text: str):
        self.name = name
        self._lines = Lines(text)
        try:
            self.data: dict[str, Any] = tomllib.loads(text)
        except (ValueError, RecursionError) as error:
            text = TOO_DEEP if isinstance(error, RecursionError) else str(error)
            found = _PLACE.search(text)
            line, reason = (f":{found[1]}", _PLACE.sub("", text)) if found else ("", text)
            raise ConfigError(f"{name}{line}: this is not TOML: {reason}") from error

    def error(self, message: str, key: str, value: object = None, *, table: str = "", index: int = 0) -> ConfigError:
        """An error that names the file and the line of that key, or of that value of it."""
        line = self._lines.find(key, value, table=table, index=index)
        return ConfigError(f"{self.name}{f':{line}' if line else ''}: {message}")


class Table:
    """A table of a template: the top one, one of its arrays', or another, whose `form` is how to write it."""

    def __init__(
        self, source: Source, data: Any, known: tuple[str, ...], name: str = "", index: int = 0, form: str = "[[{}]]"
    ):
        self.error = functools.partial(source.error, table=name, index=index)
        self._data = data
        if not isinstance(data, dict):
            raise self.error(f"{name} is not a table; write it as {form.format(name)}", name)
        for key in data:
            if key not in known:
                what = f"{name} has no key" if name else "there is no key"
                meant = near(key, known) or f"; the keys are {', '.join(known)}"
                raise self.error(f"{what} {shown(key)}{meant}", key)

    def number(self, key: str, least: int, most: int, default: int | None = None) -> int | None:
        """The whole number of a key, from `least` to `most`."""
        value = self._data.get(key, default)
        if value is None:
            return None
        if type(value) is not int:
            raise self.error(f"{key}: {shown(value)} is not a whole number", key)
        if not least <= value <= most:
            bounds = f"{least} to {most}" if most < U32 else f"{least:#x} to {most:#x}"
            given = f"{value:#x} ({value})" if value.bit_length() <= 2 * U64.bit_length() else "this number"
            raise self.error(f"{key}: {given} does not fit; give {bounds}", key, value)
        return value

    def needed(self, key: str, least: int, most: int) -> int:
        """The number of a key that must be there."""
        value = self.number(key, least, most)
        if value is None:
            raise self.error(f"there is no {key!r}; it is needed here", key)
        return value

    def word(self, key: str, words: tuple[str, ...] = (), default: str | None = None) -> str | None:
        """The text of a key, one of `words` if there are any."""
        value = self._data.get(key, default)
        if value is not None and not isinstance(value, str):
            raise self.error(f"{key}: {shown(value)} is not text in quotes", key)
        if words and value is not None and value not in words:
            raise self.error(f"{key}: {shown(value)} is none of {', '.join(words)}", key, value)
        return value

    def flag(self, key: str, default: bool | None = None) -> bool | None:
        """True, false or not said."""
        value = self._data.get(key, default)
        if value is not None and not isinstance(value, bool):
            raise self.error(f"{key}: {shown(value)} is neither true nor false", key)
        return value

    def list(self, key: str, form: str = "[...]") -> list[Any]:
        """A list; empty when there is none. `form` is how to write it."""
        value = self._data.get(key, [])
        if not isinstance(value, list):
            raise self.error(f"{key} is not a list; write it as {form.format(key)}", key)
        return value

    def get(self, key: str, default: object = None) -> Any:
        """The value as it is."""
        return self._data.get(key, default)
