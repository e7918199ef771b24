"""For every check of VM entry a state that breaks it, and one that nearly does; segments have a file of their own."""

from entry_segment_cases import SEGMENTS
from entry_states import (
    AMD,
    BOTH,
    HOLE,
    INTEL,
    MASKING,
    NARROW,
    TABLE,
    V86_SEGMENTS,
    VIRTUAL,
    WIDE,
    case,
    long,
    protected,
    real,
)

from anyvisor.x86_64.control import ApicBase, Cr0, Cr4, Efer, Rflags
from anyvisor.x86_64.features import Feature
from anyvisor.x86_64.msrs import Msr
from anyvisor.x86_64.state import Activity

LME, ACTIVE = Efer(lme=True), Efer(lme=True, lma=True)
FLAGS_ON = Rflags(fixed=True, interrupt_enable=True)

CONTROL = [
    case(
        "cr0-has-32-bits", BOTH, "CR0", "CR0 0x100000011 (PE|ET|0x100000000)",
        protected(cr0=Cr0(1 << 32 | 0x11)), protected(cr0=Cr0(1 << 31 | 1 << 6 | 0x11)),
    ),
    case(
        "paging-needs-protection", INTEL, "CR0", "CR0 0x80000010 (ET|PG)",
        real(cr0=Cr0(pg=True, et=True)), real(cr0=Cr0(et=True)),
    ),
    case(
        "paging-needs-protection", BOTH, "CR0", "CR0 0x80000010 (ET|PG)",
        real(cr0=Cr0(pg=True, et=True), efer=ACTIVE, cr4=Cr4(pae=True)),
        long(),
    ),
    case(
        "nw-needs-cd", AMD, "CR0", "CR0 0x20000011 (PE|ET|NW)",
        protected(cr0=Cr0(0x20000011)), protected(cr0=Cr0(0x60000011)),
    ),
    case(
        "cr4-reserved", BOTH, "CR4", "CR4 0x8020 (PAE|0x8000)",
        long(cr4=Cr4(0x20 | 1 << 15)), long(cr4=Cr4(0x20 | 1 << 25)),
    ),
    case(
        "cr4-needs-features", BOTH, "CR4", "CR4 0x100020 (PAE|SMEP)",
        long(cr4=Cr4(pae=True, smep=True), cpuid=TABLE.without(Feature.SMEP)),
        long(cr4=Cr4(pae=True, smep=True), cpuid=TABLE.with_(Feature.SMEP)),
    ),
    case(
        "cr4-needs-features", BOTH, "CR4", "CR4 0x800020 (PAE|CET)",
        long(cr4=Cr4(pae=True, cet=True), cr0=Cr0(0x80010011), cpuid=TABLE.without(Feature.CET_SS, Feature.CET_IBT)),
        long(cr4=Cr4(pae=True, cet=True), cr0=Cr0(0x80010011), cpuid=TABLE.with_(Feature.CET_IBT)),
    ),
    case(
        "cr4-needs-features", BOTH, "CR4", "CR4 0x800820 (PAE|UMIP|CET)",
        long(cr4=Cr4(0x800820), cr0=Cr0(0x80010011), cpuid=TABLE.with_(Feature.CET_SS)),
        long(cr4=Cr4(0x800020), cr0=Cr0(0x80010011), cpuid=TABLE.with_(Feature.CET_SS)),
    ),
    case(
        "pcide-needs-long-mode", INTEL, "CR4", "CR4 0x20000 (PCIDE), EFER 0",
        protected(cr4=Cr4(pcide=True)), long(cr4=Cr4(pcide=True, pae=True)),
    ),
    case(
        "cet-needs-wp", BOTH, "CR4", "CR4 0x800020 (PAE|CET), CR0 0x80000011 (PE|ET|PG)",
        long(cr4=Cr4(pae=True, cet=True)), long(cr4=Cr4(pae=True, cet=True), cr0=Cr0(0x80010011)),
    ),
    case(
        "efer-reserved", BOTH, "EFER", "EFER 0x10000000500 (LME|LMA|0x10000000000)",
        long(efer=Efer(1 << 40 | 0x500)), long(efer=Efer(1 << 21 | 0x501)),
    ),
    case(
        "efer-reserved", BOTH, "IA32_EFER", "IA32_EFER 0x10000000000 (0x10000000000)",
        long(msrs={Msr.EFER: 1 << 40}), long(msrs={Msr.EFER: 0x900}),
    ),
    case(
        "efer-needs-features", BOTH, "EFER", "EFER 0xd00 (LME|LMA|NXE)",
        long(efer=Efer(0xD00), cpuid=TABLE.without(Feature.NX)),
        long(efer=Efer(0xD00), cpuid=TABLE.with_(Feature.NX)),
    ),
    case(
        "lma-is-lme-and-paging", INTEL, "EFER", "EFER 0x100 (LME), CR0 0x80000011 (PE|ET|PG)",
        long(efer=LME, cs={"l": False}), long(efer=LME, cs={"l": False}, cr0=Cr0(0x11)),
    ),
    case(
        "lma-is-lme-and-paging", INTEL, "EFER", "EFER 0x500 (LME|LMA), CR0 0x11 (PE|ET)",
        long(cr0=Cr0(0x11)), long(),
    ),
    case("long-mode-needs-pae", BOTH, "CR4", "CR4 0, EFER 0x500 (LME|LMA)", long(cr4=Cr4(0)), protected(cr4=Cr4(0))),
    case("dr6-has-32-bits", AMD, "DR6", "DR6 0x1ffff0ff0", {"debug": {"dr6": 0x1FFFF0FF0}}, {"debug": {"dr6": 0}}),
    case(
        "dr7-has-32-bits", BOTH, "DR7", "DR7 0x100000400",
        {"debug": {"dr7": 0x100000400}}, {"debug": {"dr7": 0xFFFFFFFF}},
    ),
    case(
        "cr3-is-an-address", BOTH, "CR3", "CR3 0x10000000000",
        long(cr3=1 << 40, cpuid=NARROW), long(cr3=1 << 39, cpuid=NARROW),
    ),
    case(
        "cr3-is-an-address", BOTH, "CR3", "CR3 0x2000000000009000",
        long(cr3=1 << 61 | 0x9000, cpuid=TABLE), long(cr3=1 << 61 | 0x9000, cpuid=MASKING),
    ),
    case("cr3-is-an-address", BOTH, "CR3", "CR3 0x10000000000000", protected(cr3=1 << 52), protected(cr3=1 << 51)),
]  # fmt: skip

FLAGS_AND_EVENTS = [
    case("rip-fits-mode", INTEL, "RIP", "RIP 0x800000000000", long(regs={"rip": HOLE}), long(regs={"rip": HOLE - 1})),
    case(
        "rip-fits-mode", INTEL, "RIP", "RIP 0x100000000",
        protected(regs={"rip": 1 << 32}), long(regs={"rip": 1 << 32}),
    ),
    case("rflags-fixed", INTEL, "RFLAGS", "RFLAGS 0", long(regs={"rflags": 0}), long(regs={"rflags": 2})),
    *(
        case(
            "rflags-reserved", INTEL, "RFLAGS", f"({words})",
            long(regs={"rflags": 1 << bit | 2}), long(regs={"rflags": 1 << 21 | 2}),
        )
        for bit, words in ((3, "FIXED|0x8"), (5, "FIXED|0x20"), (15, "FIXED|0x8000"), (22, "FIXED|0x400000"))
    ),
    case(
        "vm-needs-protection", INTEL, "RFLAGS", "RFLAGS 0x20002 (FIXED|VM)",
        long(regs={"rflags": VIRTUAL}), protected(regs={"rflags": VIRTUAL}, **V86_SEGMENTS),
    ),
    case(
        "vm-needs-protection", INTEL, "RFLAGS", "(FIXED|VM)",
        real(regs={"rflags": VIRTUAL}), real(regs={"rflags": 2}),
    ),
    case(
        "halted-is-privileged", INTEL, "activity", "SS.DPL 3",
        long(activity=Activity.HALTED, ss={"dpl": 3}, cs={"dpl": 3}), long(activity=Activity.HALTED),
    ),
    case(
        "halted-without-shadow", INTEL, "activity", "halted, blocked by MOV SS",
        long(activity=Activity.HALTED, events={"interrupt_shadow": 1}), long(events={"interrupt_shadow": 1}),
    ),
    case(
        "sti-shadow-needs-if", INTEL, "events", "blocked by STI, RFLAGS 0x2 (FIXED)",
        long(events={"interrupt_shadow": 2}), long(events={"interrupt_shadow": 3}),
    ),
    case(
        "injected-interrupt-needs-if", INTEL, "RFLAGS", "an interrupt injected, RFLAGS 0x2 (FIXED)",
        long(events={"interrupt_injected": True}), long(events={"interrupt_injected": True, "interrupt_soft": True}),
    ),
    case(
        "injected-interrupt-needs-if", INTEL, "RFLAGS", "an interrupt injected",
        long(interrupt_bitmap=1 << 0x41), long(interrupt_bitmap=1 << 0x41, regs={"rflags": FLAGS_ON}),
    ),
    case(
        "injected-event-without-shadow", INTEL, "events", "an interrupt injected, blocked by STI",
        long(events={"interrupt_injected": True, "interrupt_shadow": 2}, regs={"rflags": FLAGS_ON}),
        long(events={"nmi_injected": True, "interrupt_shadow": 2}, regs={"rflags": FLAGS_ON}),
    ),
    case(
        "injected-event-without-shadow", INTEL, "events", "an NMI injected, blocked by MOV SS",
        long(events={"nmi_injected": True, "interrupt_shadow": 1}), long(events={"nmi_injected": True}),
    ),
    case(
        "injected-exception-is-one", BOTH, "events", "vector 2",
        long(events={"exception_injected": True, "exception_vector": 2}),
        long(events={"exception_injected": True, "exception_vector": 31}),
    ),
    case(
        "injected-exception-is-one", BOTH, "events", "vector 32",
        long(events={"exception_pending": True, "exception_vector": 32}), long(events={"exception_vector": 2}),
    ),
]  # fmt: skip
MSRS = [
    case(
        "sysenter-is-canonical", INTEL, "IA32_SYSENTER_ESP", "0x800000000000",
        long(msrs={Msr.SYSENTER_ESP: HOLE}), long(msrs={Msr.SYSENTER_ESP: HOLE, Msr.SYSENTER_EIP: HOLE}, cpuid=WIDE),
    ),
    case(
        "msrs-are-canonical", BOTH, "IA32_LSTAR", "0x800000000000",
        long(msrs={Msr.LSTAR: HOLE}), long(msrs={Msr.LSTAR: 2**64 - HOLE, Msr.STAR: HOLE}),
    ),
    case(
        "msrs-are-canonical", BOTH, "IA32_KERNEL_GS_BASE", "0x1000000000000",
        long(msrs={Msr.KERNEL_GS_BASE: 1 << 48}), long(),
    ),
    case(
        "pat-names-types", BOTH, "IA32_PAT", "0x7040600070402",
        long(msrs={Msr.PAT: 0x7040600070402}), long(msrs={Msr.PAT: 0x7040600070406}),
    ),
    case(
        "mtrrs-name-types", BOTH, "IA32_MTRR_DEF_TYPE", "0x802",
        long(msrs={Msr.MTRR_DEF_TYPE: 0x802}), long(msrs={Msr.MTRR_DEF_TYPE: 0xC06}),
    ),
    case(
        "mtrrs-name-types", BOTH, "IA32_MTRR_FIX64K_00000", "0x700000000000000",
        long(msrs={Msr.MTRR_FIX64K_00000: 7 << 56}), long(msrs={Msr.MTRR_FIX64K_00000: 6 << 56}),
    ),
    case(
        "mtrrs-name-types", BOTH, "IA32_MTRR_PHYSMASK0", "0x10000000800",
        long(msrs={0x201: 1 << 40 | 0x800}, cpuid=NARROW), long(msrs={0x200: 6, 0x201: 1 << 39 | 0x800}, cpuid=NARROW),
    ),
    case("mtrrs-name-types", BOTH, "IA32_MTRR_PHYSBASE0", "0x106", long(msrs={0x200: 0x106}), long(msrs={0x200: 6})),
    case("mtrrs-name-types", BOTH, "IA32_MTRR_PHYSBASE0", "0x2", long(msrs={0x200: 2}), long(msrs={0x200: 1})),
    case(
        "mtrrs-name-types", BOTH, "IA32_MTRR_PHYSMASK0", "0x802",
        long(msrs={0x201: 0x802}), long(msrs={0x201: 0x800}),
    ),
    case(
        "apic-base-is-valid", BOTH, "APIC base", "(ENABLED|PAGE=1043968|0x1)",
        long(apic_base=ApicBase(0xFEE00801)), long(apic_base=ApicBase(0xFEE00D00)),
    ),
    case(
        "apic-base-is-valid", BOTH, "APIC base", "(X2APIC|PAGE=1043968)",
        long(apic_base=ApicBase(0xFEE00400)), long(apic_base=ApicBase(0xFEE00100)),
    ),
    case(
        "apic-base-is-valid", BOTH, "IA32_APIC_BASE", "(X2APIC|ENABLED|PAGE=1043968)",
        long(msrs={Msr.APIC_BASE: 0xFEE00C00}, cpuid=TABLE.without(Feature.X2APIC)),
        long(msrs={Msr.APIC_BASE: 0xFEE00C00}, cpuid=TABLE.with_(Feature.X2APIC)),
    ),
]  # fmt: skip
EXTENSIONS = [
    case(
        "debugctl-reserved", INTEL, "IA32_DEBUGCTL", "IA32_DEBUGCTL 0x9 (LBR|0x8)",
        long(msrs={Msr.DEBUGCTL: 9}), long(msrs={Msr.DEBUGCTL: 0xFFC7}),
    ),
    case(
        "debugctl-reserved", INTEL, "IA32_DEBUGCTL", "IA32_DEBUGCTL 0x10000 (0x10000)",
        long(msrs={Msr.DEBUGCTL: 1 << 16}), long(msrs={Msr.DEBUGCTL: 0}),
    ),
    case(
        "cet-is-valid", BOTH, "IA32_S_CET", "(SHADOW_STACK|0x40)",
        long(msrs={Msr.S_CET: 0x41}), long(msrs={Msr.S_CET: 0x43F, Msr.U_CET: 0x83F}),
    ),
    case("cet-is-valid", BOTH, "IA32_U_CET", "0xc00", long(msrs={Msr.U_CET: 0xC00}), long(msrs={Msr.U_CET: 0x800})),
    case(
        "cet-is-valid", BOTH, "IA32_S_CET", "0x800000000004",
        long(msrs={Msr.S_CET: HOLE | 4}), long(msrs={Msr.S_CET: HOLE | 4}, cpuid=WIDE),
    ),
    case(
        "shadow-stacks-are-addresses", BOTH, "IA32_PL0_SSP", "0x1002",
        long(msrs={Msr.PL0_SSP: 0x1002}), long(msrs={Msr.PL0_SSP: 0x1004}),
    ),
    case(
        "shadow-stacks-are-addresses", BOTH, "IA32_INTERRUPT_SSP_TABLE", "0x800000000000",
        long(msrs={Msr.INTERRUPT_SSP_TABLE: HOLE}), long(msrs={Msr.INTERRUPT_SSP_TABLE: 0x1002}),
    ),
    case(
        "bndcfgs-is-valid", INTEL, "IA32_BNDCFGS", "(ENABLED|0x4)",
        long(msrs={Msr.BNDCFGS: 5}), long(msrs={Msr.BNDCFGS: 0x1003}),
    ),
    case(
        "bndcfgs-is-valid", INTEL, "IA32_BNDCFGS", "0x800000000001",
        long(msrs={Msr.BNDCFGS: HOLE | 1}), long(msrs={Msr.BNDCFGS: 2**64 - HOLE | 1}),
    ),
]  # fmt: skip
CASES = [*CONTROL, *SEGMENTS, *FLAGS_AND_EVENTS, *MSRS, *EXTENSIONS]
