"""Resource descriptors: which ports, addresses and interrupts a device has, as its `_CRS` object tells.

Some facts about resources (ACPI specification 6.5, 6.4). They are a list of descriptors in a buffer, closed by an
end tag. A small descriptor has its kind and length in one byte; a large one has a byte of kind, and a length of 16
bits. An `IRQNoFlags` is an ISA interrupt: edge-triggered, active high, and one of 16. `Interrupt` names any number
that the MADT's interrupt controllers know, and says how it is triggered.
"""

from __future__ import annotations

import struct
from typing import Self

from anyvisor.errors import PlanError
from anyvisor.x86_64.acpi.aml import Aml, Buffer, Data

END_TAG = b"\x79\x00"
"""The end of the list, with a checksum of 0, which means that there is none."""
DECODE_16 = 1
CONSUMER, EDGE, ACTIVE_LOW, SHARED = 0x01, 0x02, 0x04, 0x08
MEMORY_RANGE = 0
MIN_FIXED, MAX_FIXED = 0x04, 0x08
READ_WRITE = 0x01
"""Bits of the descriptors' flags."""

_IO = struct.Struct("<BBHHBB")
_IRQ = struct.Struct("<BH")
_MEMORY_32 = struct.Struct("<BHBII")
_ADDRESS_64 = struct.Struct("<BHBBBQQQQQ")
_INTERRUPTS = struct.Struct("<BHBB")


class Resource(Aml):
    """One descriptor."""

    __slots__ = ()


class ResourceTemplate(Data):
    """A list of descriptors: what `_CRS` stands for."""

    __slots__ = ()

    def __new__(cls, *resources: Resource) -> Self:
        """The buffer that holds them, and the end tag."""
        return cls._of(Buffer(b"".join((*resources, END_TAG))))


class IO(Resource):
    """Some neighbouring ports, at most 255 (6.4.2.5)."""

    __slots__ = ()

    def __new__(cls, port: int, count: int) -> Self:
        """PlanError when there are no such ports."""
        if not (0 <= port < port + count <= 1 << 16 and count <= 0xFF):
            raise PlanError(f"AML: IO({port:#x}, {count}) does not name 1 to 255 ports out of 0-0xffff")
        return cls._of(_IO.pack(0x47, DECODE_16, port, port, 1, count))


class IRQNoFlags(Resource):
    """ISA interrupts, each of 0 to 15 (6.4.2.1)."""

    __slots__ = ()

    def __new__(cls, *irqs: int) -> Self:
        """PlanError for an interrupt that the ISA bus has not."""
        if not all(0 <= irq < 16 for irq in irqs):
            raise PlanError(f"AML: IRQNoFlags{irqs}: the ISA bus has 0 to 15; use Interrupt for others")
        return cls._of(_IRQ.pack(0x22, sum(1 << irq for irq in set(irqs))))


class Memory32Fixed(Resource):
    """An address range below 4 GiB, which may be written (6.4.3.4)."""

    __slots__ = ()

    def __new__(cls, address: int, size_bytes: int) -> Self:
        """PlanError when it is empty or does not end below 4 GiB."""
        if not 0 <= address < address + size_bytes <= 1 << 32:
            raise PlanError(
                f"AML: Memory32Fixed({address:#x}, {size_bytes:#x}) is empty or not below 4 GiB; try QWordMemory"
            )
        return cls._of(_MEMORY_32.pack(0x86, _MEMORY_32.size - 3, READ_WRITE, address, size_bytes))


class QWordMemory(Resource):
    """An address range anywhere, not cached, which may be written (6.4.3.5.1)."""

    __slots__ = ()

    def __new__(cls, address: int, size_bytes: int) -> Self:
        """PlanError when it is empty or goes beyond 64 bits."""
        if not 0 <= address < address + size_bytes <= 1 << 64:
            raise PlanError(f"AML: QWordMemory({address:#x}, {size_bytes:#x}) is empty, or not of 64 bits")
        flags = CONSUMER | MIN_FIXED | MAX_FIXED
        numbers = (0, address, address + size_bytes - 1, 0, size_bytes)
        return cls._of(_ADDRESS_64.pack(0x8A, _ADDRESS_64.size - 3, MEMORY_RANGE, flags, READ_WRITE, *numbers))


class Interrupt(Resource):
    """Interrupts by their global numbers (GSI), with one way of being triggered (6.4.3.6)."""

    __slots__ = ()

    def __new__(cls, *gsis: int, level: bool = False, active_low: bool = False, shared: bool = False) -> Self:
        """PlanError for no interrupt, more than 255, or a number that has not 32 bits."""
        if not 0 < len(gsis) <= 0xFF or not all(0 <= gsi < 1 << 32 for gsi in gsis):
            raise PlanError(f"AML: Interrupt{gsis}: it names 1 to 255 numbers of 32 bits")
        flags = CONSUMER | EDGE * (not level) | ACTIVE_LOW * active_low | SHARED * shared
        numbers = struct.pack(f"<{len(gsis)}I", *gsis)
        return cls._of(_INTERRUPTS.pack(0x89, 2 + len(numbers), flags, len(gsis)), numbers)
