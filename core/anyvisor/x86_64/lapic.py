"""The local APIC: its registers by name, and how a PC's firmware leaves them for an operating system.

Some facts about LINT0 and LINT1. Until the OS programs the I/O APIC, interrupts of the 8259 pair reach the boot
processor through its local APIC's LINT0 pin in ExtINT mode ("virtual wire mode", MP spec 3.6.2.2), and NMIs through
LINT1. Application processors have LINT0 masked. Registers and their offsets: SDM Vol. 3, 11.4.1.
"""

from __future__ import annotations

import enum
import functools
import struct

import attrs

from anyvisor.bits import Bits, bit, field
from anyvisor.codec import named
from anyvisor.states import Change, VcpuState

LAPIC_BASE = 0xFEE00000
PAGE_BYTES = 1024
"""The part of the APIC's 4 KiB page that holds registers."""


class DeliveryMode(enum.IntEnum):
    """What an interrupt arrives as."""

    FIXED = 0
    LOWEST_PRIORITY = 1
    SMI = 2
    NMI = 4
    INIT = 5
    STARTUP = 6
    EXTINT = 7


def _delivery_mode(value: int) -> DeliveryMode | int:
    return DeliveryMode(value) if value in DeliveryMode._value2member_map_ else value


class LocalVector(Bits):
    """An entry of the local vector table (SDM Vol. 3, 11.5.1)."""

    vector = field(0, 8)
    delivery_mode = field(8, 3, _delivery_mode)
    delivery_pending = bit(12)
    active_low = bit(13)
    remote_irr = bit(14)
    level_triggered = bit(15)
    masked = bit(16)
    timer_mode = field(17, 2)


MASKED = LocalVector(masked=True)

_OFFSETS = {
    "id": 0x20, "version": 0x30, "task_priority": 0x80, "arbitration_priority": 0x90, "processor_priority": 0xA0,
    "remote_read": 0xC0, "logical_destination": 0xD0, "destination_format": 0xE0, "spurious_vector": 0xF0,
    "error_status": 0x280, "cmci": 0x2F0, "icr_low": 0x300, "icr_high": 0x310, "timer": 0x320, "thermal": 0x330,
    "performance": 0x340, "lint0": 0x350, "lint1": 0x360, "error": 0x370, "initial_count": 0x380,
    "current_count": 0x390, "divide_configuration": 0x3E0,
}  # fmt: skip
_BITMAPS = {"in_service": 0x100, "trigger_mode": 0x180, "interrupt_request": 0x200}


@named("x86_64.Lapic")
@attrs.frozen
class Lapic(VcpuState):
    """The registers of a local APIC. The three 256-bit ones are one number each; bit n stands for vector n."""

    id: int = 0
    version: int = 0x50014
    task_priority: int = 0
    arbitration_priority: int = 0
    processor_priority: int = 0
    remote_read: int = 0
    logical_destination: int = 0
    destination_format: int = 0xFFFFFFFF
    spurious_vector: int = 0xFF
    in_service: int = 0
    trigger_mode: int = 0
    interrupt_request: int = 0
    error_status: int = 0
    cmci: LocalVector = attrs.field(default=LocalVector(0), converter=LocalVector)
    icr_low: int = 0
    icr_high: int = 0
    timer: LocalVector = attrs.field(default=MASKED, converter=LocalVector)
    thermal: LocalVector = attrs.field(default=MASKED, converter=LocalVector)
    performance: LocalVector = attrs.field(default=MASKED, converter=LocalVector)
    lint0: LocalVector = attrs.field(default=MASKED, converter=LocalVector)
    lint1: LocalVector = attrs.field(default=MASKED, converter=LocalVector)
    error: LocalVector = attrs.field(default=MASKED, converter=LocalVector)
    initial_count: int = 0
    current_count: int = 0
    divide_configuration: int = 0

    @classmethod
    def from_bytes(cls, page: bytes) -> Lapic:
        """The registers of an APIC page (1024 bytes or more, little-endian, one register each 16 bytes)."""
        if len(page) < PAGE_BYTES:
            raise ValueError(f"an APIC page has {PAGE_BYTES} bytes, not {len(page)}")
        words = {name: struct.unpack_from("<I", page, offset)[0] for name, offset in _OFFSETS.items()}
        for name, offset in _BITMAPS.items():
            parts = [page[offset + 16 * i : offset + 16 * i + 4] for i in range(8)]
            words[name] = int.from_bytes(b"".join(parts), "little")
        return cls(**words)

    def to_bytes(self) -> bytes:
        """The APIC page: 1024 bytes."""
        page = bytearray(PAGE_BYTES)
        for name, offset in _OFFSETS.items():
            struct.pack_into("<I", page, offset, getattr(self, name))
        for name, offset in _BITMAPS.items():
            words = getattr(self, name).to_bytes(32, "little")
            for i in range(8):
                page[offset + 16 * i : offset + 16 * i + 4] = words[4 * i : 4 * i + 4]
        return bytes(page)


@functools.cache
def boot_lapic(*, boot_processor: bool) -> Change:
    """LINT0 and LINT1 as firmware leaves them: ExtINT on LINT0 (masked on application processors), NMI on LINT1."""
    return Change(
        Lapic,
        lint0=LocalVector(delivery_mode=DeliveryMode.EXTINT, masked=not boot_processor),
        lint1=LocalVector(delivery_mode=DeliveryMode.NMI),
    )
