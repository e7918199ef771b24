"""The entries of a MADT or SRAT: a byte that says their type, one that says their length, and then their fields."""

from __future__ import annotations

import itertools
import struct
from collections.abc import Iterator, Mapping
from typing import Any, ClassVar, Self

import attrs

from anyvisor.errors import PlanError
from anyvisor.x86_64.acpi.table import HEADER, SystemTable, body_size
from anyvisor.x86_64.records import Shape, pack, shape_of, unpack


@attrs.frozen
class Entry:
    """An entry of a known type: its `TYPE`, and fields that each say their width."""

    TYPE: ClassVar[int]

    @classmethod
    def shape(cls) -> Shape:
        """How it lies in memory, type and length included."""
        kind: Any = cls
        return shape_of(kind, "BB")

    def to_bytes(self) -> bytes:
        """The entry as it lies in memory; struct.error when a number is too big for its place."""
        shape = self.shape()
        return shape.struct.pack(self.TYPE, shape.struct.size, *shape.values(self))

    @classmethod
    def from_bytes(cls, data: bytes) -> Self:
        """The entry in `data`, which has the length that this type has; struct.error if not."""
        return cls(*cls.shape().struct.unpack(data)[2:])

    def follows(self, other: object) -> bool:  # noqa: ARG002 - most entries stand alone
        """Whether it goes on where `other` ends, so that both fit in one line of a description."""
        return False

    def run(self, last: Entry) -> str:
        """A run of entries from this one to `last`, in words."""
        return str(self) if last is self else f"{self} to {last}"


@attrs.frozen
class RawEntry:
    """An entry of a type that is not known here, or whose reserved bytes are in use: what follows its length."""

    type: int
    content: bytes

    def to_bytes(self) -> bytes:
        """The entry as it lies in memory."""
        return struct.pack("<BB", self.type, 2 + len(self.content)) + self.content

    def __str__(self) -> str:
        return f"entry of type {self.type:#x}, {2 + len(self.content)} bytes: {self.content.hex(' ')}"


@attrs.frozen(kw_only=True)
class EntryTable(SystemTable):
    """A table of a few fields, and then entries of the types in `TYPES`, in their order."""

    TYPES: ClassVar[Mapping[int, type[Entry]]] = {}

    entries: tuple[Entry | RawEntry, ...] = ()

    def body(self) -> bytes:
        """The fields, and every entry."""
        return pack(self) + b"".join([entry.to_bytes() for entry in self.entries])

    @classmethod
    def from_body(cls, body: bytes, **header: Any) -> Self:
        """The fields and the entries in `body`; PlanError says where an entry is broken."""
        entries = decode_entries(body, body_size(cls), cls.TYPES, cls.NAME)
        return cls(**unpack(cls, body), entries=entries, **header)


def decode_entries(
    body: bytes, start: int, types: Mapping[int, type[Entry]], what: str
) -> tuple[Entry | RawEntry, ...]:
    """The entries of a table's body from `start` on; PlanError says at which offset of the table one is broken."""
    entries = []
    while start < len(body):
        size = body[start + 1] if start + 1 < len(body) else 0
        if size < 2 or start + size > len(body):
            where = f"{what}: entry at offset {HEADER.size + start:#x}"
            raise PlanError(f"{where} has the length {size}, with {len(body) - start} bytes left")
        entries.append(_entry(body[start : start + size], types))
        start += size
    return tuple(entries)


def _entry(data: bytes, types: Mapping[int, type[Entry]]) -> Entry | RawEntry:
    kind = types.get(data[0])
    if kind and len(data) == kind.shape().struct.size:
        entry = kind.from_bytes(data)
        if entry.to_bytes() == data:
            return entry
    return RawEntry(data[0], data[2:])


def describe_entries(entries: tuple[Entry | RawEntry, ...]) -> Iterator[str]:
    """The entries in words, a line each; those that go on where the one before ends share its line."""
    run = 0
    numbered: list[tuple[int, Entry | RawEntry]] = []
    for before, entry in zip((None, *entries), entries, strict=False):
        joined = isinstance(entry, Entry) and type(before) is type(entry) and entry.follows(before)
        run += not joined
        numbered.append((run, entry))
    for _, group in itertools.groupby(numbered, key=lambda each: each[0]):
        members = [entry for _, entry in group]
        first, last = members[0], members[-1]
        yield first.run(last) if isinstance(first, Entry) and isinstance(last, Entry) else str(first)
