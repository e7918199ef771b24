"""Faults planted into a plan for Debian's kernel: the first cause names them, on the processors that are here."""

from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack

import pytest

from anyvisor import HypervisorUnavailable, assemble, open_hypervisor
from anyvisor.checks import check
from anyvisor.finding import errors
from anyvisor.x86_64.generic import FACTS
from anyvisor_kvm.x86_64.extension import host_extension
from faults.careful import verdict
from faults.fault import KVM, UNICORN
from faults.hosts import REAL
from faults.linux import BZIMAGE, PACKED, SLOW, config

pytestmark = pytest.mark.timeout(120)
TWO_AT_A_TIME = 2
PATIENCE_SECONDS = 60
ENDLESS_SECONDS = 8
"""For what overwrites itself, and may do anything then."""
FAULTS = (*SLOW, *PACKED, *BZIMAGE)
HERE = (UNICORN, KVM) if host_extension() == "" else (UNICORN,)
CELLS = [(fault, host) for host in HERE for fault in FAULTS if host in fault.hosts]


def assembled(fault, kernel, initrd, facts):
    is_packed, has_root = fault not in SLOW, fault.name != "linux-no-root"
    return assemble(config(kernel.vmlinuz, initrd if has_root else None, unpack=not is_packed), facts)


@pytest.fixture(scope="module")
def told(cloud_kernel, shell_initrd):
    """What becomes of each fault: futures, two at a time."""

    def tried(fault, host):
        plan = fault.plant(assembled(fault, cloud_kernel, shell_initrd, host.facts))
        patience_seconds = ENDLESS_SECONDS if fault.name == "linux-initrd-on-kernel" else PATIENCE_SECONDS
        return verdict(plan, host, fault.tamper, patience_seconds=patience_seconds)

    with ExitStack() as stack:
        hosts = {}
        for name in HERE:
            try:
                hosts[name] = stack.enter_context(open_hypervisor(REAL[name]))
            except HypervisorUnavailable as error:
                reason = f"to run this: {error}"
        pool = stack.enter_context(ThreadPoolExecutor(TWO_AT_A_TIME))
        started = {(fault, name): pool.submit(tried, fault, hosts[name]) for fault, name in CELLS if name in hosts}
        yield lambda fault, name: started[fault, name] if name in hosts else pytest.skip(reason)


@pytest.mark.parametrize(
    ("fault", "host"),
    [
        pytest.param(fault, host, id=f"{host}-{fault.name}", marks=[pytest.mark.kvm] * (host == KVM))
        for fault, host in CELLS
    ],
)
def test_the_first_cause_names_what_was_planted_into_debians_kernel(fault, host, told):
    found = told(fault, host).result(timeout=100)
    assert found.first in fault.expected(host), found.page


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.name)
def test_a_look_at_the_plan_for_debians_kernel_finds_it(fault, cloud_kernel, shell_initrd):
    plan = fault.plant(assembled(fault, cloud_kernel, shell_initrd, FACTS))
    found = [each.check for each in errors(check(plan))]
    assert fault.checked in found if fault.checked else found == []
