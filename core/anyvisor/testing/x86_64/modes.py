"""The processor's modes: code means in each what the manual says, and a guest can change from one to the next."""

from __future__ import annotations

import struct

from anyvisor.exits import Halted
from anyvisor.testing.bench import CODE, DATA, STACK, TABLES
from anyvisor.testing.contracts.contract import Contract, MakeBench
from anyvisor.testing.guest import TinyGuest
from anyvisor.testing.requirements import needs
from anyvisor.testing.x86_64.entry import WORD_BYTES, give_features, map_first_gib, pushed
from anyvisor.testing.x86_64.guests import by_mode, by_width, everywhere, in_every_mode
from anyvisor.x86_64.gdt import Gdt, Segment
from anyvisor.x86_64.modes import LONG, PROTECTED, REAL
from anyvisor.x86_64.state import DescriptorTable, Regs, Sregs

GDT_AT, GDTR_AT = 0x5000, 0x5100
GDT = Gdt(Segment.null(), Segment.code(bits=32), Segment.data(), Segment.code(bits=64))
CODE32, DATA32, CODE64 = (GDT.selector(index) for index in (1, 2, 3))
MARK32, MARK64 = 0x50524F54, 0x1122334455667788

# fmt: off
WHICH_MODE = by_mode(
    bytes([0x31, 0xC0,  # xor ax, ax
           0x48,        # dec ax
           0xAB,        # stosw
           0xF4]),      # hlt
    bytes([0x31, 0xC0,  # xor eax, eax
           0x48,        # dec eax
           0xAB,        # stosd
           0xF4]),      # hlt
    bytes([0x31, 0xC0,  # xor eax, eax
           0x48, 0xAB,  # stosq
           0xF4]))      # hlt

PUSH = everywhere(
    bytes([0x6A, 0x07,  # push 7
           0x54,        # push xsp
           0xF4]))      # hlt

STORE_TO_XDI = by_width(
    bytes([0x88, 0x05,  # mov [xdi], al
           0xF4]),      # hlt
    bytes([0x88, 0x07,  # mov [xdi], al
           0xF4]))      # hlt

ONLY_64_BIT = TinyGuest({
    LONG: bytes([0x48, 0x8D, 0x05, 0x00, 0x00, 0x00, 0x00,                    # lea rax, [rip]
                 0x50,                                                        # push rax
                 0x49, 0xB8, 0x88, 0x77, 0x66, 0x55, 0x44, 0x33, 0x22, 0x11,  # mov r8, MARK64
                 0x41, 0x50,                                                  # push r8
                 0x4D, 0x89, 0xC7,                                            # mov r15, r8
                 0x49, 0xF7, 0xD7,                                            # not r15
                 0x41, 0x57,                                                  # push r15
                 0xF4])})                                                     # hlt

TO_PROTECTED = TinyGuest({
    REAL: bytes([0x0F, 0x01, 0x16, 0x00, 0x51,                                # lgdt [GDTR_AT]
                 0x0F, 0x20, 0xC0,                                            # mov eax, cr0
                 0x0C, 0x01,                                                  # or al, 1
                 0x0F, 0x22, 0xC0,                                            # mov cr0, eax
                 0xEA, 0x12, 0x10, 0x08, 0x00,                                # jmp CODE32:protected
                                                                              # .code32
                 0xB8, 0x10, 0x00, 0x00, 0x00,                                # protected: mov eax, DATA32
                 0x8E, 0xD8,                                                  # mov ds, eax
                 0x8E, 0xC0,                                                  # mov es, eax
                 0x8E, 0xD0,                                                  # mov ss, eax
                 0xC7, 0x05, 0x00, 0x40, 0x00, 0x00, 0x54, 0x4F, 0x52, 0x50,  # mov dword ptr [DATA], MARK32
                 0xF4])})                                                     # hlt

TO_LONG = TinyGuest({
    PROTECTED: bytes([0x0F, 0x20, 0xE0,                                            # mov eax, cr4
                      0x0C, 0x20,                                                  # or al, 0x20
                      0x0F, 0x22, 0xE0,                                            # mov cr4, eax
                      0xB8, 0x00, 0x90, 0x00, 0x00,                                # mov eax, TABLES
                      0x0F, 0x22, 0xD8,                                            # mov cr3, eax
                      0xB9, 0x80, 0x00, 0x00, 0xC0,                                # mov ecx, 0xC0000080
                      0x0F, 0x32,                                                  # rdmsr
                      0x80, 0xCC, 0x01,                                            # or ah, 1
                      0x0F, 0x30,                                                  # wrmsr
                      0x0F, 0x20, 0xC0,                                            # mov eax, cr0
                      0x0D, 0x00, 0x00, 0x00, 0x80,                                # or eax, 0x80000000
                      0x0F, 0x22, 0xC0,                                            # mov cr0, eax
                      0xEA, 0x2E, 0x10, 0x00, 0x00, 0x18, 0x00,                    # jmp CODE64:long_mode
                                                                                   # .code64
                      0x48, 0xB8, 0x88, 0x77, 0x66, 0x55, 0x44, 0x33, 0x22, 0x11,  # long_mode: mov rax, MARK64
                      0x48, 0xA3, 0x08, 0x40, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00,  # movabs [DATA + 8], rax
                      0xF4])})                                                     # hlt
# fmt: on


@needs(architecture="x86_64")
class ModesContract(Contract):
    """Real, protected and long mode, entered by `put(Sregs)` and by the guest itself."""

    @in_every_mode
    def test_the_same_bytes_mean_what_they_mean_in_that_mode(self, bench: MakeBench, mode: str) -> None:
        """0x48 is DEC AX, DEC EAX or a prefix: the guest stores 2, 4 or 8 bytes."""
        made = bench()
        made.memory.write(DATA, b"\xcc" * 8)
        made.enter(WHICH_MODE, mode, rdi=DATA)
        assert made.run() == Halted()
        stored = made.memory.read(DATA, 8).hex()
        expected = {REAL: "ff" * 2 + "cc" * 6, PROTECTED: "ff" * 4 + "cc" * 4, LONG: "00" * 8}
        ran_in = [name for name, value in expected.items() if value == stored]
        assert stored == expected[mode], f"entered in {mode} mode, the code ran in {ran_in}"

    @in_every_mode
    def test_the_stack_has_the_width_of_the_mode(self, bench: MakeBench, mode: str) -> None:
        """PUSH moves the stack pointer by 2, 4 or 8 bytes."""
        made = bench()
        made.enter(PUSH, mode)
        assert made.run() == Halted()
        assert pushed(made, mode, 2) == [7, STACK - WORD_BYTES[mode]]

    @in_every_mode
    def test_addresses_have_the_width_of_the_mode(self, bench: MakeBench, mode: str) -> None:
        """Of RDI, 16, 32 or 64 bits are an address."""
        above = {REAL: 1 << 16, PROTECTED: 1 << 32, LONG: 1 << 20}[mode]
        made = bench()
        made.enter(STORE_TO_XDI, mode, rdi=above | DATA, rax=0x77)
        assert made.run() == Halted()
        assert made.memory.read(DATA, 1) == (b"\0" if mode == LONG else b"\x77")
        assert made.bus.unclaimed == ({("mmio", above | DATA): 1} if mode == LONG else {})

    def test_long_mode_has_16_registers_and_addresses_relative_to_rip(self, bench: MakeBench) -> None:
        """RIP-relative addressing, and R8 to R15, are long mode's alone."""
        made = bench()
        made.enter(ONLY_64_BIT, LONG)
        assert made.run() == Halted()
        behind_lea = CODE + 7
        assert pushed(made, LONG, 3) == [behind_lea, MARK64, MARK64 ^ (1 << 64) - 1]

    def test_a_guest_goes_from_real_to_protected_to_long_mode(self, bench: MakeBench) -> None:
        """The switch by the guest's own code works, and `get(Sregs)` shows where it has come to."""
        made = bench()
        give_features(made)
        made.memory.write(GDT_AT, GDT.to_bytes())
        made.memory.write(GDTR_AT, struct.pack("<HI", GDT.limit_bytes, GDT_AT))
        made.enter(TO_PROTECTED, REAL)
        assert made.run() == Halted()
        assert made.memory.read(DATA, 4) == struct.pack("<I", MARK32), "it has not come to protected mode"
        sregs = made.vcpu.get(Sregs)
        assert (sregs.cr0.pe, sregs.cr0.pg, sregs.efer.lma) == (True, False, False)
        assert (sregs.cs.selector, sregs.cs.base, sregs.cs.limit, sregs.cs.db) == (CODE32, 0, 0xFFFFFFFF, True)
        assert (sregs.ss.selector, sregs.ds.selector) == (DATA32, DATA32)
        assert sregs.gdt == DescriptorTable(GDT_AT, GDT.limit_bytes)
        map_first_gib(made)
        made.memory.write(CODE, TO_LONG.code[PROTECTED])
        made.vcpu.put(Regs(rip=CODE, rsp=STACK))
        assert made.run() == Halted()
        assert made.memory.read(DATA + 8, 8) == struct.pack("<Q", MARK64), "it has not come to long mode"
        sregs = made.vcpu.get(Sregs)
        assert (sregs.cr0.pe, sregs.cr0.pg, sregs.cr4.pae) == (True, True, True)
        assert (sregs.efer.lme, sregs.efer.lma) == (True, True)
        assert (sregs.cs.selector, sregs.cs.l, sregs.cr3) == (CODE64, True, TABLES)
