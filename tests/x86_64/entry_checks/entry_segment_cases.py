"""For every check of segments and their tables a state that breaks it, and one that nearly does."""

import attrs
from entry_states import BOTH, HOLE, INTEL, V86, V86_SEGMENTS, VIRTUAL, WIDE, case, long, protected, real

from anyvisor.x86_64.state import DescriptorTable, SegmentRegister

TASK16 = {"type": 3, "limit": 0x67, "g": False}
LDT = SegmentRegister(selector=0x30, type=2, present=True, limit=0xFFFF)

SEGMENTS = [
    case("segments-are-present", INTEL, "CS", "selector 0x10, not present", long(cs={"present": False}), long()),
    case("segments-are-present", INTEL, "CS", "selector 0x10, unusable", long(cs={"unusable": True}), long()),
    case(
        "segments-are-present", INTEL, "DS", "selector 0x18, not present",
        long(ds={"present": False}), long(ds={"present": False, "unusable": True, "type": 0, "base": 1 << 40}),
    ),
    case(
        "segments-are-code-or-data", INTEL, "CS", "S clear, type 0xb",
        long(cs={"s": False}), real(es={"s": False, "unusable": True}),
    ),
    *(
        case(
            "segments-are-code-or-data", INTEL, name.upper(), f"S clear, type {kind:#x}",
            long(**{name: {"s": False, "type": kind}}), long(),
        )
        for name, kind in (("cs", 2), ("ss", 1), ("ds", 2), ("es", 8))  # and not that the type is wrong, too
    ),
    case(
        "cs-is-code", INTEL, "CS", "type 0xa (code: readable)",
        long(cs={"type": 10}), real(cs={"type": 10}), only_planned=True,
    ),
    case(
        "cs-is-code", INTEL, "CS", "type 0x7 (data: accessed, writable, expand_down)",
        long(cs={"type": 7}), long(cs={"type": 3}),
    ),
    case("ss-is-writable", INTEL, "SS", "type 0x1 (data: accessed)", long(ss={"type": 1}), long(ss={"type": 7})),
    case(
        "ss-is-writable", INTEL, "SS", "type 0xb (code: accessed, readable)",
        long(ss={"type": 11}), real(ss={"type": 2}),
    ),
    case(
        "data-is-accessed", INTEL, "DS", "type 0x2 (data: writable)",
        long(ds={"type": 2}), real(ds={"type": 2}), only_planned=True,
    ),
    case("data-is-readable", INTEL, "ES", "type 0x9 (code: accessed)", long(es={"type": 9}), long(es={"type": 11})),
    case("cs-privilege", INTEL, "CS", "CS.DPL 0, SS.DPL 3", long(ss={"dpl": 3}), long(ss={"dpl": 3}, cs={"dpl": 3})),
    case(
        "cs-privilege", INTEL, "CS", "CS.DPL 3, SS.DPL 2",
        long(ss={"dpl": 2}, cs={"dpl": 3, "type": 15}), long(ss={"dpl": 3}, cs={"dpl": 2, "type": 15}),
    ),
    case("cs-privilege", INTEL, "CS", "CS.DPL 1, SS.DPL 0", long(cs={"type": 3, "dpl": 1}), long(cs={"type": 3})),
    case(
        "ss-privilege", INTEL, "SS", "SS.DPL 3",
        real(ss={"dpl": 3}, cs={"dpl": 3}), protected(ss={"dpl": 3}, cs={"dpl": 3}),
    ),
    case("ss-privilege", INTEL, "SS", "SS.DPL 1", protected(cs={"type": 3}, ss={"dpl": 1}), protected(cs={"type": 3})),
    case("cs-has-one-size", BOTH, "CS", "L set, D set", long(cs={"db": True}), long(cs={"l": False, "db": True})),
    case(
        "code-64-needs-long-mode", BOTH, "CS", "L set, EFER.LMA clear",
        protected(cs={"l": True, "db": True}), long(),
    ),
    case(
        "limits-fit-granularity", INTEL, "GS", "limit 0x12345, G set",
        long(gs={"limit": 0x12345}), long(gs={"limit": 0x12345, "g": False}),
    ),
    case(
        "limits-fit-granularity", INTEL, "TR", "limit 0x100000, G clear",
        long(tr={"limit": 1 << 20, "g": False}), long(),
    ),
    case("bases-have-32-bits", INTEL, "CS", "base 0x100000000", long(cs={"base": 1 << 32}), long(fs={"base": 1 << 32})),
    case(
        "bases-are-canonical", INTEL, "FS", "base 0x800000000000",
        long(fs={"base": HOLE, "unusable": True}), long(fs={"base": HOLE}, cpuid=WIDE),
    ),
    case(
        "bases-are-canonical", INTEL, "TR", "base 0x800000000000",
        long(tr={"base": HOLE}), long(tr={"base": -HOLE % 2**64}),
    ),
    case(
        "virtual-8086-segments", INTEL, "DS", "limit 0xfffff, g 0x1",
        protected(regs={"rflags": VIRTUAL}, **V86_SEGMENTS | {"ds": attrs.evolve(V86, limit=0xFFFFF, g=True)}),
        protected(regs={"rflags": VIRTUAL}, **V86_SEGMENTS),
    ),
    case("tr-is-usable", INTEL, "TR", "selector 0x20, unusable", long(tr={"unusable": True, "type": 0}), long()),
    case(
        "tr-is-usable", INTEL, "TR", "selector 0x20, not present",
        real(tr={"present": False, "selector": 0x20}), real(),
    ),
    case("tr-is-busy", INTEL, "TR", "type 0x9 (tss64)", long(tr={"type": 9}), long(tr={"type": 11})),
    case("tr-is-busy", INTEL, "TR", "type 0x3 (tss16 busy)", long(tr=TASK16), protected(tr=TASK16)),
    case(
        "ldtr-is-a-table", INTEL, "LDTR", "type 0x9 (tss64)",
        long(ldt=attrs.evolve(LDT, type=9)), long(ldt=attrs.evolve(LDT, type=9, unusable=True)),
    ),
    case(
        "ldtr-is-a-table", INTEL, "LDTR", "type 0x2 (ldt64), not present",
        long(ldt={"present": False}), long(ldt=LDT),
    ),
    case("system-segments-are-system", INTEL, "TR", "S set, type 0xb", long(tr={"s": True}), long()),
    case("system-segments-are-system", INTEL, "TR", "S set, type 0x9", long(tr={"s": True, "type": 9}), long()),
    case(
        "system-segments-are-system", INTEL, "LDTR", "S set, type 0x9",
        long(ldt={"s": True, "type": 9}), long(ldt={"s": True, "type": 9, "unusable": True, "base": HOLE}),
    ),
    case(
        "system-segments-are-global", INTEL, "TR", "selector 0x24 (TI set)",
        long(tr={"selector": 0x24}), long(tr={"selector": 0x28}),
    ),
    case(
        "system-segments-are-global", INTEL, "LDTR", "selector 0x34 (TI set)",
        long(ldt=attrs.evolve(LDT, selector=0x34)), long(ldt=attrs.evolve(LDT, selector=0x34, unusable=True)),
    ),
    case(
        "tables-are-canonical", INTEL, "IDTR", "base 0x800000000000",
        long(idt=DescriptorTable(HOLE, 7)), long(idt=DescriptorTable(HOLE, 7), cpuid=WIDE),
    ),
    case(
        "table-limits-have-16-bits", INTEL, "GDTR", "limit 0x10000",
        long(gdt=DescriptorTable(0, 0x10000)), long(gdt=DescriptorTable(0, 0xFFFF)),
    ),
]  # fmt: skip
