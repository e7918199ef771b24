"""Every planted fault is named by the report's first cause, on every host that shows it; elsewhere the guest runs."""

import collections
import functools
from contextlib import ExitStack, closing

import pytest

from anyvisor import HypervisorUnavailable
from anyvisor.checks import check
from anyvisor.finding import errors
from anyvisor.x86_64.generic import FACTS
from faults.careful import RUNS, build, planned
from faults.fault import HOSTS, KVM, PROCESSORS, SVM
from faults.hosts import Host
from faults.near_misses import NEAR_MISSES
from faults.table import FAULTS, GOOD

HERE = [each for each in HOSTS if each != SVM]
REAL_HERE = [each for each in HERE if each in PROCESSORS]
CELLS = [(fault, host) for host in HERE for fault in FAULTS if host in fault.hosts]
ENOUGH = 22 / 25


@pytest.fixture(scope="module")
def kernel(tmp_path_factory):
    try:
        return build(tmp_path_factory.mktemp("careful"))
    except HypervisorUnavailable as error:
        pytest.skip(f"to run this: {error}")


@pytest.fixture(scope="module")
def told(kernel, tmp_path_factory):
    """`told(fault, host)` is what becomes of it there; each is tried once."""
    folder = tmp_path_factory.mktemp("faults")

    @functools.cache
    def host(name):
        try:
            return stack.enter_context(closing(Host(name, kernel, folder)))
        except HypervisorUnavailable as error:
            pytest.skip(f"to run this: {error}")

    with ExitStack() as stack:
        yield functools.cache(lambda fault, name: host(name).tried(fault))


def on(name, *values, **more):
    return pytest.param(*values, **more, marks=[pytest.mark.kvm] * (name == KVM))


@pytest.mark.parametrize(("fault", "host"), [on(host, fault, host, id=f"{host}-{fault.name}") for fault, host in CELLS])
def test_the_first_cause_names_the_planted_fault(fault, host, told):
    found = told(fault, host)
    assert found.first in fault.expected(host), found.page


@pytest.mark.parametrize("host", [on(each, each) for each in HERE])
def test_a_machine_without_a_fault_runs_to_its_end(host, told):
    assert told(GOOD, host).first == RUNS


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.name)
def test_a_look_at_the_plan_finds_what_can_be_seen_there(fault, kernel, tmp_path):
    found = [each.check for each in errors(check(fault.plant(planned(kernel, tmp_path, FACTS))))]
    assert fault.checked in found if fault.checked else found == []


@pytest.mark.kvm
def test_at_least_22_of_25_are_right_and_this_prints_the_table(told):
    """Counted are the cells in which a fault shows."""
    shown = [(fault, host) for fault, host in CELLS if host not in fault.runs]
    right = [(fault, host) for fault, host in shown if told(fault, host).first in fault.causes]
    for fault in FAULTS:
        cells = (f"{host}: {told(fault, host).first}" for host in HERE if host in fault.hosts)
        print(f"{fault.name:<18}", "  ".join(cells))
    count = collections.Counter(host for _, host in right)
    print(f"{len(right)} of {len(shown)} right: " + ", ".join(f"{host} {count[host]}" for host in HERE))
    assert len(right) >= ENOUGH * len(shown)


@pytest.mark.parametrize(
    ("guest", "host"),
    [on(host, guest, host, id=f"{host}-{guest.name}") for host in REAL_HERE for guest in NEAR_MISSES],
)
def test_a_guest_in_a_like_situation_is_not_told_to_have_the_fault(guest, host, told):
    found = told(guest, host)
    assert found.first in guest.causes, found.page
