"""A backend that is broken on purpose does not pass, and the suite says what is broken. `pytest -s` shows the table."""

import re

import pytest
from faulty_backends import FAULTS, close_leaked

from anyvisor.testing import bench, run_conformance
from anyvisor_kvm.hypervisor import open_kvm


@pytest.fixture(autouse=True)
def quick(monkeypatch, usable_kvm):
    """A guest that never ends is given up sooner; and no descriptor stays that a fault has leaked."""
    monkeypatch.setattr(bench, "PATIENCE_SECONDS", 1.0)
    yield
    close_leaked()


def told(failure):
    """What an author reads of a failure, in a line."""
    return " ".join(f"{failure.name}: {failure.must_hold} {failure.message}".split())


def test_the_unbroken_backend_passes_what_finds_the_faults():
    report = run_conformance(open_kvm, match=" or ".join(fault.contracts for fault in FAULTS))
    assert report.passed, [told(failure) for failure in report.failures]


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.name)
def test_a_seeded_fault_makes_the_suite_fail_and_is_pointed_at(fault, monkeypatch):
    with fault.installed(monkeypatch) as broken:
        report = run_conformance(broken, match=fault.contracts)
    pointing = [failure for failure in report.failures if re.search(fault.says, told(failure))]
    assert pointing, f"{fault.name}: not pointed at by {[told(failure) for failure in report.failures]}"
    first = pointing[0]
    print(f"\n{fault.name}\n  {first.name} ({len(report.failures)} of {len(report.results)} tests fail)")
    print(f"  must hold: {first.must_hold}\n  {' '.join(first.message.split())[:200]}")
