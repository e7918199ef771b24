"""Offences of the processor's state and of what it walks: registers, entry, page tables, stack, GDT."""

import attrs
from boot_plans import (
    ENTRY,
    all_of,
    content,
    header,
    moved,
    number,
    piece,
    poke,
    regs,
    sregs,
    unchanged,
    with_fields,
)

from anyvisor.memory import MIB
from anyvisor.x86_64.control import Cr0, Cr4, Efer, Rflags
from anyvisor.x86_64.cpuid import Cpuid
from anyvisor.x86_64.features import Feature
from anyvisor.x86_64.gdt import BOOT_GDT, FLAT32_GDT
from anyvisor.x86_64.state import DescriptorTable

RAM_END = 256 * MIB
PRESENT, LARGE, NO_EXECUTE, USER = 1, 0x80, 1 << 63, 4
PML4, PDPT, PD = 0x9000, 0xA000, 0xB000
ENTRY_SLOT = PD + 8 * (ENTRY >> 21)

PROTECTED = sregs(
    cr0=Cr0(pe=True, et=True),
    cr4=Cr4(0),
    efer=Efer(0),
    cs=FLAT32_GDT.register(0x10),
    tr=FLAT32_GDT.register(0x20),
)
FLAT_GDT = content("GDT", FLAT32_GDT.to_bytes())
LONG = sregs(
    cr0=Cr0(pe=True, et=True, pg=True),
    cr4=Cr4(pae=True),
    efer=Efer(lme=True, lma=True),
    cr3=PML4,
    cs=BOOT_GDT.register(0x10),
    tr=BOOT_GDT.register(0x20),
    gdt=DescriptorTable(0x500, BOOT_GDT.limit_bytes),
)
TABLES_2M = b"".join(
    [
        (PDPT | 3).to_bytes(8, "little").ljust(4096, b"\0"),
        (PD | 3).to_bytes(8, "little").ljust(4096, b"\0"),
        b"".join((slot << 21 | 0x83).to_bytes(8, "little") for slot in range(512)),
    ]
)
TO_LONG = all_of(LONG, content("GDT", BOOT_GDT.to_bytes()), piece(PML4, TABLES_2M, "tables"))
"""What a plan of protected mode needs to be one of long mode."""


NXE = sregs(efer=Efer(lme=True, lma=True, nxe=True))


def as_data(register):
    return attrs.evolve(register, type=3)


def without_1g(plan):
    first = plan.vcpus[0]
    cpuid = first.state(Cpuid)
    new = tuple(cpuid.without(Feature.PDPE1GB) if each is cpuid else each for each in first.states)
    return attrs.evolve(plan, vcpus=(attrs.evolve(first, states=new), *plan.vcpus[1:]))


CASES = [
    # check, what it is, plan, offence, near miss
    ("protocol-mode", "real mode", "bzimage", sregs(cr0=Cr0(et=True), cr3=0, efer=Efer(0), cs=with_fields(l=False)),
     unchanged),
    ("protocol-mode, gdt-agrees", "compatibility", "vmlinux", sregs(cs=with_fields(l=False, db=True)), unchanged),
    ("protocol-mode", "PVH in long mode", "pvh", TO_LONG, unchanged),
    ("protocol-mode", "multiboot in long mode", "multiboot", TO_LONG, unchanged),
    ("protocol-flags", "interrupts on", "bzimage", regs(rflags=Rflags(fixed=True, interrupt_enable=True)),
     regs(rflags=Rflags(fixed=True, zf=True))),
    ("protocol-flags", "single step", "pvh", regs(rflags=Rflags(fixed=True, tf=True)),
     regs(rflags=Rflags(fixed=True, cf=True))),
    ("protocol-segments, gdt-agrees", "data in CS", "bzimage", sregs(cs=as_data), unchanged),
    ("protocol-segments, gdt-agrees", "1 MiB only", "pvh", sregs(ds=with_fields(limit=0xFFFFF)), unchanged),
    ("protocol-segments, gdt-agrees", "read-only stack", "multiboot", sregs(ss=with_fields(type=1)), unchanged),
    ("boot-selectors", "those of others", "vmlinux",
     all_of(content("GDT", lambda old: bytes(8) + old[16:]),
            sregs(cs=with_fields(selector=8), tr=with_fields(selector=0x18),
                  **dict.fromkeys(("ds", "es", "fs", "gs", "ss"), with_fields(selector=0x10)))),
     sregs(fs=with_fields(selector=0, unusable=True))),
    ("protocol-registers", "EBP", "bzimage32", regs(rbp=0x8000), regs(rcx=0x8000)),
    ("protocol-registers", "CR4", "pvh", sregs(cr4=Cr4(pae=True)), sregs(cr0=Cr0(pe=True))),
    # the entry
    ("entry-mapped", "not present", "bzimage", number(ENTRY_SLOT, "Q", 0), number(PD + 8 * 511, "Q", 0)),
    ("entry-mapped", "no-execute", "vmlinux",
     all_of(NXE, number(ENTRY_SLOT, "Q", ENTRY | 0x83 | NO_EXECUTE)),
     all_of(NXE, number(ENTRY_SLOT + 8, "Q", ENTRY + 0x200083 | NO_EXECUTE))),
    ("entry-mapped", "a user page under SMEP", "raw",
     all_of(sregs(cr4=Cr4(pae=True, smep=True)),
            *(number(at, "Q", value | USER) for at, value in ((PML4, PDPT | 3), (PDPT, PD | 3), (PD, 0x83)))),
     all_of(sregs(cr4=Cr4(pae=True, smep=True)), number(PD, "Q", 0x83 | USER))),
    ("entry-mapped", "not canonical", "raw", regs(rip=1 << 50), unchanged),
    ("entry-in-ram", "the MMIO gap", "raw-protected", regs(rip=0xC0000000), regs(rip=0x100020)),
    ("entry-in-ram", "RAM's end", "raw", regs(rip=RAM_END), unchanged),
    ("entry-loaded", "behind the image", "raw", regs(rip=0x100040), regs(rip=0x10003F)),
    ("entry-loaded", "0x200 too low", "vmlinux", moved("rip", -0x200), unchanged),
    ("entry-code", "zeros", "raw", content("raw image", bytes(64)), content("raw image", bytes(15) + b"\xf4" * 49)),
    ("entry-code", "ones", "raw-real", content("raw image", b"\xff" * 64), unchanged),
    ("entry-point", "32-bit entry in long mode", "bzimage", moved("rip", -0x200), unchanged),
    ("entry-point", "0x200 too high", "bzimage", moved("rip", 0x200), unchanged),
    ("entry-point", "64-bit entry in protected mode", "bzimage32", moved("rip", 0x200), unchanged),
    ("entry-point", "inside Linux's text", "vmlinux", moved("rip", 0x200),
     all_of(moved("rip", 0x200), poke(ENTRY + 0x400, b"Other"))),
    ("entry-point", "not the note's", "pvh", moved("rip", 16), moved("r8", 16)),
    ("entry-point", "no 64-bit entry", "bzimage", header(xloadflags=2), header(xloadflags=3)),
    ("entry-bits", "64-bit code in protected mode", "vmlinux", all_of(PROTECTED, FLAT_GDT, regs(rsi=0x7000, rbp=0)),
     all_of(PROTECTED, FLAT_GDT, regs(rbp=0), poke(ENTRY, b"\xfc\xfa"))),
    # page tables
    ("page-tables-in-ram", "CR3", "bzimage", sregs(cr3=RAM_END), sregs(cr3=PML4 | 0x18)),
    ("page-tables-in-ram", "an entry", "bzimage", number(PDPT + 24, "Q", RAM_END | 3), number(PDPT + 24, "Q", 2)),
    ("page-tables-in-ram", "beyond 4 GiB", "raw", number(PML4 + 8, "Q", 1 << 33 | 3), number(PML4 + 8, "Q", 0x9003)),
    ("page-tables-reserved", "address bits", "bzimage", number(PD + 8 * 100, "Q", 100 << 21 | 1 << 50 | 0x83),
     number(PD + 8 * 100, "Q", 100 << 21 | 0x9E3)),
    ("page-tables-reserved", "no-execute without NXE", "raw", number(PD + 8 * 100, "Q", 100 << 21 | NO_EXECUTE | 0x83),
     all_of(NXE, number(PD + 8 * 100, "Q", 100 << 21 | NO_EXECUTE | 0x83))),
    ("page-tables-reserved", "a 1 GiB page", "raw", all_of(without_1g, number(PDPT + 24, "Q", 3 << 30 | 0x83)),
     number(PDPT + 16, "Q", PD + 0x2000 | 3)),
    ("page-tables-reserved", "a big page off its boundary", "raw", number(PD + 8 * 100, "Q", 100 << 21 | 0x4083),
     all_of(number(PD + 8 * 101, "Q", 0), number(PD + 8 * 100, "Q", 100 << 21 | 0x1083))),
    ("page-tables-reserved", "page-size bit at the top", "raw", number(PML4 + 8, "Q", LARGE | PRESENT),
     number(PML4 + 8, "Q", LARGE)),
    # what is reached
    ("page-tables-identity", "the kernel's memory", "bzimage", number(ENTRY_SLOT + 16, "Q", 0x83),
     number(ENTRY_SLOT + 32, "Q", 0x83)),
    ("gdt-mapped", "elsewhere", "raw", sregs(gdt=DescriptorTable(1 << 40, 47)), unchanged),
    ("stack-mapped", "beyond the map", "raw", regs(rsp=1 << 40), regs(rsp=RAM_END)),
    ("stack-in-ram", "behind RAM", "raw-protected", regs(rsp=RAM_END + 0x100), regs(rsp=RAM_END)),
    ("stack-in-ram", "over the page tables", "raw", regs(rsp=PML4 + 8), regs(rsp=PML4)),
    ("stack-in-ram", "over the code", "raw-real", regs(rsp=0x7C20), regs(rsp=0x7C00)),
    ("stack-in-ram", "over the zero page", "bzimage", regs(rsp=0x7100), regs(rsp=0x7000)),
    # the GDT
    ("gdt-in-ram", "behind RAM", "raw-protected", sregs(gdt=DescriptorTable(RAM_END, 47)), unchanged),
    ("gdt-limit", "short by a byte", "bzimage", sregs(gdt=DescriptorTable(0x500, 46)),
     sregs(gdt=DescriptorTable(0x500, 47))),
    ("gdt-limit", "half a TSS", "bzimage", sregs(gdt=DescriptorTable(0x500, 39)), unchanged),
    ("gdt-limit", "a selector beyond", "raw", sregs(fs=with_fields(selector=0x30)),
     sregs(fs=with_fields(selector=0, unusable=True, present=False))),
    ("gdt-agrees", "another DPL", "raw", sregs(ds=with_fields(dpl=3)), sregs(ds=with_fields(limit=0, base=5))),
    ("gdt-agrees", "another base", "raw-protected", sregs(ds=with_fields(base=0x1000)),
     sregs(ds=with_fields(type=2))),
    ("gdt-agrees", "a null descriptor", "raw", sregs(ds=with_fields(selector=8)), sregs(ds=with_fields(selector=0))),
    ("gdt-agrees", "the TSS's descriptor", "raw", poke(0x525, b"\x00"), poke(0x525, b"\x89")),
    ("gdt-agrees", "CS without L in the table", "raw", content("GDT", FLAT32_GDT.to_bytes() + bytes(8)), unchanged),
]  # fmt: skip
