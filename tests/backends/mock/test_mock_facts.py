"""The mock has what its facts have."""

import os
import time

import attrs
import pytest
from played_guests import INTERRUPTS_ON, Made

from anyvisor.acts import Halt, Store
from anyvisor.bus import Bus
from anyvisor.errors import HypervisorError, Unsupported
from anyvisor.exits import Shutdown
from anyvisor.facts import Capability
from anyvisor.memory import GuestMemory, Region
from anyvisor.testing.listener import Vectors
from anyvisor.x86_64.chips import Irqchip
from anyvisor.x86_64.cpuid import Cpuid
from anyvisor.x86_64.generic import FACTS
from anyvisor.x86_64.state import Fpu, Sregs
from anyvisor_mock import MockHypervisor
from anyvisor_mock.hypervisor import default_facts


def test_without_arguments_it_is_a_modern_host_that_executes_nothing():
    with MockHypervisor() as mock:
        assert (mock.facts.backend, mock.facts.modes, mock.facts.architecture) == ("mock", (), "x86_64")
        assert mock.facts.supported_state(Cpuid).vendor
        assert not mock.facts.has(Capability.NATIVE)


def test_what_the_facts_lack_the_mock_has_not(made):
    bare = attrs.evolve(default_facts(), capabilities=frozenset(), states=("x86_64.Regs", "x86_64.Sregs"))
    one = Made(facts=bare)
    fd = os.eventfd(0)
    calls = [
        lambda: one.vm.set_irq(1, True), lambda: one.vm.add_irqfd(fd, 1), lambda: one.vm.remove_irqfd(fd, 1),
        lambda: one.vm.add_ioeventfd(fd, Region(0, 1)), lambda: one.vm.remove_ioeventfd(fd, Region(0, 1)),
        lambda: one.vm.coalesce(Region(0, 1)),
        lambda: one.vm.map_memory(GuestMemory([Region(0x10000, 0x1000)]).regions[0], readonly=True),
    ]  # fmt: skip
    for call in calls:
        with pytest.raises(Unsupported, match="rule capabilities"):
            call()
    for call in (
        lambda: one.vcpu.get(Fpu),
        lambda: one.vcpu.put(Fpu()),
        lambda: one.vm.put(Irqchip()),
        lambda: one.vm.get(Irqchip),
    ):
        with pytest.raises(Unsupported, match="rule known-states"):
            call()
    assert one.vcpu.get(Sregs)
    os.close(fd)
    one.mock.close()
    one.memory.close()


def test_no_more_vcpus_than_the_facts_say():
    with MockHypervisor(attrs.evolve(FACTS, max_vcpus=2)) as mock:
        vm = mock.create_vm()
        vm.create_vcpu(0)
        vm.create_vcpu(1)
        with pytest.raises(HypervisorError, match="rule vcpu-limit"):
            vm.create_vcpu(2)


def test_an_architecture_without_rules_is_unsupported():
    mock = MockHypervisor(attrs.evolve(FACTS, architecture="aarch64"))
    with pytest.raises(Unsupported, match="x86_64, not those of aarch64"):
        mock.create_vm()


def test_a_deterministic_vm_counts_its_acts_and_skips_its_halts():
    def life():
        with MockHypervisor(FACTS) as mock:
            vm = mock.create_vm(deterministic=True)
            vcpu, source, seen = vm.create_vcpu(0), Vectors(), []
            vcpu.take_interrupts_from(source)
            vcpu.put(INTERRUPTS_ON)
            timer = vm.clock.timer(lambda: (seen.append(vm.clock.now()), source.waiting.append(0x20)))
            timer.set(3600 * 10**9)
            vcpu.play([*[Store(0, 1, 1)] * 5, Halt(), Shutdown()])
            assert vcpu.run(Bus()) == Shutdown()
            return seen, vm.clock.now(), vm.clock.wall_seconds()

    began = time.monotonic()
    assert life() == life()
    assert life()[0][0] > 3600 * 10**9
    assert time.monotonic() - began < 10
