"""A virtual machine ready to run: its parts, its consoles, and the life of its vCPUs as one.

The threads and what happens when they are started, paused and stopped are in `crew.py`.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, ExitStack
from typing import TYPE_CHECKING, Self

from anyvisor.bus import Bus
from anyvisor.closing import Closing
from anyvisor.console import Console
from anyvisor.crew import Crew
from anyvisor.errors import GuestError, Unsupported
from anyvisor.exits import Exit, Halted, SystemEvent
from anyvisor.flight import ExitRing
from anyvisor.hypervisor import Vcpu, Vm
from anyvisor.memory import GuestMemory
from anyvisor.outcome import DIED, Outcome, Phase, device_failure
from anyvisor.plan import BootPlan
from anyvisor.plugins import Plugins

if TYPE_CHECKING:
    from anyvisor.diagnosis.live import Inspection
    from anyvisor.panics import Panic
    from anyvisor.symbols import Symbols

STOP_SECONDS = 10.0
"""How long a vCPU thread may take to answer a kick before that counts as an error."""


class Machine(Closing):
    """A virtual machine ready to run. A context manager: leaving it stops the guest and gives everything back.

    `vm`, `vcpus`, `memory`, `bus` are the live parts, for those who know what they do while the machine is paused;
    `consoles` the guest's serial lines by name, `console` the first of them; `flight` the last exits of each vCPU.
    """

    def __init__(
        self,
        plan: BootPlan,
        vm: Vm,
        vcpus: Sequence[Vcpu],
        memory: GuestMemory,
        bus: Bus,
        plugins: Plugins,
        flight: Sequence[ExitRing] = (),
    ):
        self.plan = plan
        self.vm = vm
        self.vcpus = list(vcpus)
        self.memory = memory
        self.bus = bus
        self.plugins = plugins
        self.consoles: dict[str, Console] = {}
        self.symbols: Symbols | None = None
        """The names in the guest's kernel, for the report on its death; set it before `start`."""
        self.flight = tuple(flight)
        """The flight recorder of each vCPU, by index; empty for a machine that was launched without."""
        self._crew = Crew(self.vcpus, bus, self._decide, self._examine, self._judge, self._ended, self.flight)
        self._owned = ExitStack()

    def own(self, resources: ExitStack) -> None:
        """Take over `resources`, to be closed with the machine, after what it owns already."""
        resources.push(self._owned)
        self._owned = resources

    @property
    def phase(self) -> Phase:
        """Where the machine is in its life."""
        return self._crew.phase

    @property
    def outcome(self) -> Outcome | None:
        """How the machine ended; None while it has not."""
        return self._crew.outcome

    @property
    def console(self) -> Console:
        """The guest's first serial line; Unsupported for a machine without one."""
        if not self.consoles:
            raise Unsupported("this machine has no console: no device of its plan asked for one")
        return next(iter(self.consoles.values()))

    def start(self) -> Self:
        """Let the vCPUs run, each in a thread of its own. A machine that was told to stop before does not start."""
        # who only plans need not wait for what a death is examined by; it is there before there is one to examine
        from anyvisor.diagnosis import death, ending  # noqa: F401, PLC0415

        self._crew.start(lambda: self.plugins.hook.anyvisor_machine_started(machine=self))
        return self

    def pause(self, timeout: float = STOP_SECONDS) -> None:
        """Stop every vCPU between two instructions; returns when all of them stand. No effect on one that has ended.

        GuestError when that takes longer than `timeout` seconds; the machine then goes on.
        """
        self._crew.pause(timeout)

    def resume(self) -> None:
        """Let a paused machine go on."""
        self._crew.resume()

    def held(self, timeout: float = STOP_SECONDS) -> AbstractContextManager[None]:
        """A block in which no vCPU runs: `with machine.held(): ...`. What ran before goes on behind it.

        GuestError when a vCPU does not answer within `timeout` seconds; the machine then goes on.
        """
        return self._crew.held(timeout)

    def inspect(self, timeout: float = STOP_SECONDS) -> Inspection:
        """Look at every vCPU: registers, page walks, code, last exits. `print(machine.inspect())` shows a page.

        A machine that runs is paused for it and goes on; one that is paused or has ended stays so. GuestError when
        a vCPU does not answer within `timeout` seconds; the machine then goes on; and for one that is closed.
        """
        from anyvisor.diagnosis.live import inspect  # noqa: PLC0415 - as in `start`

        return inspect(self, timeout)

    def request_stop(self, reason: str) -> None:
        """End the machine soon, from any thread and without waiting; the first reason given is the one that counts."""
        self._crew.end(Outcome(reason))

    def fail(self, error: BaseException) -> None:
        """End the machine soon because a device failed outside of a vCPU's thread; from any thread."""
        self._crew.fail(device_failure(error))

    def stop(self, timeout: float = STOP_SECONDS) -> Outcome:
        """End the machine and wait until no vCPU runs any more; from any thread, any number of times.

        GuestError when a vCPU does not answer within `timeout` seconds.
        """
        try:
            self.request_stop("stopped")
        finally:
            self._crew.join(timeout)
        assert self.outcome is not None
        return self.outcome

    def wait(self, timeout: float | None = None) -> Outcome:
        """Wait for the machine to end by itself; TimeoutError after `timeout` seconds, GuestError if the guest died."""
        outcome = self._crew.wait(timeout)
        if outcome.error is not None:
            raise outcome.error
        return outcome

    def close(self) -> None:
        """Stop the machine and give back its vCPUs, devices, memory; may be called twice.

        GuestError when a vCPU does not answer, or another thread holds the machine or inspects it for too long: then
        nothing is given back, since it is still used, and `close` can be called again.
        """
        try:
            self.stop()
        finally:
            if self._crew.is_over:
                self._crew.shut(STOP_SECONDS)
                for console in self.consoles.values():
                    console.close("closed")
                self._owned.close()

    def _decide(self, exit_: Exit) -> str | None:
        """The reason that an exit which nobody has answered gives the machine to end."""
        if isinstance(exit_, Halted):
            return None
        if isinstance(exit_, SystemEvent) and exit_.kind in ("shutdown", "reset"):
            return exit_.kind
        return DIED

    def _examine(self, vcpu: Vcpu, exit_: Exit) -> GuestError:
        from anyvisor.diagnosis.death import death  # noqa: PLC0415 - as in `start`

        return death(self, vcpu, exit_)

    def _judge(self, outcome: Outcome) -> tuple[Panic | None, str]:
        from anyvisor.diagnosis.ending import judge  # noqa: PLC0415 - as in `start`

        return judge(self, outcome)

    def _ended(self, outcome: Outcome) -> None:
        """The last vCPU has ended."""
        for console in self.consoles.values():
            console.close(": ".join(filter(None, [outcome.reason, outcome.cause])))
        self.plugins.hook.anyvisor_machine_stopped(machine=self, outcome=outcome)
