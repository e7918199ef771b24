"""What a vCPU refuses of its CPUID table."""

import attrs

from anyvisor.x86_64.cpuid import Cpuid, CpuidEntry
from anyvisor.x86_64.features import Feature
from anyvisor.x86_64.modes import PROTECTED, enter
from anyvisor.x86_64.state import (
    Sregs,
)
from rule_cases.case import NOT_HERE, accepted, accepted_elsewhere, refused

NO_SUCH_MSR = 0x12345
NON_CANONICAL = 1 << 62
MXCSR, HEADER = 24, 512
X87, SSE, AVX, AVX512 = 1, 2, 4, 0xE0


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
