"""Whole machines on the backend, through `launch`: run to the end, paused and resumed, stopped and closed."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from functools import partial
from typing import Any

import attrs
import pytest

from anyvisor.architectures import part
from anyvisor.facts import Capability
from anyvisor.hypervisor import Hypervisor
from anyvisor.launch import launch
from anyvisor.machine import Machine
from anyvisor.outcome import Phase
from anyvisor.states import Change
from anyvisor.testing.bench import OTHER_PORTS, PORTS, guests_of
from anyvisor.testing.contracts.contract import Contract
from anyvisor.testing.guest import Scriptable, TinyGuest
from anyvisor.testing.listener import Listener
from anyvisor.testing.requirements import needs
from anyvisor.testing.watch import PATIENCE_SECONDS, Underway, until

SHORT_SECONDS = 0.05
MakeMachine = Callable[[TinyGuest], tuple[Machine, Listener]]


class MachineContract(Contract):
    """A machine as its users have it. The guests are those of the self-test, in its mode."""

    @pytest.fixture
    def machine(self, hypervisor: Hypervisor) -> Iterator[MakeMachine]:
        """Launches a machine for a guest: `machine(guests.SPIN)`; it is closed after the test."""
        with ExitStack() as stack:

            def make(guest: TinyGuest) -> tuple[Machine, Listener]:
                made = stack.enter_context(launch(_plan(hypervisor, guest), hypervisor))
                heard = Listener()
                made.bus.add_ports(PORTS, heard)
                made.bus.add_ports(OTHER_PORTS, Listener())
                _play(made, guest)
                return made, heard

            yield make

    def test_a_machine_runs_until_its_guest_halts(self, hypervisor: Hypervisor, machine: MakeMachine) -> None:
        """The plan that `anyvisor doctor` tries a backend with ends `halted`, and its device has heard it."""
        made, heard = machine(_guests(hypervisor).OUT_42)
        assert made.start().wait(PATIENCE_SECONDS).reason == "halted"
        assert heard.values == [42]

    def test_a_guest_that_dies_is_an_error_with_a_diagnosis(self, hypervisor: Hypervisor, machine: MakeMachine) -> None:
        """When a device fails, `wait` raises that error's diagnosis, and the machine can be closed."""
        made, heard = machine(_guests(hypervisor).OUT_42)

        def fail() -> None:
            raise LookupError("the device is broken")

        heard.then = fail
        made.start()
        with pytest.raises(Exception, match="the device is broken"):
            made.wait(PATIENCE_SECONDS)

    @needs(Capability.KICK)
    def test_a_machine_that_is_paused_stands_still_and_goes_on(
        self, hypervisor: Hypervisor, machine: MakeMachine
    ) -> None:
        """After `pause` no vCPU runs and their states can be read; after `resume` the guest goes on; `stop` ends it."""
        made, heard = machine(_guests(hypervisor, "running").ECHO_FOREVER)
        made.start()
        until(lambda: heard.reads, "the guest's first IN")
        for _ in range(3):
            made.pause(PATIENCE_SECONDS)
            count = len(heard.reads)
            assert made.phase is Phase.PAUSED
            states = _states(made)
            time.sleep(SHORT_SECONDS)
            assert _states(made) == states, "a paused vCPU's registers change"
            assert len(heard.reads) == count, "a paused guest runs on"
            made.resume()
            until(partial(_heard_more, heard, count), "the guest going on after resume")
        assert made.stop(PATIENCE_SECONDS).reason == "stopped"

    @needs(Capability.KICK)
    def test_a_machine_is_stopped_from_any_thread(self, hypervisor: Hypervisor, machine: MakeMachine) -> None:
        """`stop` ends a guest that spins, from another thread than the one that started it; who waits is told."""
        made, heard = machine(_guests(hypervisor).OUT_42_THEN_SPIN)
        made.start()
        until(lambda: heard.writes, "the guest's first OUT")
        waiting = Underway(made.wait, "Machine.wait")
        assert Underway(lambda: made.stop(PATIENCE_SECONDS), "Machine.stop").result().reason == "stopped"
        assert waiting.result().reason == "stopped"

    @needs(Capability.KICK)
    def test_a_machine_is_closed_from_any_thread_and_twice(self, hypervisor: Hypervisor, machine: MakeMachine) -> None:
        """`close` stops a guest that spins and gives all back, from any thread; a second one does nothing."""
        made, heard = machine(_guests(hypervisor).OUT_42_THEN_SPIN)
        made.start()
        until(lambda: heard.writes, "the guest's first OUT")
        Underway(made.close, "Machine.close").result()
        made.close()
        assert made.phase is Phase.STOPPED

    @needs(Capability.KICK)
    def test_who_waits_for_a_guest_that_spins_is_told_that_the_time_is_over(
        self, hypervisor: Hypervisor, machine: MakeMachine
    ) -> None:
        """`wait` with a limit raises TimeoutError, and the machine runs on."""
        made, heard = machine(_guests(hypervisor).OUT_42_THEN_SPIN)
        made.start()
        until(lambda: heard.writes, "the guest's first OUT")
        with pytest.raises(TimeoutError):
            made.wait(SHORT_SECONDS)
        assert made.phase is Phase.RUNNING

    def test_a_machine_that_never_started_is_closed(self, hypervisor: Hypervisor, machine: MakeMachine) -> None:
        """A machine that was launched and not started closes as any other."""
        made, _ = machine(_guests(hypervisor).SPIN)
        made.close()
        made.close()

    @needs(Capability.DETERMINISTIC)
    def test_a_deterministic_machine_runs(self, hypervisor: Hypervisor) -> None:
        """A plan that says `deterministic` is launched on such a VM, and ends as any other."""
        guest = _guests(hypervisor).OUT_42
        plan = attrs.evolve(_plan(hypervisor, guest), deterministic=True)
        with launch(plan, hypervisor) as made:
            _play(made, guest)
            assert made.start().wait(PATIENCE_SECONDS).reason == "halted"


def _heard_more(heard: Listener, count: int) -> bool:
    return len(heard.reads) > count


def _guests(hypervisor: Hypervisor, topic: str = "") -> Any:
    return guests_of(hypervisor.facts.architecture, topic)


def _plan(hypervisor: Hypervisor, guest: TinyGuest) -> Any:
    """The self-test's plan with that guest's code in place of its own; the guests here are the same in every mode."""
    plan = part(hypervisor.facts.architecture, "selftest").plan()
    (blob,) = plan.blobs
    code = next(iter(guest.code.values()))
    return attrs.evolve(plan, blobs=(attrs.evolve(blob, content=code, size_bytes=len(code)),))


def _play(made: Machine, guest: TinyGuest) -> None:
    target = made.vcpus[0]
    if isinstance(target, Scriptable) and guest.does is not None:
        target.play(guest.does)


def _states(made: Machine) -> list[Any]:
    """What the plan set of the vCPU: its registers among them, which a guest that runs would change."""
    kinds = [each.kind if isinstance(each, Change) else type(each) for each in made.plan.vcpus[0].states]
    return [made.vcpus[0].get(kind) for kind in kinds]
