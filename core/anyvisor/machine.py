"""A running virtual machine: a thread for each vCPU, and start, pause, resume, stop, wait from any other thread.

Some facts about stopping a vCPU. A guest that spins never leaves `Vcpu.run` by itself, so whoever wants it to stop or
pause changes the machine's phase first and then kicks: the vCPU's thread comes back with `Kicked`, looks at the phase
and parks or ends. A kick that arrives while the thread is not in `run` makes the next `run` return at once, so none
is lost.
"""

from __future__ import annotations

import enum
import threading
import time
from collections.abc import Sequence
from contextlib import ExitStack
from types import TracebackType
from typing import Self

import attrs

from anyvisor.assemble import boot_module
from anyvisor.bus import Bus
from anyvisor.console import Console
from anyvisor.diagnose import death
from anyvisor.errors import AnyvisorError, GuestError, PluginError, Unsupported
from anyvisor.exits import Exit, Halted, Kicked, SystemEvent
from anyvisor.hypervisor import Vcpu, Vm
from anyvisor.memory import GuestMemory
from anyvisor.plan import BootPlan
from anyvisor.plugins import Plugins

STOP_SECONDS = 10.0
"""How long a vCPU thread may take to end after it was kicked before that counts as an error."""


class Phase(enum.Enum):
    """Where a machine is in its life."""

    READY = "ready"
    RUNNING = "running"
    PAUSED = "paused"
    STOPPING = "stopping"
    STOPPED = "stopped"


@attrs.frozen
class Outcome:
    """How a machine ended.

    `reason` is `reset` or `shutdown` (the guest asked for it), `halted` (every vCPU halted for good), `stopped` (the
    host asked for it) or `died`; then `error` says why.
    """

    reason: str
    error: BaseException | None = None


class Machine:
    """A virtual machine ready to run. A context manager: leaving it stops the guest and gives everything back.

    `vm`, `vcpus`, `memory`, `bus` are the live parts, for those who know what they do while the machine is paused;
    `consoles` the guest's serial lines by name, `console` the first of them.
    """

    def __init__(self, plan: BootPlan, vm: Vm, vcpus: Sequence[Vcpu], memory: GuestMemory, bus: Bus, plugins: Plugins):
        self.plan = plan
        self.vm = vm
        self.vcpus = list(vcpus)
        self.memory = memory
        self.bus = bus
        self.plugins = plugins
        self.consoles: dict[str, Console] = {}
        self.outcome: Outcome | None = None
        self.phase = Phase.READY
        self._owned = ExitStack()
        self._threads: list[threading.Thread] = []
        self._changed = threading.Condition(threading.RLock())
        self._parked = 0
        self._alive = 0

    def own(self, resources: ExitStack) -> None:
        """Take over `resources`, to be closed with the machine, after what it owns already."""
        resources.push(self._owned)
        self._owned = resources

    @property
    def console(self) -> Console:
        """The guest's first serial line; Unsupported for a machine without one."""
        if not self.consoles:
            raise Unsupported("this machine has no console: no device of its plan asked for one")
        return next(iter(self.consoles.values()))

    def start(self) -> Self:
        """Let the vCPUs run, each in a thread of its own."""
        if self.phase is not Phase.READY:
            raise GuestError(
                f"the machine cannot start: it is {self.phase.value}, and a machine starts once; launch the plan again"
            )
        self.plugins.hook.anyvisor_machine_started(machine=self)
        with self._changed:
            self.phase = Phase.RUNNING
            self._alive = len(self.vcpus)
            self._threads = [
                threading.Thread(target=self._life, args=(vcpu,), name=f"vcpu{vcpu.index}", daemon=True)
                for vcpu in self.vcpus
            ]
        self._start_threads()
        return self

    def pause(self, timeout: float = STOP_SECONDS) -> None:
        """Stop every vCPU between two instructions; returns when all of them stand. No effect on one that has ended."""
        with self._changed:
            if self.phase is not Phase.RUNNING:
                return
            self.phase = Phase.PAUSED
        self._kick_until(lambda: self._parked == self._alive or self.phase is not Phase.PAUSED, timeout, "pause")

    def resume(self) -> None:
        """Let a paused machine go on."""
        with self._changed:
            if self.phase is Phase.PAUSED:
                self.phase = Phase.RUNNING
                self._changed.notify_all()

    def request_stop(self, reason: str) -> None:
        """End the machine soon, from any thread and without waiting; the first reason given is the one that counts."""
        self._end(Outcome(reason))

    def stop(self, timeout: float = STOP_SECONDS) -> Outcome:
        """End the machine and wait until no vCPU runs any more; from any thread, any number of times."""
        self.request_stop("stopped")
        if threading.current_thread() not in self._threads:
            self._kick_until(lambda: self._alive == 0, timeout, "stop")
            for thread in self._threads:
                thread.join(timeout)
        assert self.outcome is not None
        return self.outcome

    def wait(self, timeout: float | None = None) -> Outcome:
        """Wait for the machine to end by itself; TimeoutError after `timeout` seconds, GuestError if the guest died."""
        with self._changed:
            if not self._changed.wait_for(lambda: self.phase is Phase.STOPPED, timeout):
                raise TimeoutError(f"the machine is still {self.phase.value} after {timeout} seconds")
            assert self.outcome is not None
            if self.outcome.error is not None:
                raise self.outcome.error
            return self.outcome

    def close(self) -> None:
        """Stop the machine and give back its vCPUs, devices, memory; may be called twice."""
        try:
            self.stop()
        finally:
            for console in self.consoles.values():
                console.close("closed")
            self._owned.close()

    def _start_threads(self) -> None:
        for index, thread in enumerate(self._threads):
            try:
                thread.start()
            except RuntimeError as error:
                with self._changed:
                    self._alive -= len(self._threads) - index
                    del self._threads[index:]
                self.request_stop("stopped")
                raise GuestError(f"the host cannot start a thread for vCPU {index}: {error}") from error

    # -- a vCPU's thread -----------------------------------------------------------------------------------------------

    def _life(self, vcpu: Vcpu) -> None:
        try:
            while self._may_run():
                exit_ = vcpu.run(self.bus)
                if not isinstance(exit_, Kicked) and not self._decide(vcpu, exit_):
                    break
        except Exception as error:  # noqa: BLE001 - whatever a device or backend raised must reach who waits
            self._end(Outcome("died", error if isinstance(error, AnyvisorError) else _broken(vcpu, error)))
        finally:
            self._retire()

    def _may_run(self) -> bool:
        """Park while the machine is paused; False when the vCPU's time is over."""
        with self._changed:
            while self.phase is Phase.PAUSED:
                self._parked += 1
                self._changed.notify_all()
                self._changed.wait_for(lambda: self.phase is not Phase.PAUSED)
                self._parked -= 1
            return self.phase is Phase.RUNNING

    def _decide(self, vcpu: Vcpu, exit_: Exit) -> bool:
        """What an exit means for the machine; whether the vCPU goes on."""
        if isinstance(exit_, SystemEvent) and exit_.kind in ("shutdown", "reset"):
            self._end(Outcome(exit_.kind))
        elif not isinstance(exit_, Halted):
            self._end(Outcome("died", death(vcpu, exit_, boot_module(self.plan.architecture).REGISTER_STATES)))
        return False

    def _retire(self) -> None:
        with self._changed:
            self._alive -= 1
            last = self._alive == 0
            self._changed.notify_all()
        if last:
            self._finish()

    def _finish(self) -> None:
        """The last vCPU has ended: close the consoles, tell the onlookers, wake who waits."""
        self._end(Outcome("halted"))
        assert self.outcome is not None
        for console in self.consoles.values():
            console.close(self.outcome.reason)
        try:
            self.plugins.hook.anyvisor_machine_stopped(machine=self, outcome=self.outcome)
        except PluginError as error:  # told to who waits, unless there is worse to tell
            self.outcome = attrs.evolve(self.outcome, error=self.outcome.error or error)
        finally:
            with self._changed:
                self.phase = Phase.STOPPED
                self._changed.notify_all()

    # -- changing the phase --------------------------------------------------------------------------------------------

    def _end(self, outcome: Outcome) -> None:
        with self._changed:
            if self.outcome is not None:
                return
            self.outcome = outcome
            self.phase = Phase.STOPPING if self._threads else Phase.STOPPED
            self._changed.notify_all()
        for vcpu in self.vcpus:
            vcpu.kick()

    def _kick_until(self, done: object, timeout: float, purpose: str) -> None:
        deadline = time.monotonic() + timeout
        for vcpu in self.vcpus:
            vcpu.kick()
        with self._changed:
            if not self._changed.wait_for(done, max(deadline - time.monotonic(), 0)):  # type: ignore[arg-type]
                raise GuestError(
                    f"the machine did not {purpose} within {timeout} seconds: "
                    f"{self._alive} vCPU(s) do not answer a kick"
                )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _broken(vcpu: Vcpu, error: Exception) -> GuestError:
    broken = GuestError(
        f"vCPU {vcpu.index}: a device or backend failed: {type(error).__name__}: {error}", vcpu=vcpu.index
    )
    broken.__cause__ = error
    return broken
