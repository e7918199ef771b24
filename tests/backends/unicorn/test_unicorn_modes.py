"""The modes of the processor: what is put decides in which one the guest's code runs."""

import struct

import attrs
import pytest
from emulated_guests import CODE, HALT, STACK, TABLES, assemble
from event_code import link

from anyvisor.exits import Halted
from anyvisor.x86_64.control import Cr0, Cr4, Efer
from anyvisor.x86_64.state import (
    Regs,
    SegmentRegister,
    Sregs,
)


def in_mode(made, bits, **sregs):
    """At CODE in a mode without paging."""
    data = SegmentRegister(limit=0xFFFFFFFF if bits == 32 else 0xFFFF, type=3, s=True, present=True, g=bits == 32,
                           db=bits == 32, selector=0x18 if bits == 32 else 0)  # fmt: skip
    code = attrs.evolve(data, type=0xB, selector=0x10 if bits == 32 else 0)
    made.vcpu.put(attrs.evolve(
        made.vcpu.get(Sregs), cs=code, **dict.fromkeys(("ds", "es", "fs", "gs", "ss"), data),
        **{"cr0": Cr0(et=True, pe=bits == 32), "cr4": Cr4(0), "efer": Efer(0), "cr3": 0, **sregs},
    ))  # fmt: skip
    made.vcpu.put(Regs(rip=CODE, rsp=STACK, rax=0x11111111))


def code(made, bits, source):
    made.memory.write(CODE, link(f".code{bits}\n{source}\n", CODE))


def test_real_mode_code_runs_in_16_bits(any_guest):
    made = any_guest()
    code(made, 16, "mov $0xFFFF, %ax; inc %ax; mov %ax, 0x2000; mov %sp, 0x2002; pushw $7; smsw 0x2004; cli; hlt")
    in_mode(made, 16)
    assert made.vcpu.run(made.bus) == Halted()
    assert struct.unpack("<HHH", made.memory.read(0x2000, 6)) == (0, STACK, 0x10)
    assert made.memory.read(STACK - 2, 2) == b"\x07\0"


def test_real_mode_segments_have_the_bases_that_were_put(any_guest):
    made = any_guest()
    code(made, 16, "movb $7, 0x10; mov %ds, %ax; movb $8, %es:0x10; cli; hlt")
    in_mode(made, 16)
    state = made.vcpu.get(Sregs)
    made.vcpu.put(attrs.evolve(state, ds=attrs.evolve(state.ds, base=0x30000, selector=0x3000),
                               es=attrs.evolve(state.es, base=0x54321, selector=0x9999)))  # fmt: skip
    assert made.vcpu.run(made.bus) == Halted()
    assert (made.memory.read(0x30010, 1), made.memory.read(0x54331, 1)) == (b"\x07", b"\x08")
    assert made.vcpu.get(Regs).rax & 0xFFFF == 0x3000


def test_code_lies_where_the_base_of_cs_says(any_guest):
    made = any_guest()
    made.memory.write(0xF0000 + 0xFFF0, link(".code16\nmovw $5, 0x2000\ncli\nhlt\n", 0xFFF0))
    in_mode(made, 16)
    state = made.vcpu.get(Sregs)
    made.vcpu.put(attrs.evolve(state, cs=attrs.evolve(state.cs, base=0xF0000, selector=0xF000)))
    made.vcpu.put(Regs(rip=0xFFF0))
    assert made.vcpu.run(made.bus) == Halted()
    assert made.memory.read(0x2000, 1) == b"\x05"
    assert made.vcpu.get(Regs).rip == 0xFFF0 + 8


def test_protected_mode_code_runs_in_32_bits_and_so_does_its_stack(any_guest):
    made = any_guest()
    code(made, 32, "mov $0xFFFFFFFF, %eax; inc %eax; mov %eax, 0x2000; push $7; mov %esp, 0x2004; cli; hlt")
    in_mode(made, 32)
    made.vcpu.put(Regs(rip=CODE, rsp=0x20000))
    assert made.vcpu.run(made.bus) == Halted()
    assert struct.unpack("<II", made.memory.read(0x2000, 8)) == (0, 0x20000 - 4)
    assert made.memory.read(0x20000 - 4, 4) == b"\x07\0\0\0"


@pytest.mark.parametrize("bits", [16, 32])
def test_the_first_mode_of_a_vcpu_may_be_any(any_guest, bits):
    made = any_guest(fresh=True)
    code(made, bits, "mov $0xFFFF, %ax; inc %ax; mov %ax, 0x2000; cli; hlt")
    in_mode(made, bits)
    sregs = made.vcpu.get(Sregs)
    assert sregs.efer == Efer(0)
    assert made.vcpu.run(made.bus) == Halted()
    assert made.memory.read(0x2000, 2) == b"\0\0"
    assert made.vcpu.get(Sregs) == sregs


@pytest.mark.parametrize("base", [0, 0x20000])
def test_protected_mode_segments_have_the_bases_that_were_put(any_guest, base):
    """Flat segments are a mode of the engine's own, which must follow."""
    made = any_guest()
    code(made, 32, "movl $7, 0x2000; movl $8, %fs:0x3000; cli; hlt")
    in_mode(made, 32)
    state = made.vcpu.get(Sregs)
    made.vcpu.put(attrs.evolve(state, ds=attrs.evolve(state.ds, base=base), fs=attrs.evolve(state.fs, base=0x40000)))
    made.vcpu.put(Regs(rip=CODE))
    assert made.vcpu.run(made.bus) == Halted()
    assert (made.memory.read(base + 0x2000, 1), made.memory.read(0x43000, 1)) == (b"\x07", b"\x08")


def test_paging_of_32_bits_is_entered_by_put(any_guest):
    made = any_guest()
    made.memory.write(TABLES, struct.pack("<1024I", *[0x83] * 1024))
    code(made, 32, "movl $7, 0x402000; cli; hlt")  # every 4 MiB are the first 4
    in_mode(made, 32, cr0=Cr0(et=True, pe=True, pg=True), cr3=TABLES, cr4=Cr4(pse=True))
    assert made.vcpu.run(made.bus) == Halted()
    assert made.memory.read(0x2000, 1) == b"\x07"


def test_pae_paging_is_entered_by_put(any_guest):
    made = any_guest()
    made.memory.write(TABLES, struct.pack("<4Q", *[TABLES + 0x1001] * 4))
    made.memory.write(TABLES + 0x1000, struct.pack("<512Q", *[0x83] * 512))
    code(made, 32, "movl $7, 0xC0202000; cli; hlt")
    in_mode(made, 32, cr0=Cr0(et=True, pe=True, pg=True), cr3=TABLES, cr4=Cr4(pae=True))
    assert made.vcpu.run(made.bus) == Halted()
    assert made.memory.read(0x2000, 1) == b"\x07"


def test_compatibility_mode_is_entered_by_put(any_guest):
    made = any_guest()
    code(made, 32, "mov $0xFFFFFFFF, %eax; inc %eax; mov %eax, 0x2000; .byte 0x48; movl $9, 0x2008; cli; hlt")
    state = made.vcpu.get(Sregs)
    made.vcpu.put(attrs.evolve(state, cs=attrs.evolve(state.cs, l=False, db=True)))
    made.vcpu.put(Regs(rip=CODE, rsp=STACK, rax=5))
    assert made.vcpu.run(made.bus) == Halted()
    assert struct.unpack("<I4xI", made.memory.read(0x2000, 12)) == (0, 9)  # 0x48 is `dec %eax` there
    assert made.vcpu.get(Regs).rax == 0xFFFFFFFF


@pytest.mark.parametrize("privilege", [0, 3])
def test_the_privilege_level_is_that_of_ss(any_guest, privilege):
    """A privileged instruction faults at level 3."""
    made = any_guest(f"mov %cr0, %rax; movq $1, DATA; {HALT}", handlers={13: "movq $2, DATA; hlt"})
    user = {0: 0x83, 3: 0x87}[privilege]
    made.memory.write(TABLES, struct.pack("<Q", TABLES + 0x1000 | 7))
    made.memory.write(TABLES + 0x1000, struct.pack("<Q", user))
    made.memory.write(0xE000, struct.pack("<IQ", 0, STACK))
    state = made.vcpu.get(Sregs)
    made.vcpu.put(attrs.evolve(
        state, cs=attrs.evolve(state.cs, dpl=privilege, selector=0x10 | privilege),
        ss=attrs.evolve(state.ss, dpl=privilege, selector=0x18 | privilege), tr=attrs.evolve(state.tr, base=0xE000),
    ))  # fmt: skip
    assert made.vcpu.run(made.bus) == Halted()
    assert made.word() == (2 if privilege else 1)


@pytest.mark.parametrize("way", ["real", "protected", "compatibility"])
def test_a_vcpu_that_ran_in_long_mode_can_be_put_into_another_mode_and_back(any_guest, way):
    made = any_guest(f"movq $1, DATA; {HALT}")
    assert made.run() == Halted()
    bits = 16 if way == "real" else 32
    code(made, bits, "mov $0x1234, %ax; mov %ax, 0x2000; cli; hlt")
    if way == "compatibility":
        state = made.vcpu.get(Sregs)
        made.vcpu.put(attrs.evolve(state, cs=attrs.evolve(state.cs, l=False, db=True)))
        made.vcpu.put(Regs(rip=CODE))
    else:
        in_mode(made, bits)
    assert made.vcpu.run(made.bus) == Halted()
    assert made.memory.read(0x2000, 2) == b"\x34\x12"
    made.load(f"mov $0x123456789, %rax; mov %rax, DATA; {HALT}")
    made.enter()
    assert made.vcpu.run(made.bus) == Halted()
    assert made.word() == 0x123456789


def test_the_tss_that_was_put_is_where_the_guest_finds_its_stack(any_guest):
    assert assemble("nop") == b"\x90"
    made = any_guest(f"int $0x30; {HALT}", handlers={0x30: "mov %rsp, DATA; iretq"})
    made.memory.write(0xA000 + 0x30 * 16 + 4, b"\x01")  # IST1
    made.memory.write(0xE000 + 36, struct.pack("<Q", 0x20000))
    state = made.vcpu.get(Sregs)
    made.vcpu.put(attrs.evolve(state, tr=attrs.evolve(state.tr, base=0xE000)))
    assert made.vcpu.run(made.bus) == Halted()
    assert made.word() == 0x20000 - 40
