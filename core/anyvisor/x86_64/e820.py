"""The memory map for the guest, named after the BIOS call that once returned it (INT 15h, AX=E820h).

Some facts about holes. What the map does not mention is neither RAM nor forbidden: Linux looks for such holes
below 4 GiB to place devices in. So the MMIO gap stays a hole, and only what is no RAM although one could take
it for RAM is called reserved.
"""

from __future__ import annotations

import enum
import struct
from collections.abc import Iterable

import attrs

from anyvisor.errors import PlanError
from anyvisor.memory import Region, format_size
from anyvisor.x86_64.layout import Layout

MAX_ENTRIES = 128
"""How many entries the zero page has room for."""
ENTRY = struct.Struct("<QQI")


class E820Type(enum.IntEnum):
    """What a range of addresses is (ACPI 6.5, 15.1)."""

    RAM = 1
    RESERVED = 2
    ACPI = 3
    NVS = 4
    UNUSABLE = 5
    DISABLED = 6
    PERSISTENT = 7


@attrs.frozen(order=True)
class E820Entry:
    """A range of guest-physical addresses and what it is."""

    start: int
    size_bytes: int
    type: E820Type = attrs.field(converter=E820Type)

    @property
    def end(self) -> int:
        """The first address after the range."""
        return self.start + self.size_bytes

    @classmethod
    def from_bytes(cls, data: bytes) -> E820Entry:
        """An entry from its 20 bytes; PlanError when its type is none of `E820Type`."""
        start, size_bytes, kind = ENTRY.unpack(data)
        if kind not in E820Type._value2member_map_:
            raise PlanError(f"e820 entry at {start:#x} has type {kind}, which is not known here")
        return cls(start, size_bytes, E820Type(kind))

    def to_bytes(self) -> bytes:
        """The entry's 20 bytes."""
        return ENTRY.pack(self.start, self.size_bytes, self.type)

    def __str__(self) -> str:
        return f"{self.start:#014x}-{self.end - 1:#014x}  {self.type.name} ({format_size(self.size_bytes)})"


def e820(layout: Layout) -> tuple[E820Entry, ...]:
    """The memory map of a layout: RAM without what is reserved, and what is reserved; sorted, nothing twice.

    PlanError when that takes more than 128 entries.
    """
    reserved = _merged(layout.reserved)
    ram = [piece for region in _merged(layout.ram) for piece in _without(region, reserved)]
    entries = [E820Entry(each.start, each.size_bytes, E820Type.RAM) for each in ram]
    entries += [E820Entry(each.start, each.size_bytes, E820Type.RESERVED) for each in reserved]
    if len(entries) > MAX_ENTRIES:
        words = f"the memory map has {len(entries)} entries, the zero page has room for {MAX_ENTRIES}"
        raise PlanError(f"{words}; reserve fewer ranges in anyvisor_memory_layout")
    return tuple(sorted(entries))


def _merged(regions: Iterable[Region]) -> list[Region]:
    """The same addresses as sorted regions that neither touch nor overlap."""
    merged: list[Region] = []
    for region in sorted(each for each in regions if each.size_bytes):
        if merged and region.start <= merged[-1].end:
            start = merged[-1].start
            merged[-1] = Region(start, max(merged[-1].end, region.end) - start)
        else:
            merged.append(region)
    return merged


def _without(region: Region, holes: list[Region]) -> list[Region]:
    """What is left of a region after the holes (sorted, disjoint) are cut out."""
    pieces, start = [], region.start
    for hole in holes:
        if hole.overlaps(region):
            pieces.append(Region(start, hole.start - start))
            start = hole.end
    pieces.append(Region(start, region.end - start))
    return [piece for piece in pieces if piece.size_bytes > 0]
