"""Where everything lies in the guests of `event_guests`, and the tables that it is described by."""

import struct

from anyvisor.x86_64.gdt import BYTE, Segment

RAM_BYTES = 0x20000
LOG_POINTER, LOG, CODE, BOOT, IDT, GDT, LDT, TSS = 0x500, 0x600, 0x1000, 0x3800, 0x4000, 0x5000, 0x5800, 0x6000
STACK, RING0_STACK, IST1_STACK, USER_STACK, RING1_STACK = 0x8F00, 0x9F00, 0xAF00, 0xBF00, 0xCF00
TABLES = 0x10000
ABSENT, READ_ONLY, SUPERVISOR, NO_EXECUTE = 0x18000, 0x19000, 0x1A000, 0x1B000
"""Pages with other rights than the rest; BEYOND is in no table at all."""
BEYOND = 0x40000000
PROTECTED, LONG = 32, 64
REAL = 16

KERNEL_CODE, KERNEL_DATA, USER_CODE32, USER_DATA, USER_CODE = 0x08, 0x10, 0x1B, 0x23, 0x2B
TASK, CONFORMING, ABSENT_CODE, ABSENT_DATA, CODE16, DATA16 = 0x30, 0x40, 0x48, 0x50, 0x58, 0x60
SMALL_DATA, RING1_CODE, RING1_DATA, BASED_DATA, COMPAT_CODE, LOCAL = 0x68, 0x71, 0x79, 0x80, 0x88, 0x90
TASK16, SMALL_CODE, NOTHING, DOWN_DATA = 0xA0, 0xB0, 0xF8, 0xB8
OWN_HANDLER = 0x3000
"""Where a guest may have one of its own."""
BASED = 0x80
"""Where segment BASED_DATA begins."""

PRESENT, WRITABLE, USER, USED, XD = 1, 2, 4, 0x60, 1 << 63
ALL = PRESENT | WRITABLE | USER | USED
INTERRUPT, TRAP, INTERRUPT16, TRAP16, TASK_GATE, CALL = 0xE, 0xF, 6, 7, 5, 0xC

STUBS_AT = CODE + 0x10
"""The first jump of the prologue has room before."""


def gate(mode, vector, *, kind=INTERRUPT, dpl=3, present=True, selector=KERNEL_CODE, ist=0, offset=None):
    """{address: bytes} of one IDT entry."""
    offset = STUBS_AT + 16 * vector if offset is None else offset
    if mode == REAL:
        return {vector * 4: struct.pack("<HH", offset, 0)}
    flags = kind | dpl << 5 | present << 7
    low = struct.pack("<HHBBH", offset & 0xFFFF, selector, ist, flags, offset >> 16 & 0xFFFF)
    if mode == PROTECTED:
        return {IDT + vector * 8: low}
    return {IDT + vector * 16: low + struct.pack("<Q", offset >> 32)}


def segments(guest):
    mode = bits = guest.mode
    task = Segment.tss(base=TSS, limit_bytes=guest.tss_limit, busy=True, bits=guest.tss or bits, granularity=BYTE)
    return {
        KERNEL_CODE: Segment.code(bits=bits),
        KERNEL_DATA: Segment.data(),
        USER_CODE32: Segment.code(bits=32, privilege=3),
        USER_DATA: Segment.data(privilege=3),
        USER_CODE: Segment.code(bits=bits, privilege=3),
        TASK: task,
        CONFORMING: Segment.code(bits=bits, conforming=True),
        ABSENT_CODE: Segment.code(bits=bits, present=False),
        ABSENT_DATA: Segment.data(present=False),
        CODE16: Segment.code(bits=16),
        DATA16: Segment.data(bits=16, limit_bytes=0xFFFF, granularity=BYTE),
        SMALL_DATA: Segment.data(limit_bytes=0x7FFF, granularity=BYTE),
        RING1_CODE: Segment.code(bits=bits, privilege=1),
        RING1_DATA: Segment.data(privilege=1),
        BASED_DATA: Segment.data(base=BASED),
        COMPAT_CODE: Segment.code(bits=32),
        LOCAL: Segment.ldt(base=LDT, limit_bytes=0xF, granularity=BYTE, bits=mode),
        SMALL_CODE: Segment.code(bits=mode, limit_bytes=OWN_HANDLER - 1, granularity=BYTE),
        DOWN_DATA: Segment.data(limit_bytes=0x7FFF, granularity=BYTE, expand_down=True),
    }


def tables(guest):
    """{address: bytes} of everything but the code."""
    mode, pieces = guest.mode, {LOG_POINTER: struct.pack("<Q", LOG)}
    for vector in range(64):
        pieces |= gate(mode, vector)
    if mode == REAL:
        return pieces
    for selector, segment in segments(guest).items():
        pieces[GDT + (selector & ~7)] = segment.to_bytes()
    pieces[LDT] = bytes(8) + Segment.code(bits=mode).to_bytes()
    if mode == LONG:
        pieces[TSS] = struct.pack("<IQQQQQ", 0, RING0_STACK, 0, 0, 0, IST1_STACK)
        return pieces | long_tables()
    if guest.tss == 16:
        pieces[TSS] = struct.pack("<HHHHH", 0, RING0_STACK, KERNEL_DATA, RING1_STACK, RING1_DATA)
        return pieces | legacy_tables()
    pieces[TSS] = struct.pack("<IIIII", 0, RING0_STACK, KERNEL_DATA, RING1_STACK, RING1_DATA)
    return pieces | (pae_tables() if guest.paging == "PAE" else legacy_tables())


def rights(page):
    return {ABSENT: ALL & ~PRESENT, READ_ONLY: ALL & ~WRITABLE, SUPERVISOR: ALL & ~USER, NO_EXECUTE: ALL | XD}.get(
        page, ALL
    )


def long_tables():
    """Four levels; the first 2 MiB are in pages of 4 KiB."""
    tables = [TABLES + level * 0x1000 for level in range(4)]
    pieces = {tables[i]: struct.pack("<Q", tables[i + 1] | ALL) for i in range(3)}
    pages = range(0, RAM_BYTES, 0x1000)
    pieces[tables[3]] = struct.pack(f"<{len(pages)}Q", *(page | rights(page) for page in pages))
    return pieces


def pae_tables():
    """Three levels; the four entries of the first have no rights."""
    levels = [TABLES + level * 0x1000 for level in range(3)]
    pages = range(0, RAM_BYTES, 0x1000)
    entries = struct.pack(f"<{len(pages)}Q", *((page | rights(page)) & ~XD for page in pages))
    return {
        levels[0]: struct.pack("<Q", levels[1] | PRESENT | USED & 0x20),
        levels[1]: struct.pack("<Q", levels[2] | ALL),
        levels[2]: entries,
    }


def legacy_tables():
    """Two levels of 32-bit entries."""
    pages = range(0, RAM_BYTES, 0x1000)
    entries = [(page | rights(page)) & 0xFFFFFFFF for page in pages]
    return {TABLES: struct.pack("<I", TABLES + 0x1000 | ALL), TABLES + 0x1000: struct.pack(f"<{len(pages)}I", *entries)}
