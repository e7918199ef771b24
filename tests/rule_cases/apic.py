"""What the id of a local APIC is, by its mode, and what KVM refuses of it."""

import attrs

from anyvisor.x86_64.control import ApicBase
from anyvisor.x86_64.cpuid import Cpuid
from anyvisor.x86_64.lapic import Lapic
from anyvisor.x86_64.msrs import Msr, Msrs
from anyvisor.x86_64.state import MpState, Sregs
from rule_cases.case import accepted, before_618, case, never, refused

OFF = {"x2apic": False, "enabled": False}
XAPIC, X2APIC = {"x2apic": False, "enabled": True}, {"x2apic": True, "enabled": True}
OTHER_ID, OTHER_DESTINATION = 9, 0x11000000


def numbered(bench, number):
    vcpu = bench.vm(irqchip=True).create_vcpu(0, number)
    vcpu.put(bench.facts.supported_state(Cpuid))
    return vcpu


def switch(vcpu, mode):
    sregs = vcpu.get(Sregs)
    vcpu.put(attrs.evolve(sregs, apic_base=sregs.apic_base.replace(**mode)))


def ids(vcpu):
    found = vcpu.get(Lapic)
    return found.id, found.logical_destination


def through(bench, number, *modes):
    """The id and the logical destination in one mode after the other."""
    vcpu = numbered(bench, number)
    found = [ids(vcpu)]
    for mode in modes:
        switch(vcpu, mode)
        found.append(ids(vcpu))
    return found


for _number in (0, 1, 5, 254, 255, 256, 300, 4095):
    case(None, f"the id of vCPU number {_number} in x2APIC mode")(
        lambda bench, number=_number: through(bench, number, X2APIC)
    )
    case(None, f"the id of vCPU number {_number} behind x2APIC mode")(
        lambda bench, number=_number: through(bench, number, X2APIC, OFF, XAPIC, X2APIC)
    )
    case(None, f"the id of vCPU number {_number} in x2APIC mode and back at once", before_618 if _number else never)(
        lambda bench, number=_number: through(bench, number, X2APIC, XAPIC, OFF, X2APIC)
    )


@accepted
def a_vcpu_of_a_number_that_eight_bits_do_not_hold(bench):
    vcpu = numbered(bench, 300)
    return vcpu.get(MpState), vcpu.get(Sregs).apic_base


@accepted
def registers_of_an_x2apic_are_put_back(bench):
    vcpu = numbered(bench, 300)
    switch(vcpu, X2APIC)
    before = vcpu.get(Lapic)
    vcpu.put(attrs.evolve(before, spurious_vector=0x1FF))
    return vcpu.get(Lapic)


@refused("x2apic-id-is-fixed")
def the_id_of_another_in_x2apic_mode(bench):
    vcpu = numbered(bench, 300)
    switch(vcpu, X2APIC)
    vcpu.put(attrs.evolve(vcpu.get(Lapic), id=301))


@refused("x2apic-id-is-fixed")
def the_upper_eight_bits_that_the_id_would_be_without_x2apic_mode(bench):
    vcpu = numbered(bench, 5)
    switch(vcpu, X2APIC)
    vcpu.put(attrs.evolve(vcpu.get(Lapic), id=5 << 24))


@accepted
def another_logical_destination_in_x2apic_mode(bench):
    vcpu = numbered(bench, 300)
    switch(vcpu, X2APIC)
    vcpu.put(attrs.evolve(vcpu.get(Lapic), logical_destination=OTHER_DESTINATION))
    return ids(vcpu)


@accepted
def another_id_without_x2apic_mode_until_it_is_switched_on(bench):
    vcpu = numbered(bench, 5)
    vcpu.put(attrs.evolve(vcpu.get(Lapic), id=OTHER_ID << 24, logical_destination=OTHER_DESTINATION))
    found = [ids(vcpu)]
    for mode in (OFF, XAPIC, X2APIC):
        switch(vcpu, mode)
        found.append(ids(vcpu))
    return found


@accepted
def an_x2apic_by_its_msr(bench):
    vcpu = numbered(bench, 300)
    vcpu.put(Msrs.of({Msr.APIC_BASE: ApicBase(0xFEE00C00)}))
    return ids(vcpu), vcpu.get(Sregs).apic_base
