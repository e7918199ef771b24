"""The mock against KVM, side by side: the same sequences of calls, the same refusals, the same values read back.

The mock is given this host's facts. Where this KVM is known to do otherwise (`Case.differs`), it must do otherwise.
"""

import pytest

from anyvisor_mock import MockHypervisor
from rule_cases import CASES, Kvm

pytestmark = pytest.mark.kvm


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.id)
def test_the_mock_does_as_kvm_does(case, kvm):
    real, _ = case.outcome(kvm)
    with MockHypervisor(kvm.facts) as mock:
        ours, _ = case.outcome(mock)
    differs = case.differs(Kvm.here(kvm.facts))
    if differs is not None:
        assert (ours != real) is differs, f"KVM: {real}, the mock: {ours}"
