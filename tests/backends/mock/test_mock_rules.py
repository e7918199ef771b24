"""Each rule refuses what it says, names itself and the call, and takes the near misses; wherever there is Python."""

import pytest

import rule_cases_sregs  # noqa: F401 - they declare their cases
import rule_cases_state  # noqa: F401
import rule_cases_vm  # noqa: F401
from anyvisor.x86_64.cpuid import Cpuid
from anyvisor.x86_64.state import Xcrs
from anyvisor_mock import MockHypervisor, rules
from anyvisor_mock.x86_64 import rules as x86_rules
from rule_cases import CASES, NOT_HERE

RULES = {rule.name: rule for rule in rules.rules_in(rules, x86_rules)}
ELSEWHERE = {"one-thread", "known-states", "capabilities", "vcpu-limit"}
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
