"""Reads AML piece by piece: integers, names, lengths, and the values that names stand for.

It knows what data is made of, not what statements do: a value that the guest would have to compute is a PlanError here,
with the offset, and whoever reads a list of terms goes on behind it (see `aml_outline`).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NoReturn

import attrs

from anyvisor.errors import PlanError

INTEGER_BYTES = {0x0A: 1, 0x0B: 2, 0x0C: 4, 0x0E: 8}
CONSTANTS = {0x00: 0, 0x01: 1, 0xFF: (1 << 64) - 1}
STRING, BUFFER, PACKAGE, VARIABLE_PACKAGE = 0x0D, 0x11, 0x12, 0x13
ROOT, PARENT, DUAL, MULTI, NULL_NAME = 0x5C, 0x5E, 0x2E, 0x2F, 0x00
SEGMENT_BYTES = 4
FIRST_LETTERS = frozenset(b"ABCDEFGHIJKLMNOPQRSTUVWXYZ_")
LETTERS = FIRST_LETTERS | frozenset(b"0123456789")
NAME_BEGINS = FIRST_LETTERS | {ROOT, PARENT, DUAL, MULTI}
VARIABLES = {**{0x60 + i: f"Local{i}" for i in range(8)}, **{0x68 + i: f"Arg{i}" for i in range(7)}}
DEEPEST = 32


@attrs.frozen
class Reference:
    """The path of another object, where a value might stand."""

    path: str


Found = int | str | bytes | Reference | list["Found"]
"""A value as it was read: a String is a str, a Buffer bytes, a Package a list."""


class AmlReader:
    """A place in AML, and where what is read there ends. Every method moves on, or raises PlanError."""

    def __init__(self, content: bytes, position: int = 0, end: int | None = None, depth: int = 0):
        self.content = content
        self.position = position
        self.end = len(content) if end is None else end
        self.depth = depth
        if depth > DEEPEST:
            self.fail(f"more than {DEEPEST} lists within each other")

    def fail(self, reason: str) -> NoReturn:
        """PlanError: this cannot be read."""
        raise PlanError(f"AML at offset {self.position:#x}: {reason}")

    def left(self) -> int:
        """How many bytes are left."""
        return self.end - self.position

    def peek(self) -> int:
        """The next byte, which stays."""
        if self.position >= self.end:
            self.fail("it ends in the middle of an object")
        return self.content[self.position]

    def take(self, size_bytes: int) -> bytes:
        """The next bytes."""
        if size_bytes > self.left():
            self.fail(f"{size_bytes} bytes wanted, {self.left()} there")
        self.position += size_bytes
        return self.content[self.position - size_bytes : self.position]

    def number(self, size_bytes: int) -> int:
        """The next bytes as a number."""
        return int.from_bytes(self.take(size_bytes), "little")

    def opcode(self) -> int:
        """The next opcode: a byte, or two that begin with 0x5b."""
        first = self.number(1)
        return first << 8 | self.number(1) if first == 0x5B else first

    def package(self) -> AmlReader:
        """What a PkgLength says comes next, by a reader of its own; this one goes on behind it."""
        start = self.position
        lead = self.number(1)
        extra = lead >> 6
        length = lead & (0xF | 0x30 * (not extra)) | self.number(extra) << 4
        if not self.position <= start + length <= self.end:
            self.position = start
            self.fail(f"a length of {length} bytes, {self.left()} there")
        inner = AmlReader(self.content, self.position, start + length, self.depth + 1)
        self.position = inner.end
        return inner

    def path(self) -> str:
        """A name or path of names, without the letters that only fill its segments."""
        prefix = ""
        while self.peek() in {ROOT, PARENT}:
            prefix += chr(self.number(1))
        lead = self.peek()
        count = {NULL_NAME: 0, DUAL: 2, MULTI: 0}.get(lead, 1)
        if lead in {NULL_NAME, DUAL, MULTI}:
            self.take(1)
        if lead == MULTI:
            count = self.number(1)
        return prefix + ".".join(self._segment() for _ in range(count))

    def _segment(self) -> str:
        letters = self.take(SEGMENT_BYTES)
        if letters[0] not in FIRST_LETTERS or not LETTERS.issuperset(letters):
            self.position -= SEGMENT_BYTES
            self.fail(f"{letters!r} is no name")
        return letters.decode().rstrip("_") or "_"

    def value(self) -> Found:
        """Data, or a reference; PlanError for what has to be computed."""
        lead = self.peek()
        if lead not in VALUES:
            self.fail(f"opcode {lead:#04x} has to be computed")
        return VALUES[lead](self)

    def _constant(self) -> int:
        return CONSTANTS[self.number(1)]

    def _integer(self) -> int:
        return self.number(INTEGER_BYTES[self.number(1)])

    def _reference(self) -> Reference:
        return Reference(self.path())

    def _variable(self) -> Reference:
        return Reference(VARIABLES[self.number(1)])

    def _string(self) -> str:
        end = self.content.find(b"\0", self.position, self.end)
        if end < 0:
            self.fail("a string without an end")
        return self.take(end + 1 - self.position)[1:-1].decode("latin-1")

    def _buffer(self) -> bytes:
        self.take(1)
        inner = self.package()
        inner.value()
        return inner.take(inner.left())

    def _package(self) -> list[Found]:
        kind = self.number(1)
        inner = self.package()
        if kind == VARIABLE_PACKAGE:
            inner.value()
        else:
            inner.take(1)
        found = []
        while inner.left():
            found.append(inner.value())
        return found


VALUES: dict[int, Callable[[AmlReader], Found]] = {
    **dict.fromkeys(CONSTANTS, AmlReader._constant),
    **dict.fromkeys(INTEGER_BYTES, AmlReader._integer),
    **dict.fromkeys(NAME_BEGINS, AmlReader._reference),
    **dict.fromkeys(VARIABLES, AmlReader._variable),
    STRING: AmlReader._string,
    BUFFER: AmlReader._buffer,
    PACKAGE: AmlReader._package,
    VARIABLE_PACKAGE: AmlReader._package,
}
"""How each kind of value is read, by its first byte."""
