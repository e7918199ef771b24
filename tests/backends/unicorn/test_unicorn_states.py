"""State by type: what is put is got back, and the guest itself sees the same."""

import struct

import attrs
import pytest
from emulated_guests import CODE, DATA, HALT, STACK, TABLES, Guest, assemble
from event_code import link
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from anyvisor.codec import name_of
from anyvisor.errors import Unsupported
from anyvisor.exits import Halted
from anyvisor.x86_64.control import ApicBase, Cr0, Cr4, Efer, Rflags
from anyvisor.x86_64.cpuid import Cpuid
from anyvisor.x86_64.lapic import Lapic
from anyvisor.x86_64.msr_index import Msr
from anyvisor.x86_64.msrs import MsrEntry, Msrs
from anyvisor.x86_64.state import (
    DebugRegs,
    DescriptorTable,
    Fpu,
    MpState,
    Regs,
    SegmentRegister,
    Sregs,
    VcpuEvents,
)
from anyvisor_unicorn.hypervisor import open_unicorn

U64 = st.integers(0, (1 << 64) - 1)
U32 = st.integers(0, (1 << 32) - 1)
U16 = st.integers(0, (1 << 16) - 1)
MANY = settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
FLAGS = [name for name in Rflags.fields if name not in ("fixed", "iopl", "vm", "rf")]
GENERAL = [each.name for each in attrs.fields(Regs) if each.name not in ("rip", "rflags")]
MODES = {
    "real": {"cr0": Cr0(et=True)},
    "protected": {"cr0": Cr0(et=True, pe=True)},
    "paged": {"cr0": Cr0(et=True, pe=True, pg=True, wp=True)},
    "PAE": {"cr0": Cr0(et=True, pe=True, pg=True), "cr4": Cr4(pae=True), "efer": Efer(nxe=True)},
    "compatibility": {"cr0": Cr0(et=True, pe=True, pg=True), "cr4": Cr4(pae=True), "efer": Efer(lme=True, lma=True)},
    "long": {"cr0": Cr0(et=True, pe=True, pg=True), "cr4": Cr4(pae=True), "efer": Efer(lme=True, lma=True, sce=True)},
}


@pytest.fixture(scope="module", params=["fast", "counted"])
def vcpu(request):
    with open_unicorn(request.param) as hypervisor:
        made = Guest(hypervisor)
        yield made.vcpu
        made.close()


@st.composite
def flags(draw):
    return Rflags(fixed=True, iopl=draw(st.integers(0, 3)), **{name: draw(st.booleans()) for name in FLAGS})


regs = st.builds(Regs, **dict.fromkeys([*GENERAL, "rip"], U64), rflags=flags())


@st.composite
def segments(draw, **fixed):
    fields = {
        "base": draw(U64), "limit": draw(U32), "selector": draw(U16), "type": draw(st.integers(0, 15)),
        "s": draw(st.booleans()), "dpl": draw(st.integers(0, 3)), "present": True, "avl": draw(st.booleans()),
        "l": draw(st.booleans()), "db": draw(st.booleans()), "g": draw(st.booleans()),
    }  # fmt: skip
    return SegmentRegister(**{**fields, **fixed})


tables = st.builds(DescriptorTable, U64, U16)


@st.composite
def sregs(draw):
    mode = draw(st.sampled_from(sorted(MODES)))
    control = MODES[mode]
    privilege = draw(st.integers(0, 3)) if mode != "real" else 0
    ss = draw(segments(dpl=privilege))
    cs = draw(segments(l=mode == "long", db=False) if mode in ("long", "compatibility") else segments(l=False))
    names = {name: draw(segments()) for name in ("ds", "es", "fs", "gs", "tr", "ldt")}
    more = {name: draw(st.booleans()) for name in ("mp", "em", "ts", "ne", "am", "nw", "cd")}
    more["cd"] = more["cd"] or more["nw"]
    cr4 = {name: draw(st.booleans()) for name in ("tsd", "de", "pse", "mce", "pge", "pce", "osfxsr", "osxmmexcpt")}
    return Sregs(
        cs=cs, ss=ss, **names, gdt=draw(tables), idt=draw(tables),
        cr0=Cr0(control["cr0"]).replace(**more),
        cr2=draw(U64),
        cr3=draw(U32) & 0xFFFFF000,
        cr4=control.get("cr4", Cr4(0)).replace(**cr4),
        efer=control.get("efer", Efer(0)),
        apic_base=ApicBase(draw(st.sampled_from([0xFEE00900, 0xFEE00800, 0xFEE00000]))),
    )  # fmt: skip


def bytes_of(size):
    return st.binary(min_size=size, max_size=size)


fpus = st.builds(
    Fpu,
    fcw=st.integers(0, 0xF3F).map(lambda fcw: fcw | 0x40),
    fsw=st.integers(0, 0x7FFF).map(lambda fsw: fsw | (fsw & 0x80) << 8),  # bit 15 has been bit 7 since the 387
    ftw=st.integers(0, 0xFF),
    last_opcode=st.integers(0, 0x7FF),
    last_ip=U32,
    last_dp=U32,
    st=st.tuples(*[bytes_of(10).map(lambda low: low + bytes(6))] * 8),
    xmm=st.tuples(*[bytes_of(16)] * 16),
)


# -- what is put is got back -------------------------------------------------------------------------------------------


def test_the_facts_name_what_can_be_got_and_put_in_the_order_of_restoring(vcpu):
    with open_unicorn() as hypervisor:
        names = hypervisor.facts.states
    kinds = (Cpuid, MpState, Regs, Sregs, Fpu, DebugRegs, Msrs)
    assert names == tuple(name_of(kind) for kind in kinds)
    for kind in kinds:
        state = vcpu.get(kind)
        vcpu.put(state)
        assert vcpu.get(kind) == state


@MANY
@given(regs)
def test_regs(vcpu, wanted):
    vcpu.put(wanted)
    assert vcpu.get(Regs) == wanted


@MANY
@given(sregs())
def test_sregs_in_every_mode(vcpu, wanted):
    vcpu.put(wanted)
    assert vcpu.get(Sregs) == wanted


@MANY
@given(st.lists(sregs(), min_size=2, max_size=4), regs)
def test_from_any_mode_to_any_other(vcpu, all_wanted, general):
    for wanted in all_wanted:
        vcpu.put(wanted)
        vcpu.put(general)
        assert (vcpu.get(Sregs), vcpu.get(Regs)) == (wanted, general)


@MANY
@given(regs, sregs(), fpus)
def test_no_state_disturbs_another(vcpu, general, special, fpu):
    for order in ((general, special, fpu), (fpu, special, general), (special, general, fpu)):
        for state in order:
            vcpu.put(state)
        assert (vcpu.get(Regs), vcpu.get(Sregs), vcpu.get(Fpu)) == (general, special, fpu)


@MANY
@given(fpus)
def test_fpu(vcpu, wanted):
    vcpu.put(wanted)
    assert vcpu.get(Fpu) == wanted


@MANY
@given(st.tuples(*[U64] * 4))
def test_debug_registers(vcpu, addresses):
    wanted = DebugRegs(addresses, 0xFFFF0FF0, 0x400)
    vcpu.put(wanted)
    assert vcpu.get(DebugRegs) == wanted


CANONICAL = st.one_of(st.integers(0, (1 << 47) - 1), st.integers(0xFFFF8000 << 32, (1 << 64) - 1))


@MANY
@given(CANONICAL, CANONICAL, CANONICAL, CANONICAL, U32, U32)
def test_msrs(vcpu, lstar, cstar, gs, esp, star, mask):
    wanted = {
        Msr.STAR: star << 32 | mask, Msr.LSTAR: lstar, Msr.CSTAR: cstar, Msr.FMASK: mask, Msr.KERNEL_GS_BASE: gs,
        Msr.SYSENTER_CS: mask & 0xFFFF, Msr.SYSENTER_ESP: esp, Msr.SYSENTER_EIP: lstar, Msr.TSC_AUX: star,
        Msr.PAT: 0x0007040600070406,
    }  # fmt: skip
    vcpu.put(Msrs(tuple(MsrEntry(int(index), value) for index, value in wanted.items())))
    got = {entry.index: entry.value for entry in vcpu.get(Msrs)}
    assert {index: got[index] for index in wanted} == wanted


def test_an_msr_that_is_not_kept_is_swallowed(vcpu):
    before = vcpu.get(Msrs)
    vcpu.put(Msrs((MsrEntry(0x12345, 7),)))
    assert vcpu.get(Msrs) == before


def test_an_unusable_segment_comes_back_as_one(vcpu):
    state = vcpu.get(Sregs)
    vcpu.put(attrs.evolve(state, ldt=SegmentRegister(unusable=True, present=False)))
    assert vcpu.get(Sregs).ldt == SegmentRegister(unusable=True)
    vcpu.put(state)


@pytest.mark.parametrize("kind", [Lapic, VcpuEvents])
def test_a_state_that_the_engine_has_not_is_unsupported(vcpu, kind):
    with pytest.raises(Unsupported, match=f"no {kind.__name__}; it knows x86_64.Cpuid, x86_64.MpState, x86_64.Regs"):
        vcpu.get(kind)


def test_a_new_vcpu_is_in_a_state_that_can_be_put(any_guest):
    made = any_guest()
    fresh = made.vcpu
    for kind in (Regs, Sregs, Fpu, DebugRegs, Msrs, MpState):
        state = fresh.get(kind)
        fresh.put(state)
        assert fresh.get(kind) == state


# -- the guest sees the same -------------------------------------------------------------------------------------------

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


SEEN_FLAGS = 0x244FD7 & ~(1 << 8)
"""All that PUSHF shows, but for TF, which would trap."""


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


# -- modes -------------------------------------------------------------------------------------------------------------


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


def test_protected_mode_code_runs_in_32_bits(any_guest):
    made = any_guest()
    code(made, 32, "mov $0xFFFFFFFF, %eax; inc %eax; mov %eax, 0x2000; push $7; mov %esp, 0x2004; cli; hlt")
    in_mode(made, 32)
    assert made.vcpu.run(made.bus) == Halted()
    assert struct.unpack("<II", made.memory.read(0x2000, 8)) == (0, STACK - 4)


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
    made.memory.write(TABLES, struct.pack("<1024I", *(((i % 2) << 22) * 0 | 0x83 for i in range(1024))))
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
