"""KVM passes the conformance suite, on this host and in the emulated machine."""

import os

import pytest

from anyvisor import Capability
from anyvisor.errors import HypervisorUnavailable
from anyvisor.testing import HypervisorTests
from anyvisor.testing.x86_64.guests import in_every_mode
from anyvisor_kvm.hypervisor import open_kvm

HAS_ALL = {"no coalesced-io", "no ioeventfd", "no irqchip", "no irqfd", "no readonly-memory"}
"""Needs of tests that are about doing without."""
LACKS = {
    *HAS_ALL,
    "deterministic",
    "max_memory_slots of 256 at most, to use them up",
    "max_vcpus of 16 at most, to make them all",
}
LACKS_IN_SOFTWARE = {"full-system", "the CPUID feature XSAVE"}
"""What KVM does not do where the host's processor has no virtualisation."""


IS_EMULATED = os.environ.get("ANYVISOR_EMULATED") == "1"
"""Whether this runs in the emulated machine."""


def what_kvm_lacks():
    try:
        with open_kvm() as hypervisor:
            is_native = hypervisor.facts.has(Capability.NATIVE)
    except HypervisorUnavailable:
        return LACKS
    return LACKS if is_native else LACKS | LACKS_IN_SOFTWARE


def flaw(what):
    """Decorator: in the emulated machine the test fails, and must."""
    return pytest.mark.xfail(IS_EMULATED, reason=f"a flaw of QEMU's processor: {what}", strict=True)


class TestKvm(HypervisorTests):
    LACKS = what_kvm_lacks()

    @pytest.fixture
    def hypervisor(self, usable_kvm):
        with open_kvm() as hypervisor:
            yield hypervisor

    @flaw("XSETBV is not intercepted, so KVM never hears of it")
    @in_every_mode
    def test_get_gives_the_xcr0_that_the_guest_has_set(self, bench, hypervisor, mode):
        super().test_get_gives_the_xcr0_that_the_guest_has_set(bench, hypervisor, mode)

    @flaw("VMRUN does not load the interrupt shadow, which KVM has set for the MOV SS that it emulated")
    def test_none_is_taken_in_the_shadow_of_a_load_of_ss(self, bench):
        super().test_none_is_taken_in_the_shadow_of_a_load_of_ss(bench)
