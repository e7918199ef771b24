"""The mock passes the conformance suite, as an author's class has it."""

import pytest

import anyvisor
from anyvisor.testing import HypervisorTests

LACKS = {
    "deterministic",
    "full-processor",
    "full-system",
    "max_memory_slots of 256 at most, to use them up",
    "max_vcpus of 16 at most, to make them all",
    "no coalesced-io",
    "no ioeventfd",
    "no irqchip",
    "no irqfd",
    "no readonly-memory",
    "the processor mode long",
    "the processor mode protected",
    "the processor mode real",
    "the processor mode real or protected or long",
}
"""It plays in acts what guests do to others; what is about instructions and registers it cannot."""


class TestMock(HypervisorTests):
    LACKS = LACKS

    @pytest.fixture
    def hypervisor(self):
        with anyvisor.open_hypervisor("mock") as hypervisor:
            yield hypervisor
