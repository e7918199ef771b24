"""What a vCPU refuses of its CPUID table, MSRs, XSAVE area, events and activity."""

import struct

import attrs
import pytest

from anyvisor.errors import HypervisorError
from anyvisor.x86_64.cpuid import Cpuid, CpuidEntry
from anyvisor.x86_64.features import Feature
from anyvisor.x86_64.modes import PROTECTED, enter
from anyvisor.x86_64.msrs import Msr, MsrEntry, Msrs, boot_msrs
from anyvisor.x86_64.state import (
    Activity,
    Fpu,
    MpState,
    Regs,
    Sregs,
    VcpuEvents,
    Xcrs,
    Xsave,
)
from rule_cases import NOT_HERE, accepted, accepted_elsewhere, case, on_software, refused

NO_SUCH_MSR = 0x12345
NON_CANONICAL = 1 << 62
MXCSR, HEADER = 24, 512
X87, SSE, AVX, AVX512 = 1, 2, 4, 0xE0


# -- CPUID -------------------------------------------------------------------------------------------------------------


@refused("cpuid-entry-limit")
def a_table_of_257_entries(bench):
    bench.vcpu(table=Cpuid(tuple(CpuidEntry(0x40000000 + index) for index in range(257))))


@accepted
def a_table_of_256_entries(bench):
    table = Cpuid(tuple(CpuidEntry(0x40000000 + index) for index in range(256)))
    return len(bench.vcpu(table=table).get(Cpuid))


@refused("cpuid-address-bits")
def linear_addresses_of_50_bits(bench):
    bench.vcpu(table=Cpuid((CpuidEntry(0x80000000, eax=0x80000008), CpuidEntry(0x80000008, eax=50 << 8 | 40))))


@accepted
def linear_addresses_of_48_57_or_no_bits(bench):
    vcpu = bench.vcpu(table=False)
    for bits in (48, 57, 0):
        vcpu.put(Cpuid((CpuidEntry(0x80000000, eax=0x80000008), CpuidEntry(0x80000008, eax=bits << 8 | 40))))
    return vcpu.get(Cpuid)


@accepted_elsewhere
def a_table_is_replaced_before_the_first_run(bench):
    vcpu = bench.vcpu()
    vcpu.put(Cpuid((CpuidEntry(0, eax=1), CpuidEntry(1, eax=0x6F1))))
    return vcpu.get(Cpuid)


@accepted
def no_table_at_all(bench):
    return bench.vcpu(table=False).get(Cpuid)


@refused("cpuid-is-frozen")
def another_table_after_a_run(bench):
    vcpu = bench.vcpu_that_has_run()
    vcpu.put(vcpu.get(Cpuid).replace(CpuidEntry(0x40000000, eax=0x40000001, ebx=1)))


@refused("cpuid-is-frozen")
def a_shorter_table_after_a_run(bench):
    vcpu = bench.vcpu_that_has_run()
    vcpu.put(Cpuid(vcpu.get(Cpuid).entries[:-1]))


@accepted
def the_same_table_after_a_run(bench):
    vcpu = bench.vcpu_that_has_run()
    vcpu.put(vcpu.get(Cpuid))


@accepted_elsewhere
def the_table_that_was_put(bench):
    vcpu = bench.vcpu_that_has_run()
    vcpu.put(bench.facts.supported_state(Cpuid))


@accepted
def osxsave_follows_cr4(bench):
    table = bench.facts.supported_state(Cpuid)
    if not table.has(Feature.XSAVE):
        return NOT_HERE
    vcpu = bench.vcpu()
    found = []
    for osxsave in (True, False):
        sregs = enter(PROTECTED, vcpu.get(Sregs))
        vcpu.put(attrs.evolve(sregs, cr4=sregs.cr4.replace(osxsave=osxsave)))
        found.append(vcpu.get(Cpuid).has(Feature.OSXSAVE))
    return found


@accepted
def the_apic_bit_follows_the_apic_base(bench):
    vcpu = bench.vcpu()
    found = []
    for enabled in (False, True):
        sregs = vcpu.get(Sregs)
        vcpu.put(attrs.evolve(sregs, apic_base=sregs.apic_base.replace(enabled=enabled)))
        found.append(vcpu.get(Cpuid).has(Feature.APIC))
    return found


# -- MSRs --------------------------------------------------------------------------------------------------------------


def put_msrs(bench, values, **options):
    vcpu = bench.vcpu(**options)
    vcpu.put(Msrs(tuple(MsrEntry(index, value) for index, value in values.items())))
    found = vcpu.get(Msrs)
    return [found.get(index) for index in values]


@accepted
def the_msrs_of_a_boot(bench):
    return put_msrs(bench, {each.index: each.value for each in boot_msrs() if each.index != Msr.TSC})


@refused("msr-exists")
def an_msr_that_there_is_not(bench):
    put_msrs(bench, {NO_SUCH_MSR: 7})


@accepted
def the_msrs_before_a_bad_one_are_set(bench):
    vcpu = bench.vcpu()
    with pytest.raises(HypervisorError, match="MSR 0x12345=0x7 refused"):
        vcpu.put(Msrs((MsrEntry(Msr.STAR, 0x99), MsrEntry(NO_SUCH_MSR, 7), MsrEntry(Msr.FMASK, 0x77))))
    found = vcpu.get(Msrs)
    return found[Msr.STAR], found[Msr.FMASK]


for _msr in (Msr.LSTAR, Msr.CSTAR, Msr.KERNEL_GS_BASE, Msr.FS_BASE, Msr.GS_BASE):
    case("msr-is-canonical", f"{_msr.name} without a canonical address")(
        lambda bench, msr=_msr: put_msrs(bench, {msr: NON_CANONICAL})
    )
    case(None, f"{_msr.name} with a canonical address")(
        lambda bench, msr=_msr: put_msrs(bench, {msr: 0xFFFF_8000_0000_1234})
    )


@accepted_elsewhere
def a_sysenter_address_is_made_canonical(bench):
    return put_msrs(bench, {Msr.SYSENTER_EIP: 1 << 47 | 0x10, Msr.SYSENTER_ESP: 1 << 47})


@refused("efer-reserved")
def efer_msr_with_a_bit_that_means_nothing(bench):
    put_msrs(bench, {Msr.EFER: 1 << 40})


@accepted
def efer_msr_and_sregs_are_one(bench):
    vcpu = bench.vcpu()
    vcpu.put(Msrs.of({Msr.EFER: 0x901}))
    return vcpu.get(Sregs).efer, vcpu.get(Msrs).get(Msr.EFER)


@accepted
def efer_msr_cannot_set_lma(bench):
    vcpu = bench.vcpu()
    vcpu.put(Msrs.of({Msr.EFER: 0xD00}))
    return vcpu.get(Sregs).efer


@accepted
def the_base_msrs_are_those_of_the_segments(bench):
    vcpu = bench.vcpu()
    vcpu.put(Msrs.of({Msr.FS_BASE: 0x1000, Msr.GS_BASE: 0x2000}))
    sregs = vcpu.get(Sregs)
    vcpu.put(attrs.evolve(sregs, fs=attrs.evolve(sregs.fs, base=0x3000)))
    found = vcpu.get(Msrs)
    return sregs.fs.base, sregs.gs.base, found.get(Msr.FS_BASE), found.get(Msr.GS_BASE)


@accepted
def the_apic_base_msr_is_that_of_sregs(bench):
    vcpu = bench.vcpu()
    vcpu.put(Msrs.of({Msr.APIC_BASE: 0xFEE00D00}))
    return vcpu.get(Sregs).apic_base, vcpu.get(Msrs).get(Msr.APIC_BASE)


@refused("apic-base-reserved")
def apic_base_msr_with_a_low_bit(bench):
    put_msrs(bench, {Msr.APIC_BASE: 0xFEE00901})


@refused("x2apic-needs-apic")
def apic_base_msr_of_an_x2apic_that_is_off(bench):
    put_msrs(bench, {Msr.APIC_BASE: 0xFEE00500})


@refused("memory-types", differs=on_software)
def a_pat_of_types_that_there_are_not(bench):
    put_msrs(bench, {Msr.PAT: 0x0007040600070402})


@accepted
def a_pat(bench):
    return put_msrs(bench, {Msr.PAT: 0x0007040600070406})


@refused("memory-types")
def an_mtrr_default_of_a_type_that_there_is_not(bench):
    put_msrs(bench, {Msr.MTRR_DEF_TYPE: 0x802})


@refused("memory-types")
def an_mtrr_default_with_a_reserved_bit(bench):
    put_msrs(bench, {Msr.MTRR_DEF_TYPE: 0x1806})


@accepted
def an_mtrr_default(bench):
    return put_msrs(bench, {Msr.MTRR_DEF_TYPE: 0xC06})


@refused("memory-types")
def a_fixed_mtrr_of_a_type_that_there_is_not(bench):
    put_msrs(bench, {Msr.MTRR_FIX64K_00000: 0x0606060606060602})


@accepted
def a_fixed_mtrr(bench):
    return put_msrs(bench, {Msr.MTRR_FIX64K_00000: 0x0606060606060606})


@refused("memory-types")
def a_variable_mtrr_beyond_the_address_bits(bench):
    bits = bench.facts.supported_state(Cpuid).physical_address_bits
    put_msrs(bench, {0x200: 1 << bits | 6})


@accepted
def a_variable_mtrr(bench):
    return put_msrs(bench, {0x200: 0x8000_0006, 0x201: 0xC000_0800})


@accepted
def tsc_aux_without_rdtscp(bench):
    table = bench.facts.supported_state(Cpuid).without(Feature.RDTSCP, Feature.RDPID)
    bench.vcpu(table=table).put(Msrs.of({Msr.TSC_AUX: 1}))


@refused("msr-needs-feature")
def xss_without_xsaves(bench):
    table = bench.facts.supported_state(Cpuid)
    if table.get(0xD, 1):
        table = table.without(Feature.XSAVES)
    put_msrs(bench, {Msr.XSS: 8}, table=table)


@accepted
def kvmclock_msrs_without_a_table(bench):
    return put_msrs(bench, {Msr.KVM_SYSTEM_TIME_NEW: 0}, table=False)


@accepted
def star_takes_anything(bench):
    return put_msrs(bench, {Msr.STAR: (1 << 64) - 1, Msr.FMASK: 0xFFFFFFFF})


@accepted
def misc_enable(bench):
    return put_msrs(bench, {Msr.MISC_ENABLE: 1})


@accepted
def the_list_of_a_vcpu_with_every_feature(bench):
    return [each.index for each in bench.vcpu().get(Msrs)]


@accepted
def msrs_at_reset(bench):
    found = {each.index: each.value for each in bench.vcpu().get(Msrs)}
    return {index: value for index, value in found.items() if index != Msr.TSC}


# -- the FPU and XSAVE -------------------------------------------------------------------------------------------------


def area(vcpu, *, xstate_bv=X87 | SSE, xcomp_bv=0, reserved=0, mxcsr=0x1F80):
    made = bytearray(vcpu.get(Xsave).area)
    struct.pack_into("<I", made, MXCSR, mxcsr)
    struct.pack_into("<QQQ", made, HEADER, xstate_bv, xcomp_bv, reserved)
    return Xsave(bytes(made))


@accepted
def mxcsr_lives_in_xsave(bench):
    vcpu = bench.vcpu()
    vcpu.put(area(vcpu, mxcsr=0x1FA0))
    vcpu.put(Fpu(fcw=0x27F, xmm=(bytes(range(16)),) * 16))
    found = vcpu.get(Xsave)
    return found.mxcsr, found.fcw, found.area[160:176], found.xstate_bv & 3


@accepted
def the_fpu_puts_its_components_to_use(bench):
    vcpu = bench.vcpu()
    vcpu.put(Fpu(fcw=0x27F))
    return vcpu.get(Xsave).xstate_bv & 3


@accepted
def mxcsr_of_an_area_that_holds_nothing(bench):
    vcpu = bench.vcpu()
    vcpu.put(area(vcpu, xstate_bv=0, mxcsr=1 << 20))


@accepted
def the_fpu_is_the_first_part_of_xsave(bench):
    vcpu = bench.vcpu()
    made = bytearray(area(vcpu).area)
    made[0:2] = b"\x7f\x02"
    made[32:42] = bytes(range(10))
    vcpu.put(Xsave(bytes(made)))
    return vcpu.get(Fpu)


@accepted
def the_reset_fpu(bench):
    vcpu = bench.vcpu()
    return vcpu.get(Fpu), vcpu.get(Xsave).mxcsr, vcpu.get(Xsave).fcw


@refused("mxcsr-reserved")
def mxcsr_with_a_bit_that_means_nothing(bench):
    vcpu = bench.vcpu()
    vcpu.put(area(vcpu, mxcsr=1 << 20))


@refused("xsave-components")
def a_component_that_there_is_not(bench):
    vcpu = bench.vcpu()
    vcpu.put(area(vcpu, xstate_bv=1 << 62 | 3))


@refused("xsave-header")
def a_compacted_area(bench):
    vcpu = bench.vcpu()
    vcpu.put(area(vcpu, xcomp_bv=1 << 63 | 3))


@refused("xsave-header")
def a_reserved_word_in_the_header(bench):
    vcpu = bench.vcpu()
    vcpu.put(area(vcpu, reserved=1))


@refused("xsave-size")
def an_area_that_is_too_long(bench):
    vcpu = bench.vcpu()
    vcpu.put(Xsave(vcpu.get(Xsave).area + bytes(16)))


@accepted
def an_area_that_is_short(bench):
    vcpu = bench.vcpu()
    vcpu.put(Xsave(area(vcpu).area[:1024]))
    return vcpu.get(Xsave).mxcsr


# -- XCR0 --------------------------------------------------------------------------------------------------------------


def xcr0(bench, value):
    vcpu = bench.vcpu()
    vcpu.put(Xcrs(value))
    return vcpu.get(Xcrs)


def supported_xcr0(bench):
    return bench.facts.supported_state(Cpuid)[0xD].eax


@refused("xcr0-has-x87")
def xcr0_without_x87(bench):
    xcr0(bench, SSE)


@refused("xcr0-avx-needs-sse")
def xcr0_of_avx_without_sse(bench):
    xcr0(bench, X87 | AVX)


@refused("xcr0-avx512-is-whole")
def xcr0_of_a_part_of_avx512(bench):
    if supported_xcr0(bench) & AVX512 != AVX512:
        return NOT_HERE
    return xcr0(bench, X87 | SSE | AVX | AVX512 & -AVX512)


@refused("xcr0-components")
def xcr0_of_a_component_that_there_is_not(bench):
    xcr0(bench, X87 | 1 << 62)


@refused("xcr0-components")
def xcr0_without_a_table(bench):
    bench.vcpu(table=False).put(Xcrs(X87 | SSE))


@accepted
def xcr0_of_all_that_there_is(bench):
    return xcr0(bench, supported_xcr0(bench) | X87)


@accepted
def the_size_of_an_area_follows_xcr0(bench):
    table = bench.facts.supported_state(Cpuid)
    if not table.has(Feature.XSAVE):
        return NOT_HERE
    vcpu = bench.vcpu()
    found = []
    for value in (X87, supported_xcr0(bench)):
        vcpu.put(Xcrs(value))
        found.append(vcpu.get(Cpuid)[0xD].ebx)
    return found


@accepted
def xcr0_of_x87_and_sse(bench):
    return xcr0(bench, (supported_xcr0(bench) & SSE) | X87)


# -- events ------------------------------------------------------------------------------------------------------------


def events(bench, *, irqchip=True, **fields):
    vcpu = bench.vcpu(irqchip=irqchip)
    vcpu.put(VcpuEvents(**fields))
    return vcpu.get(VcpuEvents)


@refused("exception-vectors")
def an_exception_beyond_31(bench):
    events(bench, exception_injected=True, exception_vector=32)


@refused("exception-vectors")
def an_exception_that_is_the_nmi(bench):
    events(bench, exception_pending=True, exception_vector=2)


@accepted
def an_exception_vector_that_is_not_on_its_way(bench):
    return events(bench, exception_vector=32)


@accepted
def a_page_fault_with_its_error_code(bench):
    return events(
        bench, exception_injected=True, exception_vector=14, exception_has_error_code=True, exception_error_code=2
    )


@accepted
def a_payload_without_a_pending_exception_is_dropped(bench):
    return events(bench, exception_injected=True, exception_vector=1, exception_has_payload=True, exception_payload=4)


@accepted
def a_payload_of_a_pending_exception(bench):
    return events(bench, exception_pending=True, exception_vector=1, exception_has_payload=True, exception_payload=4)


@accepted
def a_pending_exception_is_not_injected(bench):
    return events(bench, exception_pending=True, exception_injected=True, exception_vector=6)


@accepted
def an_interrupt_that_is_soft_is_not_reported(bench):
    return events(bench, interrupt_injected=True, interrupt_vector=0x80, interrupt_soft=True)


@accepted
def an_interrupt_on_its_way(bench):
    return events(bench, irqchip=False, interrupt_injected=True, interrupt_vector=0x80)


@accepted
def an_nmi_that_waits(bench):
    return events(bench, nmi_pending=True, nmi_masked=True)


@accepted
def an_nmi_on_its_way(bench):
    return events(bench, nmi_injected=True)


@accepted
def shadows(bench):
    return events(bench, interrupt_shadow=3)


@accepted
def a_triple_fault_on_its_way(bench):
    return events(bench, triple_fault_pending=True)


@accepted
def a_start_up_vector_is_taken_and_never_told(bench):
    return events(bench, sipi_vector=3)


@accepted_elsewhere
def management_mode(bench):
    return events(bench, smm=True, smi_pending=True)


@refused("smm-and-init")
def management_mode_of_a_vcpu_that_was_initialised(bench):
    vcpu = bench.vcpu()
    vcpu.put(MpState(Activity.INIT_RECEIVED))
    vcpu.put(VcpuEvents(smm=True))


# -- activity ----------------------------------------------------------------------------------------------------------

for _activity in Activity:
    if _activity is not Activity.RUNNABLE:
        case("activity-needs-irqchip", f"{_activity.name} without chips")(
            lambda bench, activity=_activity: bench.vcpu(irqchip=False).put(MpState(activity))
        )
    case(None, f"{_activity.name} with chips")(lambda bench, activity=_activity: activity_of(bench.vcpu(), activity))


@accepted
def runnable_without_chips(bench):
    return activity_of(bench.vcpu(irqchip=False), Activity.RUNNABLE)


def activity_of(vcpu, activity):
    vcpu.put(MpState(activity))
    return vcpu.get(MpState)


@accepted
def reset_registers_wake_a_boot_processor_that_halts(bench):
    vcpu = bench.vcpu()
    reset, regs = vcpu.get(Sregs), vcpu.get(Regs)
    vcpu.put(MpState(Activity.HALTED))
    vcpu.put(regs)
    vcpu.put(reset)
    return vcpu.get(MpState)
