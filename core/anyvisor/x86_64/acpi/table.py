"""What all ACPI tables share: a header of 36 bytes with signature, length and checksum (5.2.6, Table 5.4).

A kind of table is a class of its own, with `SystemTable` as its root. `Table` is one of any signature with its
content as plain bytes: AML, or something that only its maker understands.
"""

from __future__ import annotations

import abc
import struct
from collections.abc import Iterator
from typing import Any, ClassVar, Self

import attrs

from anyvisor.errors import PlanError
from anyvisor.x86_64.checksum import check_sum, with_checksum
from anyvisor.x86_64.records import pack, shape_of, unpack

HEADER = struct.Struct("<4sIBB6s8sI4sI")
"""Signature, length, revision, checksum, OEM id, OEM table id, OEM revision, creator id, creator revision."""
CHECKSUM = 9
"""Offset of the byte that makes all bytes of a table sum to 0."""


@attrs.frozen
class Origin:
    """Who made a table: ids of 6, 8 and 4 Latin-1 letters, filled with spaces, and revisions of their own."""

    oem_id: str = "ANYVSR"
    oem_table_id: str = "ANYVISOR"
    oem_revision: int = 1
    creator_id: str = "ANYV"
    creator_revision: int = 1

    def fields(self) -> tuple[Any, ...]:
        """As they stand in the header. PlanError for an id that is too long."""
        oem_id, table_id, creator = letters(self.oem_id, 6), letters(self.oem_table_id, 8), letters(self.creator_id, 4)
        return oem_id, table_id, self.oem_revision, creator, self.creator_revision

    @classmethod
    def of(cls, oem_id: bytes, table_id: bytes, revision: int, creator: bytes, creator_revision: int) -> Origin:
        """From what stands in a header."""
        oem, table = oem_id.decode("latin-1"), table_id.decode("latin-1")
        return cls(oem, table, revision, creator.decode("latin-1"), creator_revision)

    def __str__(self) -> str:
        ids = (each.strip(" \0") for each in (self.oem_id, self.oem_table_id, self.creator_id))
        oem, table, creator = (each.encode("unicode_escape").decode() for each in ids)
        return f"OEM {oem} {table} {self.oem_revision:#x}, creator {creator} {self.creator_revision:#x}"


def letters(text: str, size_bytes: int) -> bytes:
    """A signature or id in its place; PlanError when it does not fit or has letters beyond Latin-1."""
    raw = text.encode("latin-1", "ignore")
    if not len(text) == len(raw) <= size_bytes:
        raise PlanError(f"ACPI: {text!r} is no id of at most {size_bytes} Latin-1 letters; shorten it")
    return raw.ljust(size_bytes)


@attrs.frozen(kw_only=True)
class SystemTable(abc.ABC):
    """An ACPI table: `revision` is that of its format, `origin` says who made it."""

    SIGNATURE: ClassVar[str] = ""
    NAME: ClassVar[str] = ""
    """What the specification calls it; seldom its signature."""
    REVISION: ClassVar[int] = 1
    """The format's revision that is written unless another is given."""

    revision: int = attrs.field(default=attrs.Factory(lambda self: self.REVISION, takes_self=True))
    origin: Origin = Origin()

    @property
    def signature(self) -> str:
        """The four letters that it starts with."""
        return self.SIGNATURE

    @property
    def name(self) -> str:
        """What the specification calls it."""
        return self.NAME or self.signature

    @abc.abstractmethod
    def body(self) -> bytes:
        """What follows the header."""

    @classmethod
    @abc.abstractmethod
    def from_body(cls, body: bytes, **header: Any) -> Self:
        """The table with that content; `header` are `revision` and `origin`."""

    def to_bytes(self) -> bytes:
        """The table as it lies in memory. PlanError when a number is too big for its place."""
        try:
            body = self.body()
            size = HEADER.size + len(body)
            signature = letters(self.signature, 4)
            header = HEADER.pack(signature, size, self.revision, 0, *self.origin.fields())
        except struct.error as error:
            raise PlanError(f"{self.name}: a value does not fit in its place: {error}") from error
        return with_checksum(header + body, CHECKSUM)

    @classmethod
    def decode(cls, data: bytes) -> Self:
        """The table in `data`, bytes after its end left aside; PlanError says at which offset it is broken."""
        name = cls.NAME or "ACPI table"
        signature, body, header = split(data, name)
        if signature != cls.SIGNATURE:
            raise PlanError(f"{name}: signature at offset 0x0 is {signature!r}, not {cls.SIGNATURE!r}")
        try:
            return cls.from_body(body, **header)
        except struct.error as error:
            raise PlanError(f"{name} ends at offset {HEADER.size + len(body):#x}, in its fields: {error}") from error

    def details(self) -> Iterator[str]:
        """What it says, a line each."""
        yield from ()

    def describe(self) -> str:
        """The table in words: what it is, who made it, and what it says, a line each."""
        name = self.name if self.name == self.signature else f"{self.name} ({self.signature})"
        title = f"{name}: revision {self.revision}, {len(self.to_bytes())} bytes, {self.origin}"
        return "\n".join([title, *(f"  {line}" for line in self.details())])


@attrs.frozen
class Table(SystemTable):
    """A table of any signature whose content is bytes: the DSDT and SSDTs with their AML, and tables of others.

    >>> Table("SSDT", b"", revision=2).to_bytes()[:9].hex(" ")
    '53 53 44 54 24 00 00 00 02'
    """

    _signature: str
    content: bytes = attrs.field(repr=lambda content: f"<{len(content)} bytes>")

    @property
    def signature(self) -> str:
        """The four letters that it starts with."""
        return self._signature

    def body(self) -> bytes:
        """The content."""
        return self.content

    @classmethod
    def from_body(cls, body: bytes, **header: Any) -> Self:
        """A table without a signature: `decode` knows it."""
        return cls("", body, **header)

    @classmethod
    def decode(cls, data: bytes) -> Self:
        """The table in `data`, whatever its signature; PlanError says at which offset its header is broken."""
        signature, body, header = split(data, "ACPI table")
        return cls(signature, body, **header)

    def details(self) -> Iterator[str]:
        """How much content there is, and how it starts."""
        aml = " of AML" if self.signature in {"DSDT", "SSDT", "PSDT"} else ""
        start = f": {self.content[:16].hex(' ')}{'...' if len(self.content) > 16 else ''}" if self.content else ""
        yield f"{len(self.content)} bytes{aml}{start}"


@attrs.frozen(kw_only=True)
class FixedTable(SystemTable):
    """A table of fields that each have a fixed place; `rest` is what a newer revision has behind them."""

    rest: bytes = b""

    def body(self) -> bytes:
        """The fields, and the rest."""
        return pack(self) + self.rest

    @classmethod
    def from_body(cls, body: bytes, **header: Any) -> Self:
        """The fields in `body`; struct.error when it ends before they do."""
        return cls(**unpack(cls, body), rest=body[body_size(cls) :], **header)


def split(data: bytes, what: str) -> tuple[str, bytes, dict[str, Any]]:
    """A table's signature, body, and revision and origin by name; PlanError when length or checksum are wrong."""
    if len(data) < HEADER.size:
        raise PlanError(f"{what} ends at offset {len(data):#x}, in its header of {HEADER.size} bytes")
    signature, size, revision, _, *origin = HEADER.unpack_from(data)
    if not HEADER.size <= size <= len(data):
        allowed = f"{HEADER.size} to the {len(data)} bytes there are"
        raise PlanError(f"{what}: length at offset 0x4 is {size}, not {allowed}")
    check_sum(what, data[:size], CHECKSUM)
    return signature.decode("latin-1"), data[HEADER.size : size], {"revision": revision, "origin": Origin.of(*origin)}


def body_size(kind: type[SystemTable]) -> int:
    """How many bytes the fields of a kind of table take, the header not counted."""
    return shape_of(kind).struct.size
