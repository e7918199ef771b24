"""Where things lie in an x86_64 guest's memory.

Some facts about the first megabyte. It is laid out as a PC's firmware leaves it: the BIOS data area at 0x400 says how
much base memory there is, the extended BIOS data area (EBDA) takes the last KiB below 0xA0000, and from there to 1 MiB
there is no usable RAM. A BIOS has its ROM there, and an OS looks in it for the ACPI RSDP (from 0xE0000) and the SMBIOS
entry point (from 0xF0000), at every 16 bytes; so those lie there, with the tables they lead to. Linux looks for the MP
floating pointer in the EBDA's first KiB, so it lies there; the table it points to can be up to 5.4 KB long (254 vCPUs)
and lies just below, never over 0xA0000.

From 3 GiB to 4 GiB is the MMIO gap: the I/O APIC at 0xFEC00000, the local APICs at 0xFEE00000, and room for devices.
RAM beyond 3 GiB goes on at 4 GiB.
"""

from __future__ import annotations

import struct

import attrs

from anyvisor.memory import GIB, KIB, MIB, Region
from anyvisor.plan import Blob

GDT = 0x500
IDT = 0x5F8
BOOT_INFO = 0x6000
ZERO_PAGE = 0x7000
STACK_TOP = 0x8FF0
PAGE_TABLES = 0x9000
PAGE_TABLES_END = 0x20000
COMMAND_LINE = 0x20000
COMMAND_LINE_BYTES = 0x10000
MP_TABLE = 0x9E000
EBDA = 0x9FC00
LOW_RAM_END = 0xA0000
ACPI = 0xA0000
RSDP = 0xE0000
SMBIOS = 0xF0000
RESET_VECTOR = 0xFFFF0
HIGH_RAM = 1 * MIB
MMIO_GAP = Region(3 * GIB, 1 * GIB, "MMIO gap")
BDA_EBDA_SEGMENT = 0x40E
BDA_BASE_MEMORY_KIB = 0x413
"""Two words of the BIOS data area: the EBDA's real-mode segment, and KiB of usable base memory."""


_PAGE_TABLES = Region(PAGE_TABLES, PAGE_TABLES_END - PAGE_TABLES, "page tables")
_COMMAND_LINE = Region(COMMAND_LINE, COMMAND_LINE_BYTES, "command line")
_BOOT_INFO = Region(BOOT_INFO, ZERO_PAGE - BOOT_INFO, "boot information")
_ACPI = Region(ACPI, RSDP - ACPI, "ACPI tables")
_SMBIOS = Region(SMBIOS, RESET_VECTOR - SMBIOS, "SMBIOS tables")
_MP_TABLE = Region(MP_TABLE, EBDA - MP_TABLE, "MP table")
_EBDA = Region(EBDA, 1 * KIB, "EBDA")
_RESERVED = (
    Region(MP_TABLE, LOW_RAM_END - MP_TABLE, "MP table, EBDA"),
    Region(LOW_RAM_END, HIGH_RAM - LOW_RAM_END, "legacy ROM"),
)


@attrs.frozen
class Layout:
    """The addresses that boot steps agree on. Override `anyvisor_memory_layout` to move one."""

    ram: tuple[Region, ...]
    mmio_gap: Region = MMIO_GAP
    gdt: int = GDT
    idt: int = IDT
    zero_page: int = ZERO_PAGE
    stack_top: int = STACK_TOP
    page_tables: Region = _PAGE_TABLES
    """Where page tables go if they fit; bigger ones go to the end of RAM below the MMIO gap."""
    command_line: Region = _COMMAND_LINE
    mptable: Region = _MP_TABLE
    ebda: Region = _EBDA
    boot_info: Region = _BOOT_INFO
    """What a boot protocol other than Linux's own hands the kernel: PVH's start info, multiboot's information."""
    acpi: Region = _ACPI
    """The ACPI tables, all but the RSDP that leads to them."""
    rsdp: int = RSDP
    smbios: Region = _SMBIOS
    """The SMBIOS entry point, and behind it the tables."""
    reset_vector: int = RESET_VECTOR
    """Where a BIOS is entered, and some kernels jump to reset the machine: F000:FFF0."""
    kernel: int = HIGH_RAM
    """The lowest address at which a kernel may be placed."""
    reserved: tuple[Region, ...] = _RESERVED
    """Ranges that the memory map given to the guest must call reserved."""

    @property
    def mp_pointer(self) -> int:
        """Where the MP floating pointer lies: in the EBDA's first KiB, behind the byte that holds the EBDA's size."""
        return self.ebda.start + 16

    @property
    def low_ram_end(self) -> int:
        """Where RAM ends below the MMIO gap."""
        return self.ram[0].end

    @classmethod
    def for_memory(cls, size_bytes: int) -> Layout:
        """The standard layout of a machine with that much RAM."""
        low = min(size_bytes, MMIO_GAP.start)
        ram = [Region(0, low, "RAM")]
        if size_bytes > low:
            ram.append(Region(MMIO_GAP.end, size_bytes - low, "high RAM"))
        return cls(tuple(ram))


def bios_data(layout: Layout) -> tuple[Blob, Blob]:
    """What an OS reads of the BIOS's data: where the EBDA is, the KiB of base memory, and the EBDA's size."""
    words = bytearray(BDA_BASE_MEMORY_KIB + 2 - BDA_EBDA_SEGMENT)
    struct.pack_into("<H", words, 0, layout.ebda.start >> 4)
    struct.pack_into("<H", words, BDA_BASE_MEMORY_KIB - BDA_EBDA_SEGMENT, layout.mptable.start // KIB)
    size_kib = bytes([layout.ebda.size_bytes // KIB])
    return Blob("BIOS data area", BDA_EBDA_SEGMENT, bytes(words)), Blob("EBDA size", layout.ebda.start, size_kib)
