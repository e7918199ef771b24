"""Each rule refuses what it says, names itself and the call, and takes the near misses; wherever there is Python."""

import attrs
import pytest

from anyvisor.errors import HypervisorError
from anyvisor.facts import Capability
from anyvisor.memory import PAGE_BYTES, GuestMemory, Region
from anyvisor.x86_64.cpuid import Cpuid
from anyvisor.x86_64.state import Xcrs
from anyvisor_mock import MockHypervisor, rules
from anyvisor_mock.host_facts import host_facts
from anyvisor_mock.x86_64 import rules as x86_rules
from rule_cases import CASES, NOT_HERE

RULES = {rule.name: rule for rule in rules.rules_in(rules, x86_rules)}
FROM_SOURCE = {"memory-is-reachable", "xcr0-mpx-is-whole", "xcr0-amx-is-whole"}
ELSEWHERE = {"one-thread", "known-states", "capabilities", "vcpu-limit", *FROM_SOURCE}
"""Rules that have tests of their own, since KVM cannot be asked, or not everywhere."""


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.id)
def test_a_rule_refuses_by_its_name_and_number_and_takes_the_near_miss(case):
    with MockHypervisor() as mock:
        outcome, error = case.outcome(mock)
    if case.rule is None:
        assert outcome[0] == "accepted", error
        assert outcome[1] != NOT_HERE
        return
    rule = RULES[case.rule]
    assert (getattr(error, "errno", None), outcome[0]) == (rule.errno, "refused" if rule.errno else "unsupported")
    assert f"rule {rule.name}" in str(error)
    assert mock.calls.failed[-1].kind in str(error)


def test_every_rule_has_a_case_and_every_case_a_rule():
    assert {case.rule for case in CASES} - {None} == RULES.keys() - ELSEWHERE
    assert len({case.id for case in CASES}) == len(CASES)


def test_every_rule_says_what_it_refuses_and_where_that_is_known_from():
    for rule in RULES.values():
        assert rule.does.endswith(".") and rule.seen
        assert rule.name == rule.name.lower() and " " not in rule.name


def test_leaf_0xd_says_how_large_an_area_is_with_what_xcr0_has():
    """SDM Vol. 1, 13.4: 512 bytes and a header of 64; AVX's 256 come behind."""
    with MockHypervisor() as mock:
        vcpu = mock.create_vm().create_vcpu(0)
        vcpu.put(mock.facts.supported_state(Cpuid))
        sizes = {}
        for xcr0 in (1, 3, 7):
            vcpu.put(Xcrs(xcr0))
            sizes[xcr0] = vcpu.get(Cpuid)[0xD].ebx
    assert sizes == {1: 576, 3: 576, 7: 832}


# -- rules that were read in KVM's source: no host here has what it takes ----------------------------------------------

X87_SSE, MPX, AMX = 0b11, (1 << 3, 1 << 4), (1 << 17, 1 << 18)


@pytest.mark.parametrize(
    ("host", "pair", "rule"),
    [("intel-skylake-sp", MPX, "xcr0-mpx-is-whole"), ("intel-sapphire-rapids", AMX, "xcr0-amx-is-whole")],
)
def test_components_that_are_pairs_come_together(host, pair, rule):
    with MockHypervisor(host_facts(host)) as mock:
        vcpu = mock.create_vm().create_vcpu(0)
        vcpu.put(mock.facts.supported_state(Cpuid))
        for half in pair:
            with pytest.raises(HypervisorError, match=f"put Xcrs .*rule {rule}"):
                vcpu.put(Xcrs(X87_SSE | half))
        vcpu.put(Xcrs(X87_SSE | sum(pair)))
        assert vcpu.get(Xcrs).xcr0 == X87_SSE | sum(pair)


@pytest.mark.parametrize("host", ["intel-nehalem", "intel-broadwell"])
def test_ram_lies_within_the_host_s_addresses_where_paging_is_nested(host):
    facts = host_facts(host)
    end = 1 << facts.physical_address_bits
    emulated = attrs.evolve(facts, capabilities=facts.capabilities - {Capability.NATIVE})
    with GuestMemory([Region(end - PAGE_BYTES, PAGE_BYTES), Region(end, PAGE_BYTES)]) as memory:
        last, beyond = memory
        with MockHypervisor(facts) as mock:
            vm = mock.create_vm()
            vm.map_memory(last)
            with pytest.raises(HypervisorError, match=r"map_memory .*rule memory-is-reachable"):
                vm.map_memory(beyond)
        with MockHypervisor(emulated) as mock:
            mock.create_vm().map_memory(beyond)
