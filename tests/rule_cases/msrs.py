"""What a vCPU refuses of its MSRs."""

import attrs
import pytest

from anyvisor.errors import HypervisorError
from anyvisor.x86_64.cpuid import Cpuid
from anyvisor.x86_64.features import Feature
from anyvisor.x86_64.msrs import Msr, MsrEntry, Msrs, boot_msrs
from anyvisor.x86_64.state import (
    Sregs,
)
from rule_cases.case import accepted, accepted_elsewhere, case, on_software, refused

NO_SUCH_MSR = 0x12345
NON_CANONICAL = 1 << 62
MXCSR, HEADER = 24, 512
X87, SSE, AVX, AVX512 = 1, 2, 4, 0xE0


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
