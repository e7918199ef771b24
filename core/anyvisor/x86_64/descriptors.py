"""Segment descriptors as the processor reads them: their bits and types, with the manual's names.

Some facts about segment descriptors (SDM Vol. 3, 3.4.5 and 3.5; APM Vol. 2, 4.7 and 4.8). Base and limit are
scattered over eight bytes. The limit has 20 bits and counts bytes or, with granularity G, pages of 4 KiB.
What the four type bits mean depends on bit S (not a system descriptor) and, for code and data, on their own
highest bit.

In long mode the descriptors of the system segments (TSS and LDT) are twice as long, so that they hold a
64-bit base.
"""

from __future__ import annotations

import enum

from anyvisor.bits import Bits, bit, field

FLAGS = 0xF0FF << 40
"""The bits of a descriptor that are neither base nor limit."""


class Granularity(enum.Enum):
    """What a descriptor's 20-bit limit counts."""

    BYTE = 1
    PAGE = 4096


BYTE, PAGE = Granularity.BYTE, Granularity.PAGE


class Descriptor(Bits):
    """The eight bytes of a segment descriptor (SDM Vol. 3, Figure 3-8)."""

    limit_low = field(0, 16)
    base_low = field(16, 24)
    type = field(40, 4)
    s = bit(44)
    dpl = field(45, 2)
    present = bit(47)
    limit_high = field(48, 4)
    avl = bit(52)
    l = bit(53)  # noqa: E741 - the manual's letter
    db = bit(54)
    g = bit(55)
    base_high = field(56, 8)


class CodeType(Bits):
    """The type of a code segment (SDM Vol. 3, Table 3-1)."""

    accessed = bit(0)
    readable = bit(1)
    conforming = bit(2)
    executable = bit(3)


class DataType(Bits):
    """The type of a data segment (SDM Vol. 3, Table 3-1)."""

    accessed = bit(0)
    writable = bit(1)
    expand_down = bit(2)


class SystemType(enum.IntEnum):
    """The system descriptors that are segments (SDM Vol. 3, Table 3-2); the rest are gates or reserved."""

    TSS16 = 1
    LDT = 2
    TSS16_BUSY = 3
    TSS = 9
    TSS_BUSY = 11


def system_words(number: int, *, wide: bool) -> str:
    """The kind of system segment: `tss64 busy`, `ldt32`."""
    bits = 64 if wide else 32
    names: dict[int, str] = {
        SystemType.TSS16: "tss16",
        SystemType.TSS16_BUSY: "tss16 busy",
        SystemType.LDT: f"ldt{bits}",
        SystemType.TSS: f"tss{bits}",
        SystemType.TSS_BUSY: f"tss{bits} busy",
    }
    return names.get(number, f"system type {number:#x}")
