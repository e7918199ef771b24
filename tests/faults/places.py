"""Faults of where things lie: a processor enters, and the kernel meets them."""

import struct

from anyvisor.x86_64.state import DescriptorTable
from faults.careful import LOADED
from faults.fault import PROCESSORS, place
from faults.planting import moved, page_entry, piece, poke, regs, segment, sregs, zero_page

NOWHERE = 0x5555_0000_0000
"""Beyond the page tables."""
ABOVE_RAM = 0x0800_0000
"""Mapped, and there is neither RAM nor a device."""
GDT, GDT_DATA = 0x500, 0x518
COMMAND_LINE, INITRD = 0x228, 0x218
"""Their fields in the zero page."""
LONG_LINE = "this kernel prints all of it, however long it is; see below for Linux"


def address(value: int) -> bytes:
    """As fields of the zero page have it."""
    return struct.pack("<I", value)


PLACES = (
    place(
        "wrong-mode",
        "CS is 32-bit, and the kernel has 64-bit code",
        segment("cs", l=False, db=True),
        "protocol-mode",
    ),
    place(
        "cr3-outside",
        "CR3 leads to where no RAM is",
        sregs(cr3=0x8000_0000),
        "cr3-outside-ram",
        checked="page-tables-in-ram",
    ),
    place("entry-unmapped", "the page tables do not map the entry", page_entry(LOADED, 0), "entry-mapped"),
    place(
        "table-outside",
        "a page table lies outside RAM",
        page_entry(LOADED, 0x9000_0003),
        "page-table-outside-ram",
        checked="page-tables-in-ram",
    ),
    place("entry-off", "the entry is 0x200 bytes too high", regs(rip=LOADED + 0x200), "entry-loaded"),
    place("gdt-short", "the GDT's limit leaves out its data", sregs(gdt=DescriptorTable(GDT, 0x17)), "gdt-limit"),
    place("wrong-selector", "CS's selector is that of the TSS", segment("cs", selector=0x20), "gdt-agrees"),
    place("gdt-hole", "the GDT has no data segment", poke(GDT_DATA, bytes(8)), "gdt-agrees"),
    place("stack-unmapped", "RSP leads to where nothing is mapped", regs(rsp=NOWHERE), "stack-mapped"),
    place("stack-outside", "RSP leads to where no RAM is", regs(rsp=ABOVE_RAM), "stack-in-ram"),
    place("zero-page-lost", "RSI does not lead to the zero page", regs(rsi=0x3000), "handover-found"),
    place(
        "initrd-on-kernel",
        "the zero page has the initrd where the kernel is",
        zero_page(INITRD, address(LOADED)),
        "initrd-apart",
    ),
    place("initrd-moved", "the initrd is not where the zero page has it", moved("initrd", 0x300_0000), "initrd-loaded"),
    place(
        "line-outside",
        "the command line's address leads to no RAM",
        zero_page(COMMAND_LINE, address(0x9000_0000)),
        "command-line-ends",
    ),
    place(
        "line-too-long",
        "the command line is longer than the kernel takes",
        piece("command line", b"A" * 0x880),
        "command-line-ends",
        runs=dict.fromkeys(PROCESSORS, LONG_LINE),
    ),
)
