"""The planted faults on real KVM: the first cause names them, although the processor resets a vCPU that dies."""

from contextlib import closing

import debian
import pytest

from anyvisor import assemble
from faults.careful import KERNEL, RUNS
from faults.fault import SVM
from faults.hosts import Host
from faults.linux import BZIMAGE, PACKED, config
from faults.near_misses import NEAR_MISSES
from faults.table import FAULTS, GOOD

PATIENCE_SECONDS = 1.0
"""Everything is slower in here."""
TRIED = [each for each in FAULTS if SVM in each.hosts]
DYING = [each for each in NEAR_MISSES if set(each.causes) <= {"undefined-opcode", RUNS}]


@pytest.fixture(scope="module")
def host(tmp_path_factory):
    with closing(Host(SVM, debian.cache_dir() / KERNEL, tmp_path_factory.mktemp("faults"))) as made:
        yield made


@pytest.mark.parametrize("fault", TRIED, ids=lambda fault: fault.name)
def test_the_first_cause_names_the_planted_fault(fault, host):
    found = host.tried(fault, PATIENCE_SECONDS)
    assert found.first in fault.expected(SVM), found.page


@pytest.mark.parametrize("guest", DYING, ids=lambda guest: guest.name)
def test_a_guest_in_a_like_situation_is_not_told_to_have_the_fault(guest, host):
    found = host.tried(guest, PATIENCE_SECONDS)
    assert found.first in guest.causes, found.page


def test_a_machine_without_a_fault_runs_to_its_end(host):
    assert host.tried(GOOD, PATIENCE_SECONDS).first == RUNS


@pytest.fixture(scope="module")
def linux(host, cloud_kernel):
    """A good plan for Debian's kernel."""
    return assemble(config(cloud_kernel.vmlinuz, None, unpack=False), host.facts)


@pytest.mark.parametrize("fault", [*BZIMAGE, *PACKED], ids=lambda fault: fault.name)
def test_the_first_cause_names_what_was_planted_into_debians_kernel(fault, host, linux):
    found = host.tried(fault, 5 * PATIENCE_SECONDS, linux)
    assert found.first in fault.expected(SVM), found.page
