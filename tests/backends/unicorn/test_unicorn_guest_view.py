"""State by type: what is put is what the guest itself sees, and what it does there is got."""

import struct

import attrs
import pytest
from emulated_guests import CODE, DATA, HALT, Guest
from hypothesis import given
from hypothesis import strategies as st
from random_states import CANONICAL, GENERAL, MANY, U16, U64, flags, fpus, tables

from anyvisor.exits import Halted
from anyvisor.x86_64.control import Cr4, Efer
from anyvisor.x86_64.msr_index import Msr
from anyvisor.x86_64.msrs import Msrs
from anyvisor.x86_64.state import (
    DescriptorTable,
    Fpu,
    Regs,
    SegmentRegister,
    Sregs,
)
from anyvisor_unicorn.hypervisor import open_unicorn

STORE_GENERAL = "".join(f"mov %{name}, DATA + {i * 8}\n" for i, name in enumerate(GENERAL))
LOAD_GENERAL = "".join(f"mov DATA + {i * 8}, %{name}\n" for i, name in enumerate(GENERAL))


@MANY
@given(st.tuples(*[U64] * len(GENERAL)))
def test_the_guest_has_the_registers_that_were_put(any_guest_once, values):
    made = any_guest_once
    made.load(f"{STORE_GENERAL} {HALT}")
    made.vcpu.put(Regs(rip=CODE, **dict(zip(GENERAL, values, strict=True))))
    assert made.vcpu.run(made.bus) == Halted()
    assert struct.unpack(f"<{len(GENERAL)}Q", made.memory.read(DATA, len(GENERAL) * 8)) == values


@MANY
@given(st.tuples(*[U64] * len(GENERAL)))
def test_what_the_guest_puts_into_registers_is_got(any_guest_once, values):
    made = any_guest_once
    made.load(f"{LOAD_GENERAL} {HALT}")
    made.memory.write(DATA, struct.pack(f"<{len(GENERAL)}Q", *values))
    made.vcpu.put(Regs(rip=CODE))
    assert made.vcpu.run(made.bus) == Halted()
    got = made.vcpu.get(Regs)
    assert tuple(getattr(got, name) for name in GENERAL) == values


@pytest.fixture(scope="module", params=["fast", "counted"])
def any_guest_once(request):
    """One guest for all examples of a test."""
    with open_unicorn(request.param) as hypervisor:
        made = Guest(hypervisor)
        yield made
        made.close()


@MANY
@given(flags())
def test_the_guest_has_the_flags_that_were_put(any_guest_once, wanted):
    made = any_guest_once
    wanted = wanted.replace(tf=False, vif=False, vip=False)
    made.load(f"pushf; pop DATA; {HALT}")
    made.enter(rflags=wanted)
    assert made.vcpu.run(made.bus) == Halted()
    assert made.word() == int(wanted)


@MANY
@given(flags())
def test_the_flags_that_the_guest_sets_are_got(any_guest_once, wanted):
    made = any_guest_once
    wanted = wanted.replace(tf=False, vif=False, vip=False, interrupt_enable=False)
    made.load("push DATA; popf; hlt")
    made.memory.write(DATA, int(wanted).to_bytes(8, "little"))
    made.enter()
    assert made.vcpu.run(made.bus) == Halted()
    assert made.vcpu.get(Regs).rflags == wanted


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("mov $1, %eax; sub $2, %eax", {"cf": True, "sf": True, "zf": False, "af": True, "pf": True, "of": False}),
        ("xor %eax, %eax", {"zf": True, "pf": True, "cf": False, "sf": False, "of": False}),
        ("mov $0x7FFFFFFF, %eax; add $1, %eax", {"of": True, "sf": True, "cf": False, "zf": False}),
        ("std; stc", {"df": True, "cf": True}),
    ],
)
def test_flags_that_the_engine_has_not_computed_yet_are_got(any_guest, source, expected):
    made = any_guest(f"{source}; hlt")
    assert made.run() == Halted()
    got = made.vcpu.get(Regs).rflags
    assert {name: getattr(got, name) for name in expected} == expected


def test_flags_survive_a_stop_between_computing_and_using_them(any_guest):
    """The engine keeps them in pieces in between."""
    made = any_guest(f"""
    1:  mov %ecx, %eax; shr $1, %eax
        setc %bl
        lea (%rcx), %edx; and $1, %edx
        cmp %dl, %bl; jne 2f
        cmp $100, %ecx; out %al, $PORT; ja 3f
        cmp $101, %ecx; jae 2f
    3:  dec %ecx; jnz 1b
        {HALT}
    2:  movq $1, DATA
        {HALT}""")
    made.ports.then = made.vcpu.kick
    made.enter(rcx=300)
    while made.vcpu.run(made.bus) != Halted():
        general, special = made.vcpu.get(Regs), made.vcpu.get(Sregs)
        made.vcpu.put(special)
        made.vcpu.put(general)
    assert made.word() == 0
    assert len(made.ports.writes) == 300


STORE_SYSTEM = f"""
    sgdt DATA; sidt DATA + 16
    mov %cr0, %rax; mov %rax, DATA + 32
    mov %cr2, %rax; mov %rax, DATA + 40
    mov %cr3, %rax; mov %rax, DATA + 48
    mov %cr4, %rax; mov %rax, DATA + 56
    mov $0xC0000080, %ecx; rdmsr; mov %eax, DATA + 64
    mov %cs, DATA + 72; mov %ds, DATA + 74; mov %es, DATA + 76; mov %fs, DATA + 78; mov %gs, DATA + 80
    mov %ss, DATA + 82; str DATA + 84; sldt DATA + 86
    mov $0xC0000100, %ecx; rdmsr; mov %eax, DATA + 88; mov %edx, DATA + 92
    mov $0xC0000101, %ecx; rdmsr; mov %eax, DATA + 96; mov %edx, DATA + 100
    {HALT}
"""


@MANY
@given(U64, st.tuples(*[U16] * 7), CANONICAL, CANONICAL, tables, tables)
def test_the_guest_has_the_system_registers_that_were_put(any_guest_once, cr2, selectors, fs, gs, gdt, idt):
    made = any_guest_once
    made.load(STORE_SYSTEM)
    made.enter()
    state = made.vcpu.get(Sregs)
    names = ("ds", "es", "fs", "gs", "ss", "tr", "ldt")
    bases = {"fs": fs, "gs": gs}
    fields = {
        name: attrs.evolve(getattr(state, name), selector=selector, base=bases.get(name, 0))
        for name, selector in zip(names, selectors, strict=True)
    }
    wanted = attrs.evolve(state, **fields, cr2=cr2, gdt=gdt, idt=idt, cr4=state.cr4.replace(osfxsr=True, pge=True))
    made.vcpu.put(wanted)
    assert made.vcpu.run(made.bus) == Halted()
    data = made.memory.read(DATA, 104)
    assert struct.unpack_from("<HQ", data) == (gdt.limit, gdt.base)
    assert struct.unpack_from("<HQ", data, 16) == (idt.limit, idt.base)
    assert struct.unpack_from("<QQQQ", data, 32) == (wanted.cr0, cr2, wanted.cr3, wanted.cr4)
    assert struct.unpack_from("<I", data, 64)[0] == wanted.efer
    assert struct.unpack_from("<8H", data, 72) == (wanted.cs.selector, *selectors)
    assert struct.unpack_from("<QQ", data, 88) == (fs, gs)


def test_what_the_guest_loads_is_got(any_guest):
    made = any_guest(f"""
        lgdt DATA; lidt DATA + 16
        mov $0x1234567, %eax; mov %rax, %cr2
        mov %cr4, %rax; or $0x600, %rax; mov %rax, %cr4
        mov %cr0, %rax; or $0x10022, %rax; mov %rax, %cr0
        mov $0xC0000080, %ecx; rdmsr; or $0x801, %eax; wrmsr
        mov $0xC0000082, %ecx; mov $0x1000, %eax; mov $0xFFFFFFFF, %edx; wrmsr
        mov $0x28, %eax; mov %eax, %ds
        mov $0xC0000100, %ecx; mov $0x5678, %eax; mov $0x1234, %edx; wrmsr
        fninit; fld1; movq %xmm0, %xmm1
        {HALT}""")
    made.memory.write(DATA, struct.pack("<HQxxxxxxHQ", 0x2F, 0x700, 0xABC, 0xFFFF800000001000))
    made.memory.write(0x700, struct.pack("<6Q", 0, 0, 0x00AF9B000000FFFF, 0x00CF93000000FFFF, 0, 0x00CFF3123456FFFF))
    assert made.run() == Halted()
    got = made.vcpu.get(Sregs)
    assert (got.gdt, got.idt) == (DescriptorTable(0x700, 0x2F), DescriptorTable(0xFFFF800000001000, 0xABC))
    assert (got.cr2, got.cr4) == (0x1234567, Cr4(pae=True, osfxsr=True, osxmmexcpt=True))
    assert (got.cr0.mp, got.cr0.wp, got.cr0.ne) == (True, True, True)
    assert got.efer == Efer(sce=True, lme=True, lma=True, nxe=True)
    assert got.ds == SegmentRegister(
        base=0x123456, limit=0xFFFFFFFF, selector=0x28, type=3, s=True, dpl=3, present=True, db=True, g=True
    )
    assert got.fs.base == 0x123400005678
    assert {entry.index: entry.value for entry in made.vcpu.get(Msrs)}[Msr.LSTAR] == 0xFFFFFFFF00001000
    fpu = made.vcpu.get(Fpu)
    assert (fpu.ftw, fpu.fsw >> 11 & 7, fpu.st[0][:10]) == (0x80, 7, bytes(7) + b"\x80\xff\x3f")


@MANY
@given(fpus)
def test_fxsave_in_the_guest_agrees(any_guest_once, wanted):
    """Also the order: FXSAVE has the registers from the top of the stack on, and so has `Fpu`."""
    made = any_guest_once
    made.load(f"fxsave64 DATA; {HALT}")
    made.enter()
    made.vcpu.put(attrs.evolve(made.vcpu.get(Sregs), cr4=Cr4(pae=True, osfxsr=True)))
    made.vcpu.put(wanted)
    assert made.vcpu.run(made.bus) == Halted()
    area = made.memory.read(DATA, 512)
    fcw, fsw, ftw = struct.unpack_from("<HHB", area)
    assert (fcw, fsw, ftw) == (wanted.fcw, wanted.fsw, wanted.ftw)
    assert tuple(area[32 + i * 16 :][:10] for i in range(8)) == tuple(each[:10] for each in wanted.st)
    assert tuple(area[160 + i * 16 :][:16] for i in range(16)) == wanted.xmm


@MANY
@given(fpus)
def test_what_fxrstor_loads_is_got(any_guest_once, wanted):
    made = any_guest_once
    made.load(f"fxrstor64 DATA; {HALT}")
    made.enter()
    made.vcpu.put(attrs.evolve(made.vcpu.get(Sregs), cr4=Cr4(pae=True, osfxsr=True)))
    area = struct.pack("<HHBxHQQII", wanted.fcw, wanted.fsw, wanted.ftw, wanted.last_opcode, 0, 0, 0x1F80, 0xFFFF)
    area += b"".join(wanted.st) + b"".join(wanted.xmm)
    made.memory.write(DATA, area.ljust(512, b"\0"))
    assert made.vcpu.run(made.bus) == Halted()
    got = made.vcpu.get(Fpu)
    assert (got.fcw, got.fsw, got.ftw, got.st, got.xmm) == (wanted.fcw, wanted.fsw, wanted.ftw, wanted.st, wanted.xmm)


def test_mxcsr_starts_as_a_reset_leaves_it(any_guest):
    made = any_guest(f"stmxcsr DATA; {HALT}")
    made.vcpu.put(attrs.evolve(made.vcpu.get(Sregs), cr4=Cr4(pae=True, osfxsr=True)))
    assert made.run() == Halted()
    assert made.word() == 0x1F80
