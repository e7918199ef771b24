"""Faults of the state that a vCPU is given: a processor may refuse it."""

from anyvisor.x86_64.control import Rflags
from anyvisor.x86_64.state import DescriptorTable
from faults.fault import AMD, HOSTS, KVM, SVM, UNICORN, state
from faults.planting import control, raw_bits, regs, segment, sregs

ENGINE = "the engine looks at a part of what processors look at, and this is not in it"
SOFTWARE = "software KVM does not look at it"
REPAIRED = "KVM sets the bit when registers are put"
NOT_AMD = "AMD's processors do not look at it"
NOT_RUN = "AMD's processors meet it only when they execute, and the mock executes nothing"
NOWHERE_HERE = {UNICORN: ENGINE, KVM: SOFTWARE}
INTEL_ONLY = {**NOWHERE_HERE, SVM: NOT_AMD, AMD: NOT_AMD}
BEYOND = 1 << 60
"""Not canonical, with page tables of 4 levels and of 5."""

STATES = (
    state("tss-not-busy", "TR holds a TSS that is not busy", segment("tr", type=9), "tr-is-busy", runs=INTEL_ONLY),
    state("cs-absent", "CS is not present", segment("cs", present=False), "segments-are-present", runs=INTEL_ONLY),
    state("cs-l-and-d", "CS has both L and D set", segment("cs", db=True), "cs-has-one-size", runs=NOWHERE_HERE),
    state("cs-is-data", "CS holds data", segment("cs", type=7), "cs-is-code", runs=INTEL_ONLY),
    state("ss-level-3", "SS has level 3, CS level 0", segment("ss", dpl=3), "cs-privilege", runs={AMD: NOT_RUN}),
    state("no-paging", "EFER.LMA is set, paging is off", control("cr0", pg=False), "lma-is-lme-and-paging"),
    state("pae-off", "CR4.PAE is clear in long mode", control("cr4", pae=False), "long-mode-needs-pae"),
    state("pe-off", "CR0.PG is set, CR0.PE is clear", control("cr0", pe=False), "paging-needs-protection"),
    state(
        "rflags-bit-1",
        "bit 1 of RFLAGS is clear",
        regs(rflags=Rflags(0)),
        "rflags-fixed",
        runs={**dict.fromkeys(HOSTS, REPAIRED), UNICORN: ENGINE},
    ),
    state("fs-base", "FS's base is not canonical", segment("fs", base=BEYOND), "bases-are-canonical", runs=INTEL_ONLY),
    state(
        "gdt-base",
        "the GDT's base is not canonical",
        sregs(gdt=DescriptorTable(BEYOND, 0x2F)),
        "tables-are-canonical",
        runs={AMD: NOT_RUN},
    ),
    state("efer-reserved", "EFER has a reserved bit", raw_bits("efer", 1 << 40), "efer-reserved", runs=NOWHERE_HERE),
    state("cr4-reserved", "CR4 has a reserved bit", raw_bits("cr4", 1 << 31), "cr4-reserved", runs={UNICORN: ENGINE}),
    state(
        "cr3-wide",
        "CR3 has more bits than addresses have",
        sregs(cr3=BEYOND | 0x9000),
        "cr3-is-an-address",
        runs={UNICORN: ENGINE},
    ),
    state("rip-beyond", "RIP is not canonical", regs(rip=BEYOND), "rip-fits-mode", runs={AMD: NOT_RUN}),
)
