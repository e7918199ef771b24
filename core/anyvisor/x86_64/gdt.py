"""The global descriptor table: the segments a processor can load, and the selectors that pick one.

Some facts about selectors (SDM Vol. 3, 3.4.2). A selector is a byte offset into the table whose low three
bits mean something else: a privilege level (bits 0 and 1), and the local table instead of the global one (bit
2). The processor never reads slot 0: selector 0 means "no segment". The wide descriptors of long mode take
two slots, and the second has no selector; LTR faults when GDTR's limit leaves it out.
"""

from __future__ import annotations

import itertools
import struct
from collections.abc import Iterator

import attrs

from anyvisor.errors import PlanError
from anyvisor.x86_64.descriptors import BYTE, PAGE, Descriptor, Granularity
from anyvisor.x86_64.segments import NULL, Segment
from anyvisor.x86_64.state import SegmentRegister

__all__ = ["BOOT_GDT", "BYTE", "FLAT32_GDT", "PAGE", "Gdt", "Granularity", "Segment"]

SLOT_BYTES = 8
MAX_SLOTS = 8192
"""As many as a selector's 13-bit index can tell apart."""
TABLE_INDICATOR = 4
"""The bit of a selector that means the local descriptor table."""


@attrs.frozen(init=False)
class Gdt:
    """A global descriptor table: its segments in order, the first of them null.

    PlanError when it is not, or when there are too many.

    >>> gdt = Gdt(Segment.null(), Segment.code(bits=64), Segment.tss(busy=True))
    >>> hex(gdt.selector(2)), gdt.limit_bytes
    ('0x10', 31)
    """

    segments: tuple[Segment, ...]

    def __init__(self, *segments: Segment):
        if not segments or segments[0] != NULL:
            raise PlanError("the first entry of a GDT is never read; start it with Segment.null()")
        slots = sum(segment.slots for segment in segments)
        if slots > MAX_SLOTS:
            raise PlanError(f"a GDT has at most {MAX_SLOTS} slots, this one has {slots}; leave segments out")
        self.__attrs_init__(segments)  # pyright: ignore[reportAttributeAccessIssue] - attrs makes it

    @property
    def limit_bytes(self) -> int:
        """What GDTR's limit must be to cover every entry: the table's size in bytes less one."""
        return SLOT_BYTES * sum(segment.slots for segment in self.segments) - 1

    def selector(self, index: int, rpl: int = 0) -> int:
        """The selector of segment number `index` at privilege level `rpl`. Wide ones count twice."""
        if not 0 <= index < len(self.segments) or not 0 <= rpl <= 3:
            have = f"segments 0 to {len(self.segments) - 1}, privilege levels 0 to 3"
            raise PlanError(f"no selector for segment {index} at privilege level {rpl}; the GDT has {have}")
        return SLOT_BYTES * sum(segment.slots for segment in self.segments[:index]) | rpl

    def segment(self, selector: int) -> Segment:
        """The segment that `selector` selects, whatever its privilege level; PlanError when there is none."""
        for start, segment in self._placed():
            if start == selector & ~3:
                return segment
        have = ", ".join(f"{start:#x}" for start, _ in self._placed())
        table = "means the LDT, not the GDT" if selector & TABLE_INDICATOR else "selects nothing in the GDT"
        raise PlanError(f"selector {selector:#x} {table}; the GDT has {have}")

    def register(self, selector: int) -> SegmentRegister:
        """The segment register after loading `selector`; PlanError when it selects nothing."""
        return self.segment(selector).register(selector)

    def to_bytes(self) -> bytes:
        """The table as it lies in memory."""
        return b"".join(segment.to_bytes() for segment in self.segments)

    @classmethod
    def from_bytes(cls, table: bytes, *, long_mode: bool = True) -> Gdt:
        """A table read from memory; system descriptors are wide in `long_mode`.

        Slot 0 is taken for null whatever it holds (some systems keep GDTR's content there). PlanError names
        the entry that is no segment.
        """
        if not table or len(table) % SLOT_BYTES:
            raise PlanError(f"{len(table)} bytes are no GDT; its entries have {SLOT_BYTES} bytes each")
        numbers = iter(struct.unpack(f"<{len(table) // SLOT_BYTES}Q", table))
        next(numbers)
        segments = [NULL]
        for low in numbers:
            try:
                segments.append(_read(low, numbers, long_mode=long_mode))
            except PlanError as error:
                selector = SLOT_BYTES * sum(segment.slots for segment in segments)
                raise PlanError(f"GDT entry of selector {selector:#x}: {error}") from error
        return cls(*segments)

    def describe(self) -> str:
        """The table as text, a segment a line."""
        lines = ["index  selector  base                limit       dpl  flags   kind"]
        for index, (start, segment) in enumerate(self._placed()):
            place = f"{index:<5}  {start:#06x}    {segment.base:#018x}  {segment.limit_bytes:#010x}"
            lines.append(f"{place}  {segment.dpl}    {segment.flags:#06x}  {segment.words}")
        return "\n".join(lines)

    def _placed(self) -> Iterator[tuple[int, Segment]]:
        """Each segment with its selector."""
        starts = itertools.accumulate((SLOT_BYTES * segment.slots for segment in self.segments), initial=0)
        return zip(starts, self.segments, strict=False)

    def __iter__(self) -> Iterator[Segment]:
        return iter(self.segments)

    def __len__(self) -> int:
        return len(self.segments)

    def __getitem__(self, index: int) -> Segment:
        return self.segments[index]


def _read(low: int, following: Iterator[int], *, long_mode: bool) -> Segment:
    """The segment whose first eight bytes are `low`; a wide one takes its other half from `following`."""
    descriptor = Descriptor(low)
    if descriptor.s or not descriptor.type or not long_mode:
        return Segment.from_descriptor(low)
    upper = next(following, None)
    if upper is None:
        raise PlanError("the table ends in the middle of a 16-byte descriptor; does GDTR's limit cover it?")
    return Segment.from_descriptor(low, upper)


BOOT_GDT = Gdt(
    Segment.null(),
    Segment.null(),  # the boot protocol wants CS at 0x10, DS at 0x18
    Segment.code(bits=64, readable=True, privilege=0, granularity=PAGE),
    Segment.data(writable=True, granularity=PAGE),
    Segment.tss(busy=True, granularity=PAGE),
)
"""For kernels entered in 64-bit mode: CS 0x10, DS 0x18, TR 0x20 (Documentation/arch/x86/boot.rst)."""

FLAT32_GDT = Gdt(
    Segment.null(),
    Segment.null(),
    Segment.code(bits=32, readable=True, granularity=PAGE),
    Segment.data(writable=True, granularity=PAGE),
    Segment.tss(busy=True, bits=32, granularity=BYTE, limit_bytes=0x67),
)
"""For kernels entered in 32-bit protected mode without paging (PVH): the same selectors."""
