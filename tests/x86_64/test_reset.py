"""The state after RESET: the manual's numbers, and what real KVM gives a new vCPU."""

import os

import attrs
import pytest

from anyvisor.errors import HypervisorUnavailable
from anyvisor.x86_64.reset import reset_states
from anyvisor.x86_64.state import Activity, Fpu, Lapic, MpState, Regs, Sregs, Xsave
from anyvisor_kvm.hypervisor import open_kvm


def states(index=0):
    return {type(state): state for state in reset_states(index)}


def test_the_first_instruction_is_sixteen_bytes_below_four_gib():
    assert states()[Sregs].cs.base + states()[Regs].rip == 0xFFFFFFF0
    assert int(states()[Sregs].cr0) == 0x60000010
    assert int(states()[Regs].rflags) == 2


def test_the_boot_processor_runs_and_the_others_wait():
    assert [states(index)[MpState].activity for index in (0, 1)] == [Activity.RUNNABLE, Activity.UNINITIALIZED]
    assert [int(states(index)[Sregs].apic_base) for index in (0, 1)] == [0xFEE00900, 0xFEE00800]
    assert states(3)[Lapic].id == 3 << 24


def test_the_fpu_is_as_fninit_leaves_it():
    assert (states()[Xsave].fcw, states()[Xsave].mxcsr, states()[Xsave].xstate_bv) == (0x37F, 0x1F80, 0)
    assert len(states()[Xsave].area) == 4096
    assert states()[Fpu].fcw == 0x37F


@pytest.fixture(scope="module")
def vcpu():
    try:
        kvm = open_kvm()
    except HypervisorUnavailable as error:
        if os.environ.get("CI") == "true":
            pytest.fail(f"CI must have KVM: {error}")
        pytest.skip(f"to run this: {error}")
    with kvm, kvm.create_vm() as vm:
        yield vm.create_vcpu(0)


def test_a_new_vcpu_of_kvm_is_in_the_same_state(vcpu):
    ours, theirs = states(), {kind: vcpu.get(kind) for kind in (MpState, Regs, Sregs, Fpu)}
    model = theirs[Regs].rdx  # the processor's family, model and stepping, which a backend has in its CPUID
    assert attrs.evolve(theirs[Regs], rdx=0) == ours[Regs]
    assert model
    assert theirs[MpState] == ours[MpState]
    assert theirs[Sregs] == ours[Sregs]
    assert theirs[Fpu] == ours[Fpu]
