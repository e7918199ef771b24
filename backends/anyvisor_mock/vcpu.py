"""A vCPU of the mock: its states keep KVM's rules, and `run` plays a script.

Some facts about HLT, as KVM has it. With the interrupt chips in the hypervisor, or a source of the machine's own and
interrupts on, it is a wait: kicks end `run`, and the next one goes on waiting. Else `run` returns Halted, and the next
one goes on behind it. Here an interrupt is only taken in that wait. A source's vector is acknowledged and kept in
`interrupts`; of the chips, a line that rises wakes the boot processor if its interrupts are on, whatever their
registers say. Then the script goes on: a handler is for it to play.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, TypeVar

from anyvisor.acts import Halt, Spin
from anyvisor.bell import make_bell
from anyvisor.bus import Bus
from anyvisor.closing import Closing
from anyvisor.exits import Exit, Halted, Kicked
from anyvisor.flight import ExitRing
from anyvisor.interrupts import InterruptSource
from anyvisor.states import VcpuState
from anyvisor.tapped_bus import TappedBus
from anyvisor_mock import rules
from anyvisor_mock.architecture import Processor
from anyvisor_mock.desk import public
from anyvisor_mock.player import Guest, Player

if TYPE_CHECKING:
    from anyvisor_mock.vm import MockVm

S = TypeVar("S", bound=VcpuState)


class MockVcpu(Closing):
    """One vCPU, made by `MockVm.create_vcpu`; see `anyvisor.hypervisor.Vcpu`. A context manager."""

    def __init__(self, index: int, vm: MockVm, processor: Processor, guest: Guest = ()):
        self.index = index
        self.name = f"{vm.name} / vcpu {index}"
        self.desk = vm.desk
        self.interrupts: list[int] = []
        """The vectors that it has taken from its source."""
        self._vm = vm
        self._processor = processor
        self._player = Player(vm.space, guest)
        self._storm = self.desk.saboteur.storm(index)
        self._death = self.desk.saboteur.death(index)
        self._source: InterruptSource | None = None
        self._flight: ExitRing | None = None
        self._lock = threading.RLock()
        self._bell = make_bell()
        self._runner: int | None = None
        self._can_be_entered = False
        """Whether its processor has looked at the states since the last put."""
        self._kicked = False
        self._closed = False

    def play(self, script: Guest) -> None:
        """Do these acts in the runs to come, in place of what is left; see `anyvisor_mock.player`."""
        self._player.play(script)
        self._bell.ring()

    # -- state ---------------------------------------------------------------------------------------------------------

    @public
    def get(self, kind: type[S]) -> S:
        """A part of the vCPU's state."""
        self._check(f"get {kind.__name__}")
        self._vm.check_known(f"get {kind.__name__}", kind)
        state: S = self._processor.get(kind)
        return state

    @public
    def put(self, state: VcpuState) -> None:
        """Set a part of the vCPU's state; HypervisorError, naming the rule, for what KVM refuses."""
        operation = f"put {type(state).__name__}"
        self._check(operation)
        self._vm.check_known(operation, type(state))
        self._can_be_entered = False
        self._processor.put(state)

    # -- the life of a run ---------------------------------------------------------------------------------------------

    @public
    def run(self, bus: Bus) -> Exit:
        """Play the script until there is something to decide on; see `Vcpu.run`. What a device raises comes out."""
        with self._inside():
            bus = bus if self._flight is None else TappedBus(bus, self._flight)
            found = self._play(bus)
            self._vm.space.deliver(bus)
            return found

    @contextmanager
    def _inside(self) -> Iterator[None]:
        with self._lock:
            self._check("run")
            if self._runner is not None:
                raise rules.ONE_THREAD.broken("run", f"{self.name} is in run already; kick it and wait")
            self._runner = threading.get_ident()
        try:
            yield
        finally:
            self._runner = None

    def _play(self, bus: Bus) -> Exit:
        while True:
            if self._kicked:
                self._kicked = False
                return Kicked()
            if self._death and self._player.count >= self._death.after:
                return self._death.exit
            if found := self._go_on(bus):
                return found
            if self._storm:
                self._storm -= 1
                return Kicked()

    def _go_on(self, bus: Bus) -> Exit | None:
        """Take an interrupt, wait, or play the next act; an exit when `run` is to return."""
        processor = self._processor
        if processor.halted and self._takes_interrupt():
            processor.halted = False
        if processor.halted and not self._can_wake():
            processor.halted = False
            return Halted()
        if processor.halted or processor.waits_to_be_started:
            return self._wait()
        if not self._can_be_entered and (refused := processor.refused_entry()):
            return refused
        self._can_be_entered = processor.has_run = True
        found = self._player.step(bus)
        if isinstance(found, Exit):
            return found
        if isinstance(found, Spin):  # only a kick, a signal or another script ends that
            return self._wait_for_bell()
        self._vm.pass_time()
        if isinstance(found, Halt):
            processor.halted = True
        return None

    def _wait(self) -> Exit | None:
        """Until there is something to look at; a signal ends `run`."""
        return None if self._vm.skip_time() else self._wait_for_bell()

    def _wait_for_bell(self) -> Exit | None:
        return None if self._storm or self._bell.wait() else Kicked()

    def _can_wake(self) -> bool:
        return self._vm.has_irqchip or (self._source is not None and self._processor.interrupts_on)

    def _takes_interrupt(self) -> bool:
        if not self._processor.interrupts_on:
            return False
        if self._source is None:
            return self._vm.take_risen_line(self.index)
        if self._source.pending:
            self.interrupts.append(self._source.acknowledge())
            return True
        return False

    # -- from other threads --------------------------------------------------------------------------------------------

    @public
    def take_interrupts_from(self, source: InterruptSource) -> None:
        """Wire the INTR pin to a controller of the machine's own; Unsupported where the chips are in the hypervisor."""
        if self._vm.has_irqchip:
            detail = f"{self.name} takes its interrupts from the chips; put no Irqchip into its VM"
            raise rules.ONE_CONTROLLER.broken("take_interrupts_from", detail)
        self._source = source
        self._processor.has_source = True

    def record_exits(self, ring: ExitRing) -> bool:
        """Note every access in `ring` from now on."""
        self._flight = ring
        return True

    @public
    def notify_interrupt(self) -> None:
        """Look at the source soon; from any thread. Does nothing after `close`."""
        self._bell.ring()

    @public
    def kick(self) -> None:
        """Make `run` come back soon with `Kicked`, from any thread or signal handler; see `Vcpu.kick`."""
        self._kicked = True
        self._bell.ring()

    def look(self) -> None:
        """A line of the VM has changed."""
        self._bell.ring()

    # -- the end -------------------------------------------------------------------------------------------------------

    def _check(self, operation: str) -> None:
        if self._closed:
            raise rules.CLOSED.broken(operation, f"{self.name} is closed")
        if self._runner not in (None, threading.get_ident()):
            raise rules.ONE_THREAD.broken(operation, f"{self.name} is in run; kick it and wait")

    @property
    def closed(self) -> bool:
        """Whether `close` has been called."""
        return self._closed

    @public
    def close(self) -> None:
        """Give the vCPU back; HypervisorError (EBUSY) while some thread is in `run`."""
        self.give_back()

    def give_back(self) -> None:
        """What `close` does, for its VM."""
        with self._lock:
            if self._closed:
                return
            if self._runner is not None:
                raise rules.ONE_THREAD.broken("close", f"{self.name} is in run; kick it and wait")
            self._closed = True
