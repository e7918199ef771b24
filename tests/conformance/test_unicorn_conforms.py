"""The emulated processor passes the conformance suite, in each of its modes."""

import pytest

from anyvisor.testing import HypervisorTests
from anyvisor_unicorn.hypervisor import open_unicorn

LACKS = {
    "2 vCPUs",
    "coalesced-io",
    "ioeventfd",
    "irqchip",
    "irqfd",
    "no deterministic",
    "readonly-memory",
    "the state x86_64.Lapic",
    "the state x86_64.VcpuEvents",
    "the state x86_64.Xcrs",
    "the state x86_64.Xsave",
    "tsc-deadline",
}


class TestUnicornFast(HypervisorTests):
    LACKS = LACKS

    @pytest.fixture
    def hypervisor(self):
        with open_unicorn("fast") as hypervisor:
            yield hypervisor


class TestUnicornCounted(HypervisorTests):
    LACKS = LACKS

    @pytest.fixture
    def hypervisor(self):
        with open_unicorn("counted") as hypervisor:
            yield hypervisor
