"""Segments: in words, as descriptors in memory, and as the registers that hold them.

Some facts about limits (SDM Vol. 3, 3.4.3 and 5.3). A descriptor's limit counts bytes or pages of 4 KiB, but
a register's hidden part always holds it in bytes, low twelve bits all ones if it came from pages. Here a
limit is always in bytes: `limit_bytes` is the offset of the last byte, 0xffffffff for a flat segment.

A segment whose descriptor has 16 bytes is `wide` and takes two slots of its table: a TSS or LDT of long mode.
TR must hold a *busy* TSS at VM entry (SDM Vol. 3, 27.3.1.2).
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import Any, TypedDict, Unpack

import attrs

from anyvisor.errors import PlanError
from anyvisor.x86_64.descriptors import (
    FLAGS,
    PAGE,
    CodeType,
    DataType,
    Descriptor,
    Granularity,
    SystemType,
    system_words,
)
from anyvisor.x86_64.state import SegmentRegister

_SHARED = ("type", "s", "dpl", "present", "avl", "l", "db", "g")
"""The fields that segment, descriptor and register have in common."""


class Extent(TypedDict, total=False):
    """What every kind of segment may be given. Left out, a limit is as far as it can be."""

    base: int
    limit_bytes: int
    granularity: Granularity
    privilege: int
    present: bool
    available: bool


@attrs.frozen
class Segment:
    """A segment: the field names are the manual's, and `limit_bytes` is the offset of its last byte.

    Make one with `code`, `data`, `tss`, `ldt` or `null`. PlanError for one that the processor does not know
    or that no descriptor can say.
    """

    base: int = 0
    limit_bytes: int = 0
    type: int = 0
    s: bool = False
    dpl: int = 0
    present: bool = False
    avl: bool = False
    l: bool = False  # noqa: E741 - the manual's letter
    db: bool = False
    g: bool = False
    wide: bool = False

    def __attrs_post_init__(self) -> None:
        for problem in _contradictions(self):
            raise PlanError(f"segment ({self.words}): {problem}")

    @classmethod
    def null(cls) -> Segment:
        """The empty entry that a GDT starts with."""
        return cls()

    @classmethod
    def code(
        cls,
        *,
        bits: int = 64,
        readable: bool = True,
        conforming: bool = False,
        accessed: bool = True,
        **extent: Unpack[Extent],
    ) -> Segment:
        """A code segment of 64, 32 or 16 bits. Base and limit mean nothing to 64-bit code."""
        _check_bits("code", bits, (64, 32, 16))
        kind = CodeType(executable=True, readable=readable, conforming=conforming, accessed=accessed)
        return cls(type=int(kind), s=True, l=bits == 64, db=bits == 32, **_fields(extent))

    @classmethod
    def data(
        cls,
        *,
        bits: int = 32,
        writable: bool = True,
        expand_down: bool = False,
        accessed: bool = True,
        **extent: Unpack[Extent],
    ) -> Segment:
        """A data or stack segment. 64-bit mode has no data segments of its own: 32-bit ones serve it.

        An `expand_down` segment holds the offsets *above* its limit; without a limit, all but the first unit.
        """
        _check_bits("data", bits, (32, 16))
        kind = DataType(writable=writable, expand_down=expand_down, accessed=accessed)
        return cls(type=int(kind), s=True, db=bits == 32, **_fields(extent, smallest=expand_down))

    @classmethod
    def tss(cls, *, busy: bool = False, bits: int = 64, **extent: Unpack[Extent]) -> Segment:
        """A task-state segment: 64 bits for long mode, where its descriptor is wide, or 32 or 16."""
        _check_bits("TSS", bits, (64, 32, 16))
        kinds = (SystemType.TSS16, SystemType.TSS16_BUSY) if bits == 16 else (SystemType.TSS, SystemType.TSS_BUSY)
        return cls(type=int(kinds[busy]), wide=bits == 64, **_fields(extent))

    @classmethod
    def ldt(cls, *, bits: int = 64, **extent: Unpack[Extent]) -> Segment:
        """A local descriptor table: 64 bits for long mode, where its descriptor is wide, or 32."""
        _check_bits("LDT", bits, (64, 32))
        return cls(type=int(SystemType.LDT), wide=bits == 64, **_fields(extent))

    @property
    def descriptor(self) -> Descriptor:
        """The descriptor's eight bytes as a number; the lower eight of a wide one."""
        limit = self.limit_bytes // PAGE.value if self.g else self.limit_bytes
        return Descriptor(
            limit_low=limit & 0xFFFF,
            limit_high=limit >> 16,
            base_low=self.base & 0xFFFFFF,
            base_high=self.base >> 24 & 0xFF,
            **{name: getattr(self, name) for name in _SHARED},
        )

    @property
    def upper(self) -> int | None:
        """The upper eight bytes of a wide descriptor as a number (the base's upper half); None for others."""
        return self.base >> 32 if self.wide else None

    @property
    def flags(self) -> int:
        """The 16 bits that the field calls flags: access byte, four zeros, AVL, L, D/B and G."""
        return (self.descriptor & FLAGS) >> 40

    @property
    def slots(self) -> int:
        """How many entries of the table it takes up: 2 if it is wide."""
        return 2 if self.wide else 1

    @classmethod
    def from_descriptor(cls, descriptor: int, upper: int | None = None) -> Segment:
        """The segment that a descriptor describes; `upper` is the second half of a wide one.

        PlanError for a gate, and for anything else that no segment can be.
        """
        low = Descriptor(descriptor)
        limit = low.limit_high << 16 | low.limit_low
        if upper is not None and upper >> 32:
            raise PlanError(f"descriptor {low:#x}: reserved bits are set in its upper half {upper:#x}")
        return cls(
            base=(upper or 0) << 32 | low.base_high << 24 | low.base_low,
            limit_bytes=limit * PAGE.value + PAGE.value - 1 if low.g else limit,
            wide=upper is not None,
            **{name: getattr(low, name) for name in _SHARED},
        )

    def to_bytes(self) -> bytes:
        """The descriptor as it lies in memory: 8 bytes, or 16 if it is wide."""
        low = struct.pack("<Q", self.descriptor)
        return low if self.upper is None else low + struct.pack("<Q", self.upper)

    def register(self, selector: int) -> SegmentRegister:
        """The segment register, hidden part included, after loading this segment by `selector`."""
        return SegmentRegister(
            base=self.base,
            limit=self.limit_bytes,
            selector=selector,
            unusable=not self.present,
            **{name: getattr(self, name) for name in _SHARED},
        )

    @classmethod
    def from_register(cls, register: SegmentRegister, *, long_mode: bool = True) -> Segment:
        """The segment that a register holds; system segments are wide in `long_mode`.

        PlanError if no descriptor can say it: the 64-bit bases of FS and GS come from MSRs.
        """
        shared = {name: getattr(register, name) for name in _SHARED}
        shared["present"] = register.present and not register.unusable
        wide = long_mode and not register.s and register.type != 0
        return cls(base=register.base, limit_bytes=register.limit, wide=wide, **shared)

    @property
    def words(self) -> str:
        """The kind of segment in words: `code64 accessed|readable|executable`, `tss64 busy`, `null`."""
        if not (self.type or self.s or self.present):
            return "null"
        absent = "" if self.present else " not present"
        if not self.s:
            return system_words(self.type, wide=self.wide) + absent
        bits = 64 if self.l else 32 if self.db else 16
        executable = self.type & CodeType.executable.mask
        name, kind = ("code", CodeType(self.type)) if executable else ("data", DataType(self.type))
        return f"{name}{bits} {kind.words()}".rstrip() + absent


def _contradictions(segment: Segment) -> Iterator[str]:
    """What is wrong with a segment, each with its way out."""
    if not 0 <= segment.dpl <= 3:
        yield f"privilege level {segment.dpl} does not exist; there are 0 to 3"
    if not 0 <= segment.type <= 15:
        yield f"type {segment.type} does not fit in 4 bits"
    elif not segment.s:
        yield from _system_contradictions(segment)
    elif segment.wide:
        yield "only system descriptors (TSS, LDT) have 16 bytes"
    elif segment.type & CodeType.executable.mask and segment.l and segment.db:
        yield "L and D are both set, which is reserved (SDM Vol. 3, 5.2.1); code has 64 or 32 bits, not both"
    if not 0 <= segment.base < 1 << (64 if segment.wide else 32):
        yield f"base {segment.base:#x} does not fit; only 16-byte descriptors hold more than 32 bits"
    yield from _limit_contradictions(segment)


def _system_contradictions(segment: Segment) -> Iterator[str]:
    if segment.type not in SystemType._value2member_map_ and (segment.type or segment.present):
        yield f"system type {segment.type:#x} is a gate or reserved, not a segment; TSS and LDT are"
    if segment.wide and segment.type in (0, SystemType.TSS16, SystemType.TSS16_BUSY):
        yield f"system type {segment.type:#x} has no 16-byte descriptor (SDM Vol. 3, Table 3-2)"


def _limit_contradictions(segment: Segment) -> Iterator[str]:
    limit = segment.limit_bytes
    if segment.g and not (0 <= limit < 1 << 32 and limit % PAGE.value == PAGE.value - 1):
        yield f"limit {limit:#x} is not the last byte of a 4 KiB page below 4 GiB; use granularity BYTE"
    if not segment.g and not 0 <= limit < 1 << 20:
        yield f"limit {limit:#x} does not fit in 20 bits; use granularity PAGE"


def _check_bits(name: str, bits: int, allowed: tuple[int, ...]) -> None:
    if bits not in allowed:
        raise PlanError(f"there is no {bits}-bit {name} segment; use one of {', '.join(map(str, allowed))} bits")


def _fields(extent: Extent, *, smallest: bool = False) -> dict[str, Any]:
    """The fields of a present segment with that extent; PlanError for a word that is none of `Extent`."""
    known = Extent.__annotations__
    if unknown := sorted(extent.keys() - known):
        kinds = f"every kind has {', '.join(known)}"
        raise PlanError(f"this kind of segment has no {', '.join(unknown)}; {kinds}")
    granularity = extent.get("granularity", PAGE)
    units = 1 if smallest else 1 << 20
    return {
        "base": extent.get("base", 0),
        "limit_bytes": extent.get("limit_bytes", granularity.value * units - 1),
        "dpl": extent.get("privilege", 0),
        "present": extent.get("present", True),
        "avl": extent.get("available", False),
        "g": granularity is PAGE,
    }


NULL = Segment()
