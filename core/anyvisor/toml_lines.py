"""On which line of a TOML text something stands, for error messages: the standard library's parser does not say.

It knows statements (a table's header, or a key with its value over as many lines as it takes) and the words in them.
That is enough to find a key, and a text or number in its value; it does not check that the text is TOML.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator

import attrs

_PIECE = re.compile(
    r'"""(?:\\.|[^\\])*?"""|'
    + r"'''.*?'''"
    + r"""|"(?:\\.|[^"\\\n])*"|'[^'\n]*'|\#[^\n]*|\n|[\[\]{}=,]|[^\s\[\]{}=,"'#]+""",
    re.DOTALL,
)
_DEPTH = {"[": 1, "{": 1, "]": -1, "}": -1}


@attrs.frozen
class Word:
    """A piece of TOML, without what lies between: a string with its quotes, a number, a bracket."""

    text: str
    line: int

    def is_(self, value: object) -> bool:
        """Whether it stands for that text or number."""
        if isinstance(value, int):
            return self._number() == value
        return self.text.strip("\"'") == value

    def _number(self) -> int | None:
        try:
            return int(self.text, 0)
        except ValueError:
            return None


@attrs.frozen
class Statement:
    """A header (`key` is empty) or a key with its value; `index` counts the tables of that name from 0."""

    table: str
    index: int
    key: str
    words: tuple[Word, ...]

    @property
    def line(self) -> int:
        """Where it begins."""
        return self.words[0].line

    def line_of(self, value: object) -> int | None:
        """Where that text or number stands in it."""
        return next((word.line for word in self.words if word.is_(value)), None)


class Lines:
    """The lines of a TOML text."""

    def __init__(self, text: str):
        self._statements = tuple(_statements(text))

    def find(self, key: str, value: object = None, *, table: str = "", index: int = 0) -> int | None:
        """Where a key stands, or a text or number in its value; else where its table begins; None for neither.

        A table that is written in braces is found by its own key.
        """
        places = [each for each in self._statements if each.table == table and each.index == index]
        places = [each for each in places if each.key == key] or [each for each in places if not each.key]
        places = places or [each for each in self._statements if not each.table and each.key == table != ""]
        places = places or [each for each in self._statements if each.table == key and not each.key]
        if not places:
            return None
        found = (each.line_of(value) or each.line_of(key) for each in places)
        return next((line for line in found if line), places[0].line)


def _statements(text: str) -> Iterator[Statement]:
    table, index = "", 0
    seen: Counter[str] = Counter()
    for words in _logical_lines(text):
        if words[0].text == "[":
            table = "".join(word.text for word in words).strip("[]")
            index = seen[table]
            seen[table] += 1
            yield Statement(table, index, "", words)
        else:
            key = words[0].text.strip("\"'").partition(".")[0]
            yield Statement(table, index, key, words)


def _logical_lines(text: str) -> Iterator[tuple[Word, ...]]:
    """The words up to each end of line that no bracket is open at; comments are left out."""
    words: list[Word] = []
    line, depth = 1, 0
    for match in _PIECE.finditer(text):
        piece = match[0]
        if piece == "\n" and depth == 0 and words:
            yield tuple(words)
            words = []
        elif piece[0] not in "\n#":
            words.append(Word(piece, line))
            depth = max(0, depth + _DEPTH.get(piece, 0))
        line += piece.count("\n")
    if words:
        yield tuple(words)
