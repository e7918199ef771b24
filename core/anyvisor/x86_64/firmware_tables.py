"""The tables that firmware would leave, found in guest memory as an OS finds them, and decoded.

Where they are looked for: ACPI's RSDP where the boot protocol says it lies, else in the EBDA's first KiB and from
0xE0000 to 0xFFFFF (ACPI 6.5, 5.2.5.1); the SMBIOS entry point from 0xF0000 on; the MP pointer as `mptable` says.

Nothing here needs a plan: `read(guest_address, size_bytes) -> bytes` may read any memory, such as a dump of QEMU's.
"""

from __future__ import annotations

import functools
import struct
from collections.abc import Callable, Iterator
from typing import TypeVar

import attrs

from anyvisor.errors import AnyvisorError, PlanError
from anyvisor.memory import MIB, Region
from anyvisor.plan import BootPlan
from anyvisor.x86_64.acpi.madt import IoApic as AcpiIoApic
from anyvisor.x86_64.acpi.madt import Madt
from anyvisor.x86_64.acpi.read import FoundTables, read_tables
from anyvisor.x86_64.acpi.rsdp import SIGNATURE, SIZE_BYTES, Rsdp
from anyvisor.x86_64.acpi.table import SystemTable
from anyvisor.x86_64.e820 import E820Type
from anyvisor.x86_64.handed_over import HandedOver, find_handed_over
from anyvisor.x86_64.mpentries import IoApic as MpIoApic
from anyvisor.x86_64.mptable import EBDA_SEGMENT, MpTable, find_pointer
from anyvisor.x86_64.smbios import SmbiosTables, find_entry

Read = Callable[[int, int], bytes]
"""`read(guest_address, size_bytes) -> bytes`"""
T = TypeVar("T")
S = TypeVar("S", bound=SystemTable)

RSDP_SCANNED = Region(0xE0000, 0x20000)
EBDA_SCANNED_BYTES = 1024
APIC_BYTES = 0x1000
"""What an I/O APIC or the local APICs take up of the address space."""
READ_ERRORS = (AnyvisorError, OSError, ArithmeticError, LookupError, ValueError, struct.error, RecursionError)
"""What reading tables of any content may raise."""


@attrs.frozen
class FoundMpTable:
    """An MP table, and where its pointer and itself lie."""

    pointer: int
    address: int
    table: MpTable


@attrs.frozen
class FoundSmbios:
    """SMBIOS tables, and where their entry point lies."""

    entry_point: int
    tables: SmbiosTables


def find_rsdp(read: Read) -> int | None:
    """Where ACPI's RSDP lies, looked for where an OS looks that was not told; None without a sound one."""
    ebda = int.from_bytes(read(EBDA_SEGMENT, 2), "little") << 4
    places = [Region(ebda, EBDA_SCANNED_BYTES)] if 0x400 <= ebda <= MIB - EBDA_SCANNED_BYTES else []
    for place in (*places, RSDP_SCANNED):
        area = read(place.start, place.size_bytes)
        for offset in range(0, place.size_bytes, 16):
            if area.startswith(SIGNATURE, offset) and _is_sound(area[offset : offset + SIZE_BYTES]):
                return place.start + offset
    return None


def _is_sound(data: bytes) -> bool:
    try:
        Rsdp.decode(data)
    except PlanError:
        return False
    return True


def find_acpi(read: Read, told: int = 0) -> FoundTables | None:
    """The ACPI tables; `told` is the RSDP's address where the boot protocol gave one."""
    address = told or find_rsdp(read)
    return None if address is None else read_tables(read, address)


def find_mptable(read: Read) -> FoundMpTable | None:
    """The MP table."""
    pointer = find_pointer(read)
    if pointer is None:
        return None
    address = int.from_bytes(read(pointer + 4, 4), "little")
    return FoundMpTable(pointer, address, MpTable.from_memory(read, pointer))


def find_smbios(read: Read) -> FoundSmbios | None:
    """The SMBIOS tables."""
    entry = find_entry(read)
    return None if entry is None else FoundSmbios(entry, SmbiosTables.from_memory(read, entry))


@attrs.frozen
class Firmware:
    """All that a plan's kernel finds in memory, each read when it is first asked for. PlanError for what is broken."""

    plan: BootPlan

    @functools.cached_property
    def handed_over(self) -> HandedOver | None:
        """What the boot protocol hands over."""
        return find_handed_over(self.plan)

    @functools.cached_property
    def acpi(self) -> FoundTables | None:
        """The ACPI tables."""
        told = self.handed_over
        return find_acpi(self.plan.read, told.rsdp if told else 0)

    @functools.cached_property
    def mptable(self) -> FoundMpTable | None:
        """The MP table."""
        return find_mptable(self.plan.read)

    @functools.cached_property
    def smbios(self) -> FoundSmbios | None:
        """The SMBIOS tables."""
        return find_smbios(self.plan.read)

    def acpi_table(self, kind: type[S]) -> S | None:
        """The first ACPI table of a class."""
        found = self.acpi
        tables = (each.table for each in found.placed) if found else ()
        return next((each for each in tables if isinstance(each, kind)), None)

    def reserved_ram(self) -> Iterator[Region]:
        """RAM that the memory map given to the kernel does not call RAM."""
        told = self.handed_over
        for entry in told.memory_map if told else ():
            region = Region(entry.start, entry.size_bytes, entry.type.name.lower())
            if entry.type != E820Type.RAM and any(map(region.overlaps, self.plan.ram)):
                yield region

    def interrupt_controllers(self) -> Iterator[Region]:
        """Where the tables say that I/O APICs and local APICs have their registers."""
        found: set[int] = set()
        madt, mptable = self.acpi_table(Madt), self.mptable
        if madt:
            found = {each.address for each in madt.entries if isinstance(each, AcpiIoApic)}
            local = madt.lapic_address
        elif mptable:
            found = {each.address for each in mptable.table.entries if isinstance(each, MpIoApic)}
            local = mptable.table.lapic_address
        else:
            return
        yield from (Region(address, APIC_BYTES, "I/O APIC") for address in sorted(found))
        yield Region(local, APIC_BYTES, "local APICs")
