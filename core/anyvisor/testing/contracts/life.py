"""How hypervisors, VMs and vCPUs come and go: closed in any order, any number of times, and then nobody's any more."""

from __future__ import annotations

import errno
import itertools
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest

from anyvisor.errors import AnyvisorError, HypervisorError
from anyvisor.exits import Halted, Kicked
from anyvisor.facts import Capability
from anyvisor.hypervisor import Hypervisor
from anyvisor.memory import KIB, GuestMemory, Region
from anyvisor.testing.bench import MMIO, Bench
from anyvisor.testing.contracts.contract import Contract, MakeBench
from anyvisor.testing.kinds import examples, vm_kinds
from anyvisor.testing.listener import Vectors
from anyvisor.testing.requirements import lacking, needs

PARTS = ("vcpu", "vm", "hypervisor")
MANY_VCPUS = 16
"""More than that are not made only to see that one more is refused."""


class LifeContract(Contract):
    """Making and closing."""

    @pytest.mark.parametrize("order", list(itertools.permutations(PARTS)), ids="-".join)
    def test_all_may_be_closed_in_any_order_and_twice(
        self, hypervisor: Hypervisor, bench: MakeBench, order: tuple[str, ...]
    ) -> None:
        """A vCPU, its VM and the hypervisor may be closed in any order, and each of them twice."""
        made = bench()
        made.enter(made.guests.HALT)
        assert made.run() == Halted()
        parts: dict[str, Any] = {"vcpu": made.vcpu, "vm": made.vm, "hypervisor": hypervisor}
        for name in (*order, *order):
            parts[name].close()

    def test_a_vm_that_never_ran_may_be_closed(self, hypervisor: Hypervisor) -> None:
        """A VM with neither memory nor vCPU closes as any other."""
        vm = hypervisor.create_vm()
        vm.close()
        vm.close()

    def test_leaving_a_with_statement_closes_the_hypervisor(self, hypervisor: Hypervisor) -> None:
        """A hypervisor is a context manager, of itself, and makes no VM once it is closed."""
        with hypervisor as entered:
            assert entered is hypervisor
        with pytest.raises(AnyvisorError):
            hypervisor.create_vm()

    def test_a_closed_vcpu_is_no_more(self, bench: MakeBench) -> None:
        """`get`, `put` and `run` of a closed vCPU raise HypervisorError (EBADF), and nothing else."""
        made = bench()
        _closed_with(made, made.vcpu.close)

    def test_a_vcpu_goes_with_its_vm(self, bench: MakeBench) -> None:
        """A VM that is closed closes its vCPUs, which then are closed as by themselves."""
        made = bench()
        _closed_with(made, made.vm.close)

    def test_a_closed_vm_is_no_more(self, bench: MakeBench) -> None:
        """A closed VM makes no vCPU, maps no memory and has no state: each raises HypervisorError (EBADF)."""
        made = bench()
        made.vm.close()
        _gone(lambda: made.vm.create_vcpu(0))
        with GuestMemory([Region(0, 16 * KIB)]) as memory:
            for ram in memory:
                _gone(partial(made.vm.map_memory, ram))
        for kind in vm_kinds(made.facts):
            _gone(partial(made.vm.get, kind))
        for state in examples(made.facts).before(made.facts):
            _gone(partial(made.vm.put, state))
        if made.facts.has(Capability.IRQCHIP):
            _gone(lambda: made.vm.set_irq(3, True))
        if made.facts.has(Capability.COALESCED_IO):
            _gone(lambda: made.vm.coalesce(MMIO))

    def test_kicks_and_notices_of_what_is_closed_do_nothing(self, bench: MakeBench) -> None:
        """Who kicks or notifies a vCPU need not know whether it is still there."""
        made = bench(source=Vectors())
        made.vcpu.close()
        made.vcpu.kick()
        made.vcpu.notify_interrupt()
        made.vm.close()
        made.vcpu.kick()
        made.vcpu.notify_interrupt()

    @needs(Capability.KICK)
    def test_what_a_thread_still_runs_is_not_closed(self, bench: MakeBench) -> None:
        """Closing a vCPU or VM while a thread is in `run` raises HypervisorError (EBUSY); after a kick it closes."""
        made = bench()
        made.enter(made.guests.OUT_42_THEN_SPIN)
        underway = made.start()
        underway.until(lambda: made.ports.writes, "the guest's first OUT")
        for close in (made.vcpu.close, made.vm.close):
            with pytest.raises(HypervisorError) as refused:
                close()
            assert refused.value.errno == errno.EBUSY
        assert not underway.is_over(0), "run ended when its vCPU was to be closed"
        made.vcpu.kick()
        assert underway.result() == Kicked()
        made.vm.close()


class VcpusContract(Contract):
    """Which vCPUs a VM has."""

    def test_a_vcpu_has_the_index_it_was_given(self, bench: MakeBench) -> None:
        """`index` is the number that the vCPU was created with, whatever its hardware id."""
        made = bench(vcpus=0)
        assert made.vm.create_vcpu(0, hardware_id=0).index == 0

    @needs(vcpus=2)
    def test_a_hardware_id_is_not_the_index(self, bench: MakeBench) -> None:
        """`index` counts the vCPUs, `hardware_id` is what the guest calls one: the two are independent."""
        made = bench(vcpus=0)
        vcpus = [made.vm.create_vcpu(0, hardware_id=1), made.vm.create_vcpu(1, hardware_id=0)]
        assert [each.index for each in vcpus] == [0, 1]

    @needs(vcpus=2)
    def test_vcpus_are_made_in_any_order(self, bench: MakeBench) -> None:
        """The second may be made before the first; each has the index that it was given, and runs."""
        made = bench(vcpus=0)
        made.vcpus.extend(made.vm.create_vcpu(index) for index in (1, 0))
        assert [each.index for each in made.vcpus] == [1, 0]
        for place in (0, 1):
            made.enter(made.guests.OUT_42, vcpu=place)
            assert made.run(place) == Halted()
        assert made.ports.values == [42, 42]

    def test_no_vcpu_is_made_twice(self, bench: MakeBench) -> None:
        """A second vCPU of the same index is refused, with HypervisorError (EEXIST), and the first one works on."""
        made = bench()
        with pytest.raises(HypervisorError) as refused:
            made.vm.create_vcpu(0)
        assert refused.value.errno == errno.EEXIST
        assert refused.value.operation, "HypervisorError.operation: the name of the call that was refused"
        made.enter(made.guests.HALT)
        assert made.run() == Halted()

    def test_one_vcpu_more_than_there_can_be_is_refused(self, hypervisor: Hypervisor, bench: MakeBench) -> None:
        """A VM has at most `facts.max_vcpus` vCPUs; one more is refused."""
        most = hypervisor.facts.max_vcpus
        if most > MANY_VCPUS:
            lacking(hypervisor.facts, f"max_vcpus of {MANY_VCPUS} at most, to make them all")
        made = bench(vcpus=most)
        with pytest.raises(AnyvisorError):
            made.vm.create_vcpu(most)

    def test_each_vm_has_a_vcpu_0_of_its_own(self, bench: MakeBench) -> None:
        """Two VMs may have vCPUs of the same index, and closing one leaves the other as it is."""
        first, second = bench(), bench()
        first.vm.close()
        second.enter(second.guests.HALT)
        assert second.run() == Halted()


def _closed_with(made: Bench, close: Callable[[], None]) -> None:
    """Call `close`; the vCPU is closed by it."""
    __tracebackhide__ = True
    states = [made.vcpu.get(kind) for kind in made.readable_kinds()]
    close()
    for state in states:
        _gone(partial(made.vcpu.get, type(state)))
        _gone(partial(made.vcpu.put, state))
    _gone(made.run)


def _gone(call: Callable[[], object]) -> None:
    """What is closed says so."""
    __tracebackhide__ = True
    with pytest.raises(HypervisorError) as refused:
        call()
    assert refused.value.errno == errno.EBADF, "what is closed is refused with EBADF"
