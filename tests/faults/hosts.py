"""The hosts that faults are tried on, each opened once with a good plan for it, and what becomes of a fault there."""

from __future__ import annotations

from pathlib import Path

from anyvisor import open_hypervisor
from anyvisor.exits import SystemEvent
from anyvisor.facts import HostFacts
from anyvisor.hypervisor import Hypervisor
from anyvisor.plan import BootPlan
from anyvisor_mock import MockHypervisor
from anyvisor_mock.host_facts import host_facts
from faults.careful import PATIENCE_SECONDS, Verdict, planned, verdict
from faults.fault import AMD, INTEL, KVM, SVM, UNICORN, Fault

MOCKS = {INTEL: "intel-ice-lake-sp", AMD: "amd-milan"}
REAL = {UNICORN: "unicorn", KVM: "kvm", SVM: "kvm"}


MORE_PATIENCE = 20


class Host:
    """A hypervisor, and the kernel planned for it. HypervisorUnavailable where it is not here."""

    def __init__(self, name: str, kernel: Path, folder: Path):
        self.name = name
        self._hypervisor = _open(name)
        self.plan = planned(kernel, folder, self._hypervisor.facts)

    def tried(self, fault: Fault, patience_seconds: float = PATIENCE_SECONDS, good: BootPlan | None = None) -> Verdict:
        """What becomes of a fault here, planted into another good plan or the own."""
        is_mock = self.name in MOCKS
        hypervisor = _open(self.name) if is_mock else self._hypervisor  # a mock plays its script once
        end = b"" if is_mock else fault.end
        patience_seconds *= MORE_PATIENCE if self.name in fault.runs else 1  # it ends by itself
        return verdict(
            fault.plant(good or self.plan), hypervisor, fault.tamper, patience_seconds=patience_seconds, end=end
        )

    @property
    def facts(self) -> HostFacts:
        """What the hypervisor has."""
        return self._hypervisor.facts

    def close(self) -> None:
        """Give the hypervisor back."""
        self._hypervisor.close()


def _open(name: str) -> Hypervisor:
    """A mock executes nothing: its guest just ends."""
    if name in MOCKS:
        return MockHypervisor(host_facts(MOCKS[name]), script=[[SystemEvent("reset")]])
    return open_hypervisor(REAL[name])
