"""What is closed is given back: no descriptor, thread or mapping stays, whatever happened in between."""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import suppress

import pytest

from anyvisor.errors import AnyvisorError, HypervisorError, Unsupported
from anyvisor.exits import Halted, Kicked, Shutdown
from anyvisor.facts import Capability
from anyvisor.hypervisor import Hypervisor
from anyvisor.memory import MIB, Region
from anyvisor.states import VcpuState
from anyvisor.testing.bench import RAM, Bench
from anyvisor.testing.contracts.contract import Contract
from anyvisor.testing.kinds import examples
from anyvisor.testing.requirements import lacking, needs
from anyvisor.testing.watch import Held

TIMES = 8
MUCH_RAM = Region(RAM.start, 48 * MIB, "RAM")
"""So much that it shows in the address space when it stays."""


class StrangeState(VcpuState):
    """A state type that no backend knows."""


class LeakContract(Contract):
    """Each test does the same a few times, and then looks whether more is held than after the first time."""

    def test_a_vm_that_ran_leaves_nothing(self, hypervisor: Hypervisor) -> None:
        """Make a VM, run it in another thread, close it: what it held is given back."""

        def life() -> None:
            with Bench(hypervisor, ram=(MUCH_RAM,)) as made:
                made.enter(made.guests.OUT_42)
                assert made.run() == Halted()

        _leaves_nothing(life)

    def test_vcpus_closed_one_by_one_leave_nothing(self, hypervisor: Hypervisor) -> None:
        """A vCPU that is closed gives back what it held before its VM does."""
        with Bench(hypervisor) as idle:
            idle.vcpu.close()
            before = Held.now()
            with Bench(hypervisor) as made:
                held = Held.now()
                made.vcpu.close()
                assert not Held.now().gained_since(held)
            assert not Held.now().gained_since(before)

    def test_a_hypervisor_closed_with_its_vms_open_leaves_nothing(self, hypervisor: Hypervisor) -> None:
        """Closing the hypervisor, and then what it made in any order, gives back all that those held."""
        with Bench(hypervisor) as warm:
            warm.enter(warm.guests.HALT)
            warm.run()
        before = Held.now()
        benches = [Bench(hypervisor) for _ in range(3)]
        hypervisor.close()
        for made in benches:
            made.close()
        assert not Held.now().gained_since(before), "still held after hypervisor and VMs were closed"

    def test_a_device_that_fails_leaves_nothing(self, hypervisor: Hypervisor) -> None:
        """An error in the middle of `run` keeps nothing alive."""

        def fail() -> None:
            raise LookupError("the device is broken")

        def life() -> None:
            with Bench(hypervisor) as made:
                made.ports.then = fail
                made.enter(made.guests.OUT_42)
                with pytest.raises(LookupError):
                    made.run()

        _leaves_nothing(life)

    def test_what_is_refused_leaves_nothing(self, hypervisor: Hypervisor) -> None:
        """A second vCPU of one index, a strange state and a state that is refused leave nothing behind."""

        def life() -> None:
            with Bench(hypervisor) as made:
                with pytest.raises(HypervisorError):
                    made.vm.create_vcpu(0)
                with pytest.raises(Unsupported):
                    made.vcpu.put(StrangeState())
                for state in examples(made.facts).refused(made.vcpu, made.facts):
                    with suppress(AnyvisorError):
                        made.vcpu.put(state)

        _leaves_nothing(life)

    def test_a_processor_that_died_leaves_nothing(self, hypervisor: Hypervisor) -> None:
        """A vCPU that has shut down is closed as any other."""

        def life() -> None:
            with Bench(hypervisor) as made:
                made.enter(made.guests_of("running").TRIPLE_FAULT)
                assert isinstance(made.run(), Shutdown)

        _leaves_nothing(life)

    @needs(Capability.KICK)
    def test_kicks_leave_nothing(self, hypervisor: Hypervisor) -> None:
        """Whatever a backend needs to stop a guest that spins goes with the vCPU."""

        def life() -> None:
            with Bench(hypervisor) as made:
                made.enter(made.guests.OUT_42_THEN_SPIN)
                underway = made.start()
                underway.until(lambda: made.ports.writes, "the guest's first OUT")
                made.vcpu.kick()
                assert underway.result() == Kicked()

        _leaves_nothing(life)

    def test_timers_leave_nothing(self, hypervisor: Hypervisor) -> None:
        """The clock goes with its VM, also with a timer set."""

        def life() -> None:
            with Bench(hypervisor) as made:
                made.vm.clock.timer(lambda: None).set(made.vm.clock.now() + 10**12)

        _leaves_nothing(life)

    @needs(Capability.IRQFD, Capability.IOEVENTFD)
    def test_eventfds_leave_nothing(self, hypervisor: Hypervisor) -> None:
        """Eventfds that are still wired to a VM that is closed are their owner's only."""
        facts = hypervisor.facts
        chips = examples(facts).before(facts)
        if not chips:
            lacking(facts, "a state for its interrupt controllers")

        def life() -> None:
            fd = os.eventfd(0)
            try:
                with Bench(hypervisor, states=chips) as made:
                    made.vm.add_irqfd(fd, 3)
                    made.vm.add_ioeventfd(fd, Region(0x20, 1), port=True)
            finally:
                os.close(fd)

        _leaves_nothing(life)


def _leaves_nothing(life: Callable[[], None]) -> None:
    """`life` may leave what is made once and kept. A leak is what grows each of three times that it is lived again."""
    __tracebackhide__ = True
    gained: list[str] = []
    life()
    for _ in range(3):
        before = Held.now()
        for _ in range(TIMES):
            life()
        if not (gained := Held.now().gained_since(before, addresses=True)):
            return
    pytest.fail(f"{TIMES} VMs were made and closed, and still held is: {', '.join(gained)}", pytrace=False)
