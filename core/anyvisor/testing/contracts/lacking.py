"""What a backend does not have it says so by `Unsupported`: states of no known type, methods without a capability."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from anyvisor.errors import Unsupported
from anyvisor.facts import Capability
from anyvisor.hypervisor import Hypervisor, Vm
from anyvisor.memory import GuestMemory
from anyvisor.states import VcpuState, VmState
from anyvisor.testing.bench import MMIO, PORTS, RAM, Bench
from anyvisor.testing.contracts.contract import Contract, MakeBench
from anyvisor.testing.requirements import lacking, needs

NO_FD = -1
CALLS: list[tuple[Capability, str, Callable[[Vm], None]]] = [
    (Capability.IRQCHIP, "set_irq", lambda vm: vm.set_irq(3, True)),
    (Capability.IRQFD, "add_irqfd", lambda vm: vm.add_irqfd(NO_FD, 3)),
    (Capability.IRQFD, "remove_irqfd", lambda vm: vm.remove_irqfd(NO_FD, 3)),
    (Capability.IOEVENTFD, "add_ioeventfd", lambda vm: vm.add_ioeventfd(NO_FD, MMIO)),
    (Capability.IOEVENTFD, "remove_ioeventfd", lambda vm: vm.remove_ioeventfd(NO_FD, PORTS, port=True)),
    (Capability.COALESCED_IO, "coalesce", lambda vm: vm.coalesce(MMIO)),
]
CASES = [pytest.param(capability, call, id=name) for capability, name, call in CALLS]


class StrangeVcpuState(VcpuState):
    """A state type that no backend knows."""


class StrangeVmState(VmState):
    """A state type that no backend knows."""


class LackingContract(Contract):
    """`Unsupported` is what is raised; a caller that asked the facts never meets it."""

    @pytest.mark.parametrize(("capability", "call"), CASES)
    def test_a_method_without_its_capability_is_unsupported(
        self, bench: MakeBench, capability: Capability, call: Callable[[Vm], None]
    ) -> None:
        """A method that needs a capability raises `Unsupported` where the facts have it not."""
        made = bench()
        if made.facts.has(capability):
            lacking(made.facts, f"no {capability.value}")
        with pytest.raises(Unsupported):
            call(made.vm)

    @needs(lacks=(Capability.DETERMINISTIC,))
    def test_a_deterministic_vm_without_the_capability_is_unsupported(self, hypervisor: Hypervisor) -> None:
        """Who asks for a deterministic VM gets one or `Unsupported`, never one that only looks like it."""
        with pytest.raises(Unsupported):
            hypervisor.create_vm(deterministic=True)

    @needs(lacks=(Capability.READONLY_MEMORY,))
    def test_readonly_memory_without_the_capability_is_unsupported(self, hypervisor: Hypervisor) -> None:
        """Memory that the guest could write to after all would be worse than none."""
        with Bench(hypervisor, ram=(), vcpus=0) as made, pytest.raises(Unsupported):
            _map_readonly(made.vm)

    def test_a_strange_state_of_a_vcpu_is_unsupported(self, bench: MakeBench) -> None:
        """`get` and `put` of a vCPU raise `Unsupported` for a type that the facts do not name."""
        made = bench()
        with pytest.raises(Unsupported):
            made.vcpu.get(StrangeVcpuState)
        with pytest.raises(Unsupported):
            made.vcpu.put(StrangeVcpuState())

    def test_a_strange_state_of_a_vm_is_unsupported(self, bench: MakeBench) -> None:
        """`get` and `put` of a VM raise `Unsupported` for a type that the facts do not name."""
        made = bench()
        with pytest.raises(Unsupported):
            made.vm.get(StrangeVmState)
        with pytest.raises(Unsupported):
            made.vm.put(StrangeVmState())


def _map_readonly(vm: Vm) -> None:

    with GuestMemory([RAM]) as memory:
        for ram in memory:
            vm.map_memory(ram, readonly=True)
