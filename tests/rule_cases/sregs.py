"""What a vCPU refuses of control registers, EFER and the APIC base, and how Sregs carry an interrupt."""

import attrs

from anyvisor.x86_64.control import ApicBase, Cr0, Cr4, Efer
from anyvisor.x86_64.cpuid import Cpuid
from anyvisor.x86_64.features import Feature
from anyvisor.x86_64.lapic import Lapic
from anyvisor.x86_64.modes import LONG, PROTECTED, REAL, enter
from anyvisor.x86_64.state import DescriptorTable, SegmentRegister, Sregs, VcpuEvents
from rule_cases.case import NOT_HERE, accepted, case, never, on_software, refused

PAGE_TABLE = 0x9000
LONG_MODE = Efer(lme=True, lma=True)
BYTES_OF_8 = 1 << 64

SREGS = Sregs(
    **dict.fromkeys(("cs", "ds", "es", "fs", "gs", "ss", "tr", "ldt"), SegmentRegister()),
    gdt=DescriptorTable(), idt=DescriptorTable(), cr0=Cr0(),
)  # fmt: skip


def put(bench, mode, **fields):
    """Put Sregs of that mode with some fields changed; what is read back of those fields."""
    vcpu = bench.vcpu()
    vcpu.put(attrs.evolve(enter(mode, vcpu.get(Sregs), page_table=PAGE_TABLE), **fields))
    found = vcpu.get(Sregs)
    return [getattr(found, name) for name in fields]


# -- modes -------------------------------------------------------------------------------------------------------------


for _mode in (REAL, PROTECTED, LONG):
    case(None, f"{_mode} mode")(lambda bench, mode=_mode: put(bench, mode, cr0=enter(mode, SREGS).cr0))


@refused("long-mode-is-active")
def lme_without_lma_while_paging(bench):
    put(bench, LONG, efer=Efer(lme=True))


@accepted
def lme_without_lma_before_paging(bench):
    return put(bench, PROTECTED, efer=Efer(lme=True), cr4=Cr4(pae=True))


@refused("long-mode-needs-pae")
def long_mode_without_pae(bench):
    put(bench, LONG, cr4=Cr4())


@refused("lma-is-long-mode")
def lma_without_paging(bench):
    put(bench, PROTECTED, efer=LONG_MODE, cr4=Cr4(pae=True))


@refused("lma-is-long-mode")
def lma_without_lme(bench):
    put(bench, LONG, efer=Efer(lma=True))


@refused("code-64-is-long-mode")
def a_64_bit_code_segment_outside_long_mode(bench):
    vcpu = bench.vcpu()
    sregs = enter(PROTECTED, vcpu.get(Sregs))
    vcpu.put(attrs.evolve(sregs, cs=attrs.evolve(sregs.cs, l=True, db=False)))


@accepted
def a_64_bit_code_segment_with_d(bench):
    vcpu = bench.vcpu()
    sregs = enter(LONG, vcpu.get(Sregs), page_table=PAGE_TABLE)
    vcpu.put(attrs.evolve(sregs, cs=attrs.evolve(sregs.cs, l=True, db=True)))
    return vcpu.get(Sregs).cs.db


@refused("paging-needs-protection")
def paging_without_protection(bench):
    put(bench, REAL, cr0=Cr0(pg=True, et=True))


@refused("nw-needs-cd")
def not_write_through_without_cache_disable(bench):
    put(bench, PROTECTED, cr0=Cr0(pe=True, et=True, nw=True))


@accepted
def caches_off(bench):
    return put(bench, PROTECTED, cr0=Cr0(pe=True, et=True, nw=True, cd=True))


@refused("cr0-has-32-bits")
def cr0_beyond_32_bits(bench):
    put(bench, PROTECTED, cr0=Cr0(1 << 32 | 0x11))


@accepted
def cr0_reserved_below_32_bits(bench):
    return put(bench, PROTECTED, cr0=Cr0(1 << 6 | 0x11))


@refused("cr3-is-an-address")
def cr3_beyond_the_address_bits_in_long_mode(bench):
    bits = bench.facts.supported_state(Cpuid).physical_address_bits
    put(bench, LONG, cr3=1 << bits)


@refused("cr3-is-an-address")
def cr3_beyond_the_address_bits_with_process_contexts(bench):
    table = bench.facts.supported_state(Cpuid)
    if not table.has(Feature.PCID):
        return NOT_HERE
    return put(bench, LONG, cr3=1 << table.physical_address_bits, cr4=Cr4(pae=True, pcide=True))


@accepted
def cr3_beyond_the_address_bits_outside_long_mode(bench):
    bits = bench.facts.supported_state(Cpuid).physical_address_bits
    return put(bench, PROTECTED, cr3=1 << bits)


@refused("cr4-reserved")
def cr4_beyond_its_bits(bench):
    put(bench, PROTECTED, cr4=Cr4(1 << 32))


@refused("cr4-reserved")
def cr4_with_a_bit_that_means_nothing(bench):
    put(bench, PROTECTED, cr4=Cr4(1 << 15))


def with_cr4(bench, feature, bit, *, supported):
    table = bench.facts.supported_state(Cpuid)
    if not table.has(feature):
        return NOT_HERE
    vcpu = bench.vcpu(table=table if supported else table.without(feature))
    vcpu.put(attrs.evolve(enter(PROTECTED, vcpu.get(Sregs)), cr4=Cr4(**{bit: True})))
    return vcpu.get(Sregs).cr4


FEATURES = {
    Feature.XSAVE: "osxsave", Feature.SMEP: "smep", Feature.SMAP: "smap", Feature.FSGSBASE: "fsgsbase",
    Feature.UMIP: "umip", Feature.PKU: "pke", Feature.LA57: "la57", Feature.PCID: "pcide",
}  # fmt: skip
for _feature, _bit in FEATURES.items():
    case(None, f"CR4 {_bit} with its feature")(
        lambda bench, feature=_feature, bit=_bit: with_cr4(bench, feature, bit, supported=True)
    )
    case("cr4-needs-feature", f"CR4 {_bit} without its feature", on_software if _bit == "umip" else never)(
        lambda bench, feature=_feature, bit=_bit: with_cr4(bench, feature, bit, supported=False)
    )
for _bit in ("vme", "pvi", "tsd", "de", "pse", "pae", "mce", "pge", "pce", "osfxsr", "osxmmexcpt"):
    case(None, f"CR4 {_bit} without any table")(lambda bench, bit=_bit: cr4_without_table(bench, bit))


def cr4_without_table(bench, bit):
    vcpu = bench.vcpu(table=False)
    vcpu.put(attrs.evolve(enter(PROTECTED, vcpu.get(Sregs)), cr4=Cr4(**{bit: True})))
    return vcpu.get(Sregs).cr4


@accepted
def efer_with_a_bit_that_means_nothing(bench):
    return put(bench, PROTECTED, efer=Efer(1 << 40))


@accepted
def efer_of_system_calls_and_no_execute(bench):
    return put(bench, PROTECTED, efer=Efer(sce=True, nxe=True))


# -- the APIC base -----------------------------------------------------------------------------------------------------


@refused("apic-base-reserved")
def apic_base_with_a_low_bit(bench):
    put(bench, PROTECTED, apic_base=ApicBase(0xFEE00901))


@refused("apic-base-reserved")
def apic_base_beyond_the_address_bits(bench):
    bits = bench.facts.supported_state(Cpuid).physical_address_bits
    put(bench, PROTECTED, apic_base=ApicBase(1 << bits | 0xFEE00900))


@refused("x2apic-needs-apic")
def x2apic_of_an_apic_that_is_off(bench):
    put(bench, PROTECTED, apic_base=ApicBase(bsp=True, x2apic=True, page=0xFEE00))


@accepted
def apic_off(bench):
    return put(bench, PROTECTED, apic_base=ApicBase(bsp=True, page=0xFEE00))


@accepted
def x2apic_and_back_at_once(bench):
    vcpu = bench.vcpu()
    sregs = vcpu.get(Sregs)
    found = []
    for base in (ApicBase(0xFEE00D00), ApicBase(0xFEE00900), ApicBase(0xFEE00D00), ApicBase(0xFEE00100)):
        vcpu.put(attrs.evolve(sregs, apic_base=base))
        found.append(vcpu.get(Sregs).apic_base)
    return found


@refused("apic-base-reserved")
def x2apic_without_its_feature(bench):
    table = bench.facts.supported_state(Cpuid).without(Feature.X2APIC)
    vcpu = bench.vcpu(table=table)
    vcpu.put(attrs.evolve(vcpu.get(Sregs), apic_base=ApicBase(0xFEE00D00)))


# -- interrupts in Sregs -----------------------------------------------------------------------------------------------


@accepted
def the_bitmap_is_the_injected_interrupt(bench):
    vcpu = bench.vcpu(irqchip=False)
    vcpu.put(attrs.evolve(vcpu.get(Sregs), interrupt_bitmap=1 << 0x31 | 1 << 0x80))
    events = vcpu.get(VcpuEvents)
    return vcpu.get(Sregs).interrupt_bitmap, events.interrupt_injected, events.interrupt_vector


@accepted
def the_injected_interrupt_is_the_bitmap_with_chips_too(bench):
    vcpu = bench.vcpu()
    vcpu.put(VcpuEvents(interrupt_injected=True, interrupt_vector=0x41))
    return vcpu.get(Sregs).interrupt_bitmap


@accepted
def cr8_is_the_task_priority_of_the_local_apic(bench):
    vcpu = bench.vcpu()
    vcpu.put(attrs.evolve(vcpu.get(Sregs), cr8=5))
    return vcpu.get(Lapic).task_priority


@accepted
def a_task_priority_is_cr8(bench):
    vcpu = bench.vcpu()
    vcpu.put(attrs.evolve(vcpu.get(Lapic), task_priority=0x70))
    return vcpu.get(Sregs).cr8


@accepted
def cr8_of_five_bits_changes_nothing(bench):
    vcpu = bench.vcpu()
    vcpu.put(attrs.evolve(vcpu.get(Sregs), cr8=3))
    vcpu.put(attrs.evolve(vcpu.get(Sregs), cr8=0x15))
    return vcpu.get(Sregs).cr8


@accepted
def cr8_without_chips(bench):
    vcpu = bench.vcpu(irqchip=False)
    vcpu.put(attrs.evolve(vcpu.get(Sregs), cr8=5))
    return vcpu.get(Sregs).cr8
