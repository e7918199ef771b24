"""The HPET table: where the high-precision event timers are (IA-PC HPET Specification 1.0a, 3.2.4)."""

from __future__ import annotations

from collections.abc import Iterator

import attrs

from anyvisor.bits import Bits, bit, field
from anyvisor.x86_64.acpi.generic_address import NOWHERE, REGISTER, GenericAddress, register
from anyvisor.x86_64.acpi.table import FixedTable
from anyvisor.x86_64.records import U8, U16, U32


class HpetBlock(Bits):
    """What the timers can do: the low half of their capabilities register."""

    revision = field(0, 8)
    last_comparator = field(8, 5)
    wide_counter = bit(13)
    legacy_replacement = bit(15)
    pci_vendor = field(16, 16)


@attrs.frozen
class Hpet(FixedTable):
    """A block of timers: its address, and how few ticks of its counter may lie between two interrupts."""

    SIGNATURE, NAME = "HPET", "HPET"

    block: HpetBlock = attrs.field(converter=HpetBlock, metadata=U32)
    address: GenericAddress = attrs.field(default=NOWHERE, converter=register, metadata=REGISTER)
    number: int = attrs.field(default=0, metadata=U8)
    minimum_ticks: int = attrs.field(default=0, metadata=U16)
    page_protection: int = attrs.field(default=0, metadata=U8)

    def details(self) -> Iterator[str]:
        """The block and its address."""
        width = "64" if self.block.wide_counter else "32"
        block = f"{self.block.last_comparator + 1} comparators, counter of {width} bits"
        yield f"timer block {self.number} at {self.address.address:#x}: {block}"
        yield f"vendor {self.block.pci_vendor:#06x}, at least {self.minimum_ticks} ticks between interrupts"
