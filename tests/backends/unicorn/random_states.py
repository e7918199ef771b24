"""States of every kind, at random: what a processor could be in."""

import attrs
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st

from anyvisor.x86_64.control import ApicBase, Cr0, Cr4, Efer, Rflags
from anyvisor.x86_64.state import (
    DescriptorTable,
    Fpu,
    Regs,
    SegmentRegister,
    Sregs,
)

U64 = st.integers(0, (1 << 64) - 1)
U32 = st.integers(0, (1 << 32) - 1)
U16 = st.integers(0, (1 << 16) - 1)
CANONICAL = st.one_of(st.integers(0, (1 << 47) - 1), st.integers(0xFFFF8000 << 32, (1 << 64) - 1))
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
