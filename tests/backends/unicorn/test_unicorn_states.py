"""State by type: what is put is got back, in every mode and from every other."""

import attrs
import pytest
from emulated_guests import Guest
from hypothesis import given
from hypothesis import strategies as st
from random_states import CANONICAL, MANY, U32, U64, fpus, regs, sregs

from anyvisor.codec import name_of
from anyvisor.errors import Unsupported
from anyvisor.x86_64.cpuid import Cpuid
from anyvisor.x86_64.lapic import Lapic
from anyvisor.x86_64.msr_index import Msr
from anyvisor.x86_64.msrs import MsrEntry, Msrs
from anyvisor.x86_64.state import (
    DebugRegs,
    Fpu,
    MpState,
    Regs,
    SegmentRegister,
    Sregs,
    VcpuEvents,
)
from anyvisor_unicorn.hypervisor import open_unicorn


@pytest.fixture(scope="module", params=["fast", "counted"])
def vcpu(request):
    with open_unicorn(request.param) as hypervisor:
        made = Guest(hypervisor)
        yield made.vcpu
        made.close()


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
@given(sregs(), regs, sregs(), fpus)
def test_no_state_disturbs_another(vcpu, before, general, special, fpu):
    for order in ((general, special, fpu), (fpu, special, general), (special, general, fpu)):
        vcpu.put(before)
        for state in order:
            vcpu.put(state)
        assert (vcpu.get(Regs), vcpu.get(Sregs), vcpu.get(Fpu)) == (general, special, fpu)


def test_the_high_half_of_rip_survives_leaving_and_entering_long_mode(any_guest):
    """Regs are restored before Sregs, and the vCPU may be in any mode at the time."""
    made = any_guest()
    made.vcpu.put(Regs(rip=0xFFFFFFFF81000000))
    made.vcpu.put(made.vcpu.get(Sregs))
    assert made.vcpu.get(Regs).rip == 0xFFFFFFFF81000000


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
