"""The entries of an MP configuration table, each a value with its bytes (MP Specification 1.4, 4.3)."""

from __future__ import annotations

import enum
import struct
from typing import Any, ClassVar, Self

import attrs

from anyvisor.bits import Bits, field
from anyvisor.errors import PlanError

IOAPIC_BASE = 0xFEC00000
IOAPIC_PINS = 24
BROADCAST = 0xFF
"""As a destination: every local APIC."""
ENABLED, BOOTSTRAP = 1, 2
"""Flag bits of a processor; the first is an I/O APIC's too."""


def stripped(text: str) -> str:
    """A name as the table holds it, without the spaces that fill its field."""
    return text.rstrip(" ")


def padded(name: str, size_bytes: int) -> bytes:
    """A name filled up with spaces; PlanError when it does not fit or has letters beyond Latin-1."""
    raw = name.encode("latin-1", "ignore")
    if not len(name) == len(raw) <= size_bytes:
        raise PlanError(f"MP table: {name!r} is no name of at most {size_bytes} Latin-1 letters; shorten it")
    return raw.ljust(size_bytes)


class InterruptKind(enum.IntEnum):
    """What an interrupt arrives as (Table 4-11)."""

    INT = 0
    NMI = 1
    SMI = 2
    EXTINT = 3


class InterruptFlags(Bits):
    """Polarity (1 high, 3 low) and trigger mode (1 edge, 3 level); 0 is what the bus has by custom."""

    polarity = field(0, 2)
    trigger = field(2, 2)


@attrs.frozen
class Entry:
    """What all entries have: a `KIND`, which is their first byte, and a `SHAPE` in memory."""

    KIND: ClassVar[int]
    SHAPE: ClassVar[struct.Struct]

    def __attrs_post_init__(self) -> None:
        try:
            self.to_bytes()
        except struct.error as error:
            raise PlanError(f"MP table: {self!r} does not fit in its entry: {error}") from error

    def to_bytes(self) -> bytes:
        """The entry as it lies in memory. PlanError at birth if its numbers do not fit."""
        return self.SHAPE.pack(self.KIND, *self._fields())

    @classmethod
    def from_bytes(cls, raw: bytes) -> Self:
        """The entry of this kind in `raw`, which has the length of `SHAPE`."""
        return cls._of(*cls.SHAPE.unpack(raw)[1:])

    def _fields(self) -> tuple[Any, ...]:
        """What stands in memory after the kind."""
        return attrs.astuple(self)

    @classmethod
    def _of(cls, *fields: Any) -> Self:
        return cls(*fields)


@attrs.frozen
class Processor(Entry):
    """A processor by its local APIC id; `signature` and `features` are CPUID leaf 1 EAX and EDX (4.3.1)."""

    KIND, SHAPE = 0, struct.Struct("<BBBBII8x")

    apic_id: int
    version: int = 0x14
    enabled: bool = True
    bootstrap: bool = False
    signature: int = 0x600
    features: int = 0x201

    def _fields(self) -> tuple[Any, ...]:
        flags = ENABLED * self.enabled | BOOTSTRAP * self.bootstrap
        return self.apic_id, self.version, flags, self.signature, self.features

    @classmethod
    def _of(cls, *fields: Any) -> Self:
        apic_id, version, flags, signature, features = fields
        return cls(apic_id, version, bool(flags & ENABLED), bool(flags & BOOTSTRAP), signature, features)

    def __str__(self) -> str:
        state = f"{'enabled' if self.enabled else 'disabled'}{', bootstrap' if self.bootstrap else ''}"
        return f"processor {self.apic_id}: {state}, signature {self.signature:#x}, features {self.features:#x}"


@attrs.frozen
class Bus(Entry):
    """A bus by its id and type, at most six letters: `ISA`, `PCI` (4.3.2)."""

    KIND, SHAPE = 1, struct.Struct("<BB6s")

    id: int
    type: str = attrs.field(converter=stripped)

    def _fields(self) -> tuple[Any, ...]:
        return self.id, padded(self.type, 6)

    @classmethod
    def _of(cls, *fields: Any) -> Self:
        return cls(fields[0], fields[1].decode("latin-1"))

    def __str__(self) -> str:
        return f"bus {self.id}: {self.type}"


@attrs.frozen
class IoApic(Entry):
    """An I/O APIC by its id, and where its registers are (4.3.3)."""

    KIND, SHAPE = 2, struct.Struct("<BBBBI")

    id: int
    version: int = 0x11
    enabled: bool = True
    address: int = IOAPIC_BASE

    @classmethod
    def _of(cls, *fields: Any) -> Self:
        apic_id, version, flags, address = fields
        return cls(apic_id, version, bool(flags & ENABLED), address)

    def __str__(self) -> str:
        state = "enabled" if self.enabled else "disabled"
        return f"I/O APIC {self.id}: {state}, version {self.version:#x}, at {self.address:#x}"


@attrs.frozen
class Interrupt(Entry):
    """A line from interrupt `irq` of a bus to a pin of the interrupt controller with id `destination`."""

    SHAPE = struct.Struct("<BBHBBBB")

    kind: InterruptKind = attrs.field(converter=InterruptKind)
    flags: InterruptFlags = attrs.field(converter=InterruptFlags)
    bus: int
    irq: int
    destination: int
    pin: int

    @property
    def line(self) -> str:
        """Where the interrupt comes from, in words: `INT bus 0 irq 4`, with polarity and trigger if given."""
        flags = f" ({self.flags.words()})" if self.flags else ""
        return f"{self.kind.name} bus {self.bus} irq {self.irq}{flags}"


@attrs.frozen
class IoInterrupt(Interrupt):
    """A line to a pin of an I/O APIC (4.3.4)."""

    KIND = 3

    def __str__(self) -> str:
        return f"{self.line} -> I/O APIC {self.destination} pin {self.pin}"


@attrs.frozen
class LocalInterrupt(Interrupt):
    """A line to a pin, LINT0 or LINT1, of one local APIC or of all (4.3.5)."""

    KIND = 4

    def __str__(self) -> str:
        whom = "all local APICs" if self.destination == BROADCAST else f"local APIC {self.destination}"
        return f"{self.line} -> {whom} LINT{self.pin}"


_ALL = (Processor, Bus, IoApic, IoInterrupt, LocalInterrupt)
KINDS: dict[int, type[Entry]] = {kind.KIND: kind for kind in _ALL}


def decode_entries(table: bytes, offset: int) -> tuple[Entry, ...]:
    """The entries from `offset` to the end of `table`; PlanError says at which offset one is broken.

    As in Linux, the table's length says how many there are: some writers leave the header's entry count at 0.
    """
    entries: list[Entry] = []
    while offset < len(table):
        kind = KINDS.get(table[offset])
        if kind is None:
            raise PlanError(f"MP table: entry at offset {offset:#x} has the unknown type {table[offset]}")
        raw = table[offset : offset + kind.SHAPE.size]
        try:
            entries.append(kind.from_bytes(raw))
        except (struct.error, ValueError) as error:
            raise PlanError(f"MP table: {kind.__name__} entry at offset {offset:#x}: {error}") from error
        offset += len(raw)
    return tuple(entries)
