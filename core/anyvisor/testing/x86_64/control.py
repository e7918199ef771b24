"""Control registers, EFER and the descriptor tables: the guest reads what was put, and `get` what the guest wrote."""

from __future__ import annotations

import struct

import attrs

from anyvisor.exits import Halted
from anyvisor.testing.bench import DATA, TABLES
from anyvisor.testing.contracts.contract import Contract, MakeBench
from anyvisor.testing.requirements import needs
from anyvisor.testing.x86_64.entry import WORD_BYTES, give_features
from anyvisor.testing.x86_64.guests import by_mode, by_width, in_every_mode
from anyvisor.x86_64.modes import LONG, REAL
from anyvisor.x86_64.msr_index import Msr
from anyvisor.x86_64.state import DebugRegs, DescriptorTable, Sregs

EFER = int(Msr.EFER)
NAMES = ("cr0", "cr2", "cr3", "cr4", "efer")
FAULT_ADDRESS = {REAL: 0x12345678, "protected": 0x92345678, LONG: 0xFFFF_8000_1234_5678}
TABLE_BASE = {REAL: 0x00345678, "protected": 0x92345678, LONG: 0xFFFF_8000_1234_5678}
"""In real mode LGDT and SGDT have 24 bits of it."""

# fmt: off
STORE_CONTROL = by_mode(
    bytes([0x0F, 0x20, 0xC0, 0x66, 0xAB,        # mov eax, cr0; stosd
           0x0F, 0x20, 0xD0, 0x66, 0xAB,        # mov eax, cr2; stosd
           0x0F, 0x20, 0xD8, 0x66, 0xAB,        # mov eax, cr3; stosd
           0x0F, 0x20, 0xE0, 0x66, 0xAB,        # mov eax, cr4; stosd
           0x66, 0xB9, 0x80, 0x00, 0x00, 0xC0,  # mov ecx, EFER
           0x0F, 0x32,                          # rdmsr
           0x66, 0xAB,                          # stosd
           0xF4]),                              # hlt
    bytes([0x0F, 0x20, 0xC0, 0xAB,        # mov eax, cr0; stosd
           0x0F, 0x20, 0xD0, 0xAB,        # mov eax, cr2; stosd
           0x0F, 0x20, 0xD8, 0xAB,        # mov eax, cr3; stosd
           0x0F, 0x20, 0xE0, 0xAB,        # mov eax, cr4; stosd
           0xB9, 0x80, 0x00, 0x00, 0xC0,  # mov ecx, EFER
           0x0F, 0x32,                    # rdmsr
           0xAB,                          # stosd
           0xF4]),                        # hlt
    bytes([0x0F, 0x20, 0xC0, 0x48, 0xAB,  # mov rax, cr0; stosq
           0x0F, 0x20, 0xD0, 0x48, 0xAB,  # mov rax, cr2; stosq
           0x0F, 0x20, 0xD8, 0x48, 0xAB,  # mov rax, cr3; stosq
           0x0F, 0x20, 0xE0, 0x48, 0xAB,  # mov rax, cr4; stosq
           0xB9, 0x80, 0x00, 0x00, 0xC0,  # mov ecx, EFER
           0x0F, 0x32,                    # rdmsr
           0x48, 0xAB,                    # stosq
           0xF4]))                        # hlt

CHANGE_CONTROL = by_mode(
    bytes([0x0F, 0x22, 0xD3,                    # mov cr2, ebx
           0x0F, 0x20, 0xC0,                    # mov eax, cr0
           0x66, 0x0D, 0x22, 0x00, 0x01, 0x00,  # or eax, 0x10022
           0x0F, 0x22, 0xC0,                    # mov cr0, eax
           0x0F, 0x20, 0xE0,                    # mov eax, cr4
           0x66, 0x83, 0xC8, 0x18,              # or eax, 0x18
           0x0F, 0x22, 0xE0,                    # mov cr4, eax
           0xF4]),                              # hlt
    bytes([0x0F, 0x22, 0xD3,              # mov cr2, ebx
           0x0F, 0x20, 0xC0,              # mov eax, cr0
           0x0D, 0x22, 0x00, 0x01, 0x00,  # or eax, 0x10022
           0x0F, 0x22, 0xC0,              # mov cr0, eax
           0x0F, 0x20, 0xE0,              # mov eax, cr4
           0x83, 0xC8, 0x18,              # or eax, 0x18
           0x0F, 0x22, 0xE0,              # mov cr4, eax
           0xF4]),                        # hlt
    bytes([0x0F, 0x22, 0xD3,              # mov cr2, rbx
           0x0F, 0x20, 0xC0,              # mov rax, cr0
           0x0D, 0x22, 0x00, 0x01, 0x00,  # or eax, 0x10022
           0x0F, 0x22, 0xC0,              # mov cr0, rax
           0x0F, 0x20, 0xE0,              # mov rax, cr4
           0x83, 0xC8, 0x18,              # or eax, 0x18
           0x0F, 0x22, 0xE0,              # mov cr4, rax
           0xF4]))                        # hlt

STORE_TABLES = by_width(
    bytes([0x0F, 0x01, 0x05,        # sgdt [xdi]
           0x0F, 0x01, 0x4D, 0x10,  # sidt [xdi + 16]
           0xF4]),                  # hlt
    bytes([0x0F, 0x01, 0x07,        # sgdt [xdi]
           0x0F, 0x01, 0x4F, 0x10,  # sidt [xdi + 16]
           0xF4]))                  # hlt

LOAD_TABLES = by_width(
    bytes([0x0F, 0x01, 0x14,        # lgdt [xsi]
           0x0F, 0x01, 0x5C, 0x10,  # lidt [xsi + 16]
           0xF4]),                  # hlt
    bytes([0x0F, 0x01, 0x16,        # lgdt [xsi]
           0x0F, 0x01, 0x5E, 0x10,  # lidt [xsi + 16]
           0xF4]))                  # hlt

STORE_DEBUG = by_mode(
    bytes([0x0F, 0x21, 0xC0, 0x66, 0xAB,  # mov eax, dr0; stosd
           0x0F, 0x21, 0xC8, 0x66, 0xAB,  # mov eax, dr1; stosd
           0x0F, 0x21, 0xD0, 0x66, 0xAB,  # mov eax, dr2; stosd
           0x0F, 0x21, 0xD8, 0x66, 0xAB,  # mov eax, dr3; stosd
           0x0F, 0x21, 0xF0, 0x66, 0xAB,  # mov eax, dr6; stosd
           0x0F, 0x21, 0xF8, 0x66, 0xAB,  # mov eax, dr7; stosd
           0xF4]),                        # hlt
    bytes([0x0F, 0x21, 0xC0, 0xAB,  # mov eax, dr0; stosd
           0x0F, 0x21, 0xC8, 0xAB,  # mov eax, dr1; stosd
           0x0F, 0x21, 0xD0, 0xAB,  # mov eax, dr2; stosd
           0x0F, 0x21, 0xD8, 0xAB,  # mov eax, dr3; stosd
           0x0F, 0x21, 0xF0, 0xAB,  # mov eax, dr6; stosd
           0x0F, 0x21, 0xF8, 0xAB,  # mov eax, dr7; stosd
           0xF4]),                  # hlt
    bytes([0x0F, 0x21, 0xC0, 0x48, 0xAB,  # mov rax, dr0; stosq
           0x0F, 0x21, 0xC8, 0x48, 0xAB,  # mov rax, dr1; stosq
           0x0F, 0x21, 0xD0, 0x48, 0xAB,  # mov rax, dr2; stosq
           0x0F, 0x21, 0xD8, 0x48, 0xAB,  # mov rax, dr3; stosq
           0x0F, 0x21, 0xF0, 0x48, 0xAB,  # mov rax, dr6; stosq
           0x0F, 0x21, 0xF8, 0x48, 0xAB,  # mov rax, dr7; stosq
           0xF4]))                        # hlt

LOAD_DEBUG = by_mode(
    bytes([0x0F, 0x23, 0xC0,  # mov dr0, eax
           0x0F, 0x23, 0xCB,  # mov dr1, ebx
           0x0F, 0x23, 0xD1,  # mov dr2, ecx
           0x0F, 0x23, 0xDA,  # mov dr3, edx
           0xF4]),            # hlt
    bytes([0x0F, 0x23, 0xC0,  # mov dr0, eax
           0x0F, 0x23, 0xCB,  # mov dr1, ebx
           0x0F, 0x23, 0xD1,  # mov dr2, ecx
           0x0F, 0x23, 0xDA,  # mov dr3, edx
           0xF4]),            # hlt
    bytes([0x0F, 0x23, 0xC0,  # mov dr0, rax
           0x0F, 0x23, 0xCB,  # mov dr1, rbx
           0x0F, 0x23, 0xD1,  # mov dr2, rcx
           0x0F, 0x23, 0xDA,  # mov dr3, rdx
           0xF4]))            # hlt
# fmt: on


@needs(architecture="x86_64")
class ControlRegistersContract(Contract):
    """CR0 to CR4, EFER, GDTR, IDTR and the debug registers, from both sides."""

    @in_every_mode
    def test_the_guest_reads_the_control_registers_that_were_put(self, bench: MakeBench, mode: str) -> None:
        """MOV from CR0, CR2, CR3 and CR4, and RDMSR of EFER, give what `put(Sregs)` has set, bit by bit."""
        made = bench()
        give_features(made)
        made.enter(STORE_CONTROL, mode, rdi=DATA)
        sregs = made.vcpu.get(Sregs)
        wanted = attrs.evolve(
            sregs,
            cr0=sregs.cr0.replace(mp=True, ne=True, wp=True),
            cr2=FAULT_ADDRESS[mode],
            cr3=TABLES if mode == LONG else 0x00ABC000,
            cr4=sregs.cr4.replace(de=True, pse=True, osfxsr=True),
            efer=sregs.efer.replace(sce=True),
        )
        made.vcpu.put(wanted)
        assert made.run() == Halted()
        size = WORD_BYTES[mode] if mode == LONG else 4
        places = {name: DATA + size * index for index, name in enumerate(NAMES)}
        found = {name: hex(int.from_bytes(made.memory.read(at, size), "little")) for name, at in places.items()}
        assert found == {name: hex(int(getattr(wanted, name))) for name in NAMES}, "what the guest read"

    @in_every_mode
    def test_get_gives_the_control_registers_that_the_guest_has_written(self, bench: MakeBench, mode: str) -> None:
        """Bits that the guest sets in CR0, CR2 and CR4 are in `get(Sregs)`, and no others change."""
        made = bench()
        give_features(made)
        made.enter(CHANGE_CONTROL, mode, rbx=FAULT_ADDRESS[mode])
        before = made.vcpu.get(Sregs)
        assert made.run() == Halted()
        after = made.vcpu.get(Sregs)
        assert after.cr0 == before.cr0.replace(mp=True, ne=True, wp=True)
        assert after.cr4 == before.cr4.replace(de=True, pse=True)
        assert hex(after.cr2) == hex(FAULT_ADDRESS[mode])
        assert (after.cr3, after.efer) == (before.cr3, before.efer)

    @in_every_mode
    def test_the_guest_stores_the_tables_that_were_put(self, bench: MakeBench, mode: str) -> None:
        """SGDT and SIDT store the bases and limits of `put(Sregs)`."""
        base, size = TABLE_BASE[mode], 8 if mode == LONG else 4
        gdt, idt = DescriptorTable(base, 0x1237), DescriptorTable(base + 0x1000, 0x0FFF)
        made = bench()
        made.enter(STORE_TABLES, mode, rdi=DATA)
        made.vcpu.put(attrs.evolve(made.vcpu.get(Sregs), gdt=gdt, idt=idt))
        assert made.run() == Halted()
        for name, table, at in (("SGDT", gdt, DATA), ("SIDT", idt, DATA + 16)):
            limit = int.from_bytes(made.memory.read(at, 2), "little")
            stored = int.from_bytes(made.memory.read(at + 2, size), "little")
            assert (hex(stored), hex(limit)) == (hex(table.base), hex(table.limit)), f"{name}: base and limit"

    @in_every_mode
    def test_get_gives_the_tables_that_the_guest_has_loaded(self, bench: MakeBench, mode: str) -> None:
        """LGDT and LIDT change what `get(Sregs)` gives."""
        base = TABLE_BASE[mode]
        made = bench()
        made.memory.write(DATA, struct.pack("<HQ", 0x37, base))
        made.memory.write(DATA + 16, struct.pack("<HQ", 0x3FF, base + 0x1000))
        made.enter(LOAD_TABLES, mode, rsi=DATA)
        assert made.run() == Halted()
        sregs = made.vcpu.get(Sregs)
        assert (sregs.gdt, sregs.idt) == (DescriptorTable(base, 0x37), DescriptorTable(base + 0x1000, 0x3FF))

    @in_every_mode
    @needs(states=(DebugRegs,))
    def test_the_guest_reads_the_debug_registers_that_were_put(self, bench: MakeBench, mode: str) -> None:
        """MOV from DR0 to DR3, DR6 and DR7."""
        wanted = DebugRegs(db=(0x1111, 0x2222, 0x3333, 0x4444), dr6=0xFFFF0FF1, dr7=0x700)
        made = bench()
        made.enter(STORE_DEBUG, mode, rdi=DATA)
        made.vcpu.put(wanted)
        assert made.run() == Halted()
        size = 8 if mode == LONG else 4
        found = [int.from_bytes(made.memory.read(DATA + size * index, size), "little") for index in range(6)]
        assert list(map(hex, found)) == list(map(hex, (*wanted.db, wanted.dr6, wanted.dr7)))

    @in_every_mode
    @needs(states=(DebugRegs,))
    def test_get_gives_the_debug_registers_that_the_guest_has_written(self, bench: MakeBench, mode: str) -> None:
        """DR0 to DR3 of the guest are those of `get(DebugRegs)`."""
        made = bench()
        made.enter(LOAD_DEBUG, mode, rax=0x1111, rbx=0x2222, rcx=0x3333, rdx=0x4444)
        assert made.run() == Halted()
        assert made.vcpu.get(DebugRegs).db == (0x1111, 0x2222, 0x3333, 0x4444)
