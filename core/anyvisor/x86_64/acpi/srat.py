"""The SRAT: which processors and which memory belong to which NUMA node (5.2.16)."""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator
from typing import Self

import attrs

from anyvisor.bits import Bits, bit
from anyvisor.memory import Region, format_size
from anyvisor.x86_64.acpi.entries import Entry, EntryTable, describe_entries
from anyvisor.x86_64.records import U32, U64, Shape, raw
from anyvisor.x86_64.topology import MAX_XAPIC_ID


class AffinityFlags(Bits):
    """Whether an entry counts, and what kind of memory it is (Table 5.58 and 5.59)."""

    enabled = bit(0)
    hot_pluggable = bit(1)
    non_volatile = bit(2)


ENABLED = AffinityFlags(enabled=True)


@attrs.frozen
class LapicAffinity(Entry):
    """The node of a processor with an APIC id below 255 (5.2.16.1). The node's 32 bits lie in two places."""

    TYPE = 0

    node: int
    apic_id: int
    flags: AffinityFlags = attrs.field(default=ENABLED, converter=AffinityFlags)
    sapic_eid: int = 0
    clock_domain: int = 0

    @classmethod
    def shape(cls) -> Shape:
        """The node's low 8 bits, APIC id, flags, EID, the node's high 24 bits, clock domain."""
        return _LAPIC_SHAPE

    def to_bytes(self) -> bytes:
        """The entry as it lies in memory; struct.error when a number is too big for its place."""
        high = struct.pack("<I", self.node)[1:]
        fields = self.node & 0xFF, self.apic_id, self.flags, self.sapic_eid, high, self.clock_domain
        return _LAPIC_SHAPE.struct.pack(self.TYPE, _LAPIC_SHAPE.struct.size, *fields)

    @classmethod
    def from_bytes(cls, data: bytes) -> Self:
        """The entry in `data`."""
        _, _, low, apic_id, flags, eid, high, clock = _LAPIC_SHAPE.struct.unpack(data)
        return cls(low | int.from_bytes(high, "little") << 8, apic_id, flags, eid, clock)

    def follows(self, other: object) -> bool:
        """Whether `other` is the processor before it, in the same node."""
        return isinstance(other, LapicAffinity) and attrs.evolve(other, apic_id=other.apic_id + 1) == self

    def run(self, last: Entry) -> str:
        """A run of processors of one node."""
        return _processors("APIC", self, last)

    def __str__(self) -> str:
        return self.run(self)


_LAPIC_SHAPE = Shape(struct.Struct("<BBBBIB3sI"), ())


@attrs.frozen
class MemoryAffinity(Entry):
    """The node of a range of memory (5.2.16.2)."""

    TYPE = 1

    node: int = attrs.field(metadata={"shape": "I2x"})
    start: int = attrs.field(metadata=U64)
    size_bytes: int = attrs.field(metadata={"shape": "Q4x"})
    flags: AffinityFlags = attrs.field(default=ENABLED, converter=AffinityFlags, metadata={"shape": "I8x"})

    def __str__(self) -> str:
        where = f"memory {Region(self.start, self.size_bytes)} ({format_size(self.size_bytes)})"
        where = where if self.size_bytes else "no memory"
        return f"node {self.node}: {where}, {self.flags.words() or 'disabled'}"


@attrs.frozen
class X2ApicAffinity(Entry):
    """The node of a processor by its APIC id of 32 bits (5.2.16.3)."""

    TYPE = 2

    node: int = attrs.field(metadata={"shape": "2xI"})
    apic_id: int = attrs.field(metadata=U32)
    flags: AffinityFlags = attrs.field(default=ENABLED, converter=AffinityFlags, metadata=U32)
    clock_domain: int = attrs.field(default=0, metadata={"shape": "I4x"})

    def follows(self, other: object) -> bool:
        """Whether `other` is the processor before it, in the same node."""
        return isinstance(other, X2ApicAffinity) and attrs.evolve(other, apic_id=other.apic_id + 1) == self

    def run(self, last: Entry) -> str:
        """A run of processors of one node."""
        return _processors("x2APIC", self, last)

    def __str__(self) -> str:
        return self.run(self)


TYPES: dict[int, type[Entry]] = {each.TYPE: each for each in (LapicAffinity, MemoryAffinity, X2ApicAffinity)}


@attrs.frozen
class Srat(EntryTable):
    """The System Resource Affinity Table: its entries in order."""

    SIGNATURE, NAME, REVISION = "SRAT", "SRAT", 3
    TYPES = TYPES

    table_revision: int = attrs.field(default=1, metadata=U32)
    """Reserved to be 1."""
    reserved: bytes = attrs.field(default=bytes(8), metadata=raw(8))

    def details(self) -> Iterator[str]:
        """The entries, processors that follow each other in one line."""
        return describe_entries(self.entries)


def affinity(node: int, apic_id: int) -> LapicAffinity | X2ApicAffinity:
    """The entry of a processor: the short one, where the APIC id fits in it."""
    return LapicAffinity(node, apic_id) if apic_id <= MAX_XAPIC_ID else X2ApicAffinity(node, apic_id)


def cut(ram: Iterable[Region], sizes_bytes: Iterable[int]) -> list[list[Region]]:
    """RAM dealt out to nodes of those sizes: each takes on where the one before ends, over gaps too.

    >>> [[str(each) for each in node] for node in cut([Region(0, 3), Region(8, 3)], [4, 2])]
    [['0x0-0x2', '0x8-0x8'], ['0x9-0xa']]
    """
    left = sorted(ram)[::-1]
    nodes = []
    for size_bytes in sizes_bytes:
        taken: list[Region] = []
        while left and (missing := size_bytes - sum(each.size_bytes for each in taken)):
            region = left.pop()
            size = min(missing, region.size_bytes)
            taken.append(Region(region.start, size))
            if size < region.size_bytes:
                left.append(Region(region.start + size, region.size_bytes - size))
        nodes.append(taken)
    return nodes


def _processors(kind: str, first: LapicAffinity | X2ApicAffinity, last: Entry) -> str:
    assert isinstance(last, LapicAffinity | X2ApicAffinity)
    ids = f"id {first.apic_id}" if last is first else f"ids {first.apic_id}-{last.apic_id}"
    return f"node {first.node}: {kind} {ids}, {'enabled' if first.flags.enabled else 'disabled'}"
