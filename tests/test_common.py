"""Facts that hold on several hosts."""

import attrs
import pytest

import anyvisor
from anyvisor.common import common_facts
from anyvisor.errors import PlanError, Unsupported
from anyvisor.facts import Capability, HostFacts
from anyvisor.x86_64.chips import Clock
from anyvisor.x86_64.cpuid import Cpuid
from anyvisor.x86_64.features import Feature
from anyvisor.x86_64.generic import FACTS
from anyvisor.x86_64.msrs import Msr, Msrs

CPUID = FACTS.supported_state(Cpuid)
KVM = HostFacts(
    backend="kvm",
    architecture="x86_64",
    capabilities=frozenset({Capability.IRQCHIP, Capability.PIT, Capability.KICK}),
    states=("Cpuid", "MpState", "Regs", "Msrs"),
    supported=(CPUID, Msrs.of({Msr.EFER: 0, Msr.STAR: 0}), Clock(1)),
    max_vcpus=1024,
    recommended_vcpus=2,
    hardware_id_limit=4096,
    max_memory_slots=32764,
    physical_address_bits=48,
    notes=("one",),
)
EMULATED = HostFacts(
    backend="unicorn",
    architecture="x86_64",
    capabilities=frozenset({Capability.KICK, Capability.DETERMINISTIC}),
    states=("Msrs", "Regs", "Cpuid"),
    supported=(Msrs.of({Msr.STAR: 7}), CPUID.without(Feature.APIC), Clock(2)),
    max_vcpus=1,
    recommended_vcpus=1,
    max_memory_slots=64,
    physical_address_bits=52,
    notes=("two", "one"),
)


def test_what_is_common_is_what_each_of_them_can_do():
    assert common_facts(KVM, EMULATED) == HostFacts(
        backend="kvm+unicorn",
        architecture="x86_64",
        capabilities=frozenset({Capability.KICK}),
        states=("Cpuid", "Regs", "Msrs"),
        supported=(CPUID.without(Feature.APIC), Msrs.of({Msr.STAR: 0})),
        max_vcpus=1,
        recommended_vcpus=1,
        hardware_id_limit=4096,
        max_memory_slots=64,
        physical_address_bits=48,
        notes=("one", "two"),
    )


def test_the_order_of_states_is_the_firsts():
    assert common_facts(EMULATED, KVM).states == ("Msrs", "Regs", "Cpuid")


@pytest.mark.parametrize("facts", [KVM, EMULATED, FACTS], ids=lambda each: each.backend)
def test_one_host_alone_or_twice_is_itself(facts):
    assert common_facts(facts) is facts
    assert common_facts(facts, facts, facts) == facts


def test_common_facts_have_nothing_new_in_common_with_their_hosts():
    common = common_facts(KVM, EMULATED, FACTS)
    assert common.backend == "kvm+unicorn+none"
    assert attrs.evolve(common_facts(common, EMULATED, KVM, FACTS), backend="") == attrs.evolve(common, backend="")
    assert common_facts(common, EMULATED).backend == "kvm+unicorn+none"


def test_a_state_that_one_host_says_nothing_about_is_not_common():
    with pytest.raises(Unsupported, match="kvm\\+none backend says nothing about the Msrs"):
        common_facts(KVM, FACTS).supported_state(Msrs)


@pytest.mark.parametrize(("first", "second", "common"), [(3_000, 3_000, 3_000), (3_000, 2_000, 0), (0, 2_000, 0)])
def test_the_speed_of_the_tsc_is_told_only_if_it_is_the_same(first, second, common):
    """A guest that is told nothing measures it; one that is told the other host's speed would keep the wrong time."""
    hosts = attrs.evolve(KVM, tsc_khz=first), attrs.evolve(EMULATED, tsc_khz=second)
    assert common_facts(*hosts).tsc_khz == common


def test_hosts_of_different_architectures_have_no_plan_in_common():
    other = attrs.evolve(EMULATED, architecture="aarch64")
    with pytest.raises(PlanError, match=r"both for kvm \(x86_64\) and for unicorn \(aarch64\).* make one for each"):
        common_facts(KVM, other)


def test_it_is_a_public_name():
    assert anyvisor.common_facts is common_facts
