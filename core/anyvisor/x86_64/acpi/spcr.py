"""The SPCR: the serial port that is the machine's console (Microsoft's Serial Port Console Redirection Table)."""

from __future__ import annotations

import enum
from collections.abc import Iterator

import attrs

from anyvisor.bits import Bits, bit
from anyvisor.x86_64.acpi.generic_address import NOWHERE, REGISTER, GenericAddress, register
from anyvisor.x86_64.acpi.table import FixedTable
from anyvisor.x86_64.records import U8, U16, U32, raw

NO_PCI = 0xFFFF
"""As a vendor and device: the port is not on PCI."""


class SpcrInterrupts(Bits):
    """The interrupt controllers that the port is wired to."""

    pic = bit(0)
    io_apic = bit(1)
    io_sapic = bit(2)
    gic = bit(3)
    plic = bit(4)


class BaudRate(enum.IntEnum):
    """How fast the port is set; 0 leaves it as it is."""

    AS_IS = 0
    BAUD_9600 = 3
    BAUD_19200 = 4
    BAUD_57600 = 6
    BAUD_115200 = 7


class SerialKind(enum.IntEnum):
    """What kind of port it is: the few kinds that x86 has (DBG2 table, subtypes of port 0x8000)."""

    FULL_16550 = 0
    DBGP_1_0_16550 = 1
    GENERIC_16550 = 0x12


@attrs.frozen
class Spcr(FixedTable):
    """The port, its interrupt, and how it is set: 8 data bits, by default no parity, 1 stop bit, no flow control.

    `rest` is what revisions above 2 have behind these fields.
    """

    SIGNATURE, NAME, REVISION = "SPCR", "SPCR", 2

    kind: int = attrs.field(default=SerialKind.FULL_16550, metadata=U8)
    reserved: bytes = attrs.field(default=bytes(3), metadata=raw(3))
    address: GenericAddress = attrs.field(default=NOWHERE, converter=register, metadata=REGISTER)
    interrupts: SpcrInterrupts = attrs.field(default=SpcrInterrupts(), converter=SpcrInterrupts, metadata=U8)
    irq: int = attrs.field(default=0, metadata=U8)
    gsi: int = attrs.field(default=0, metadata=U32)
    baud_rate: int = attrs.field(default=BaudRate.BAUD_115200, metadata=U8)
    parity: int = attrs.field(default=0, metadata=U8)
    stop_bits: int = attrs.field(default=1, metadata=U8)
    flow_control: int = attrs.field(default=0, metadata=U8)
    terminal: int = attrs.field(default=0, metadata=U8)
    language: int = attrs.field(default=0, metadata=U8)
    pci_device: int = attrs.field(default=NO_PCI, metadata=U16)
    pci_vendor: int = attrs.field(default=NO_PCI, metadata=U16)
    pci_bus: int = attrs.field(default=0, metadata=U8)
    pci_slot: int = attrs.field(default=0, metadata=U8)
    pci_function: int = attrs.field(default=0, metadata=U8)
    pci_flags: int = attrs.field(default=0, metadata=U32)
    pci_segment: int = attrs.field(default=0, metadata=U8)
    uart_clock_hz: int = attrs.field(default=0, metadata=U32)

    def details(self) -> Iterator[str]:
        """The port, its interrupt and its speed."""
        kinds = SerialKind._value2member_map_
        kind = SerialKind(self.kind).name.replace("_", " ").lower() if self.kind in kinds else f"kind {self.kind:#x}"
        yield f"serial port ({kind}), {self.address}"
        if self.interrupts:
            yield f"IRQ {self.irq}, interrupt {self.gsi}, wired to {self.interrupts.words().replace('_', ' ')}"
        rates = BaudRate._value2member_map_
        rate = BaudRate(self.baud_rate).name.removeprefix("BAUD_") if self.baud_rate in rates else str(self.baud_rate)
        yield f"baud rate {rate.lower().replace('_', ' ')}, {self.stop_bits} stop bit{'s' * (self.stop_bits != 1)}"
