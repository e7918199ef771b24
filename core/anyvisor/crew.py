"""The threads that run a machine's vCPUs, and the life they share: started, paused, resumed, stopped, waited for.

Some facts about stopping a vCPU. A guest that spins never leaves `Vcpu.run` by itself, so whoever wants it to stop or
pause changes the phase first and then kicks: the vCPU's thread comes back with `Kicked`, looks at the phase and parks
or ends. A kick that arrives while the thread is not in `run` makes the next `run` return at once, so none is lost.
"""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING

import attrs

from anyvisor.bus import Bus
from anyvisor.errors import AnyvisorError, GuestError
from anyvisor.exits import Exit, Kicked
from anyvisor.flight import ExitRing
from anyvisor.hypervisor import Vcpu
from anyvisor.outcome import DIED, Outcome, Phase, device_failure
from anyvisor.patience import limit
from anyvisor.tapped_bus import bus_noting

if TYPE_CHECKING:
    from anyvisor.panics import Panic


class Crew:
    """A thread for each vCPU. What they meet is decided by who owns the crew.

    `decide(exit)` gives the reason that an exit is to end the machine, or None when only this vCPU is done; of one that
    has died, `examine(vcpu, exit)` gives the error. `judge(outcome)` gives the panic and the note that go with an
    outcome, and `ended(outcome)` is then called once, by the last thread, before anyone who waits is told. `rings` are
    the flight recorders of the vCPUs, in their order, or none.
    """

    def __init__(
        self,
        vcpus: Sequence[Vcpu],
        bus: Bus,
        decide: Callable[[Exit], str | None],
        examine: Callable[[Vcpu, Exit], AnyvisorError],
        judge: Callable[[Outcome], tuple[Panic | None, str]],
        ended: Callable[[Outcome], None],
        rings: Sequence[ExitRing] = (),
    ):
        self.phase = Phase.READY
        self.outcome: Outcome | None = None
        self._vcpus = list(vcpus)
        self._rings = rings
        recorded = zip(vcpus, rings, strict=True) if rings else ()
        self._buses = [bus_noting(vcpu, bus, ring) for vcpu, ring in recorded] or [bus] * len(vcpus)
        self._decide = decide
        self._examine = examine
        self._judge = judge
        self._ended = ended
        self._threads: list[threading.Thread] = []
        self._changed = threading.Condition(threading.RLock())
        self._parked = 0
        self._alive = 0
        self._holders: list[threading.Thread] = []
        self._is_shut = False
        self._is_paused = False
        """Whether who owns the machine has paused it; one that is only held is not."""

    def start(self, before: Callable[[], None]) -> None:
        """Call `before`, then let the vCPUs run. Nothing runs if the machine was told to stop by then."""
        with self._changed:
            if self.phase is not Phase.READY and not self._stopped_early:
                raise GuestError(
                    f"the machine cannot start: it is {self.phase.value}, and a machine starts once; "
                    "launch the plan again"
                )
            if self.outcome is None:
                self.phase = Phase.STARTING
        if self.outcome is None:
            try:
                before()
            except BaseException:
                self.end(Outcome("stopped"))
                raise
        with self._changed:
            if self.outcome is None:
                self.phase = Phase.PAUSED if self._holders else Phase.RUNNING
                self._alive = len(self._vcpus)
                self._threads = [
                    threading.Thread(target=self._life, args=each, name=f"vcpu{each[0].index}", daemon=True)
                    for each in itertools.zip_longest(self._vcpus, self._buses, self._rings)
                ]
        self._start_threads()

    def pause(self, timeout: float) -> None:
        """Park every vCPU between two instructions; GuestError when that takes too long, and then they go on."""
        self._refuse_own_thread("pause")
        with self._changed:
            self._is_paused = self.phase in (Phase.RUNNING, Phase.PAUSED)
        try:
            self._park(timeout, lambda: self._parked == self._alive or self.phase is not Phase.PAUSED)
        except AnyvisorError:
            self.resume()
            raise

    def resume(self) -> None:
        """Let parked vCPUs go on, once nobody holds them."""
        with self._changed:
            self._is_paused = False
            self._go_on()

    @contextmanager
    def held(self, timeout: float) -> Iterator[None]:
        """A block in which no vCPU runs; whatever was running goes on behind it, unless it was paused meanwhile.

        GuestError when that takes longer than `timeout` seconds, and then nothing is held; and once it is `shut`.
        """
        self._refuse_own_thread("be held")
        with self._changed:
            if self._is_shut:
                raise GuestError("the machine cannot be held: it is closed, and its vCPUs are gone; do it before")
            self._holders.append(threading.current_thread())
        try:
            self._park(timeout, lambda: self._parked == self._alive)
            yield
        finally:
            with self._changed:
                self._holders.remove(threading.current_thread())
                self._go_on()
                self._changed.notify_all()

    def _park(self, timeout: float, is_done: Callable[[], bool]) -> None:
        """Make every vCPU that runs stand still, and wait until that is done."""
        deadline = time.monotonic() + timeout
        with self._changed:
            was_running = self.phase is Phase.RUNNING
            self.phase = Phase.PAUSED if was_running else self.phase
        if was_running:
            self._kick_all()
        self._wait_until(is_done, deadline, timeout, "pause")

    def _go_on(self) -> None:
        if self.phase is Phase.PAUSED and not self._is_paused and not self._holders:
            self.phase = Phase.RUNNING
            self._changed.notify_all()

    def end(self, outcome: Outcome) -> bool:
        """End the machine soon, without waiting; the first outcome is the one that counts. False for another."""
        with self._changed:
            if self.outcome is not None:
                return False
            self.outcome = outcome
            self.phase = Phase.STOPPING if self._threads else Phase.STOPPED
            self._changed.notify_all()
        self._kick_all()
        return True

    def fail(self, error: AnyvisorError) -> None:
        """End the machine because of an error. One that is ending already has it, too: it may be why it does not."""
        self.end(Outcome(DIED, error))
        self._blame(error)
        self._kick_all()

    def _blame(self, error: AnyvisorError) -> None:
        """Keep an error as the cause of the end, unless there is one."""
        with self._changed:
            assert self.outcome is not None
            self.outcome = attrs.evolve(self.outcome, error=self.outcome.error or error)

    def join(self, timeout: float) -> None:
        """Wait until no thread runs any more, unless called from one; GuestError when one does not answer a kick."""
        if self._in_own_thread:
            return
        deadline = time.monotonic() + timeout
        try:
            self._kick_all()
        finally:
            self._wait_until(lambda: self._alive == 0, deadline, timeout, "stop")
            for thread in self._threads:
                thread.join(timeout)

    def shut(self, timeout: float) -> None:
        """Let nobody hold the vCPUs any more, and wait for others who do; GuestError when that takes too long."""
        with self._changed:
            self._is_shut = True
            if not self._changed.wait_for(lambda: {*self._holders} <= {threading.current_thread()}, limit(timeout)):
                raise GuestError(f"the machine did not close within {timeout} seconds: another thread still holds it")

    def wait(self, timeout: float | None) -> Outcome:
        """Wait for the end; TimeoutError after `timeout` seconds."""
        self._refuse_own_thread("be waited for")
        with self._changed:
            if self.phase is Phase.READY:
                raise GuestError("the machine cannot be waited for: it was not started; call start first")
            if not self._changed.wait_for(lambda: self.phase is Phase.STOPPED, limit(timeout)):
                raise TimeoutError(f"the machine is still {self.phase.value} after {timeout} seconds")
            assert self.outcome is not None
            return self.outcome

    # -- a vCPU's thread -----------------------------------------------------------------------------------------------

    def _life(self, vcpu: Vcpu, bus: Bus, ring: ExitRing | None) -> None:
        try:
            while self._may_run():
                exit_ = vcpu.run(bus)
                if not isinstance(exit_, Kicked):
                    self._ended_run(vcpu, exit_, ring)
                    break
        except BaseException as error:  # noqa: BLE001 - whatever a device or backend raised must reach who waits
            self.fail(device_failure(error, vcpu))
        finally:
            self._retire()

    def _ended_run(self, vcpu: Vcpu, exit_: Exit, ring: ExitRing | None) -> None:
        """A vCPU is done. One that died ends the machine first and is examined then: nobody else runs on meanwhile."""
        if ring is not None:
            ring.ended_run(exit_)
        reason = self._decide(exit_)
        if reason and self.end(Outcome(reason)) and reason == DIED:
            self._blame(self._examine(vcpu, exit_))

    def _may_run(self) -> bool:
        """Park while the machine is paused; False when the vCPU's time is over."""
        with self._changed:
            while self.phase is Phase.PAUSED:
                self._parked += 1
                self._changed.notify_all()
                self._changed.wait_for(lambda: self.phase is not Phase.PAUSED)
                self._parked -= 1
            return self.phase is Phase.RUNNING

    def _retire(self, count: int = 1) -> None:
        with self._changed:
            self._alive -= count
            last = self._alive == 0
            self._changed.notify_all()
        if last:
            self._finish()

    def _finish(self) -> None:
        """The last vCPU has ended: tell the owner, then wake who waits."""
        self.end(Outcome("halted"))
        assert self.outcome is not None
        panic, note = self._judge(self.outcome)
        with self._changed:
            self.outcome = attrs.evolve(self.outcome, panic=panic, note=note)
        try:
            self._ended(self.outcome)
        except AnyvisorError as error:  # told to who waits, unless there is worse to tell
            self.outcome = attrs.evolve(self.outcome, error=self.outcome.error or error)
        finally:
            with self._changed:
                self.phase = Phase.STOPPED
                self._changed.notify_all()

    # -- inside --------------------------------------------------------------------------------------------------------

    def _start_threads(self) -> None:
        for index, thread in enumerate(self._threads):
            try:
                thread.start()
            except RuntimeError as error:
                missing = len(self._threads) - index
                self.end(Outcome("stopped"))
                del self._threads[index:]
                self._retire(missing)
                raise GuestError(f"the host cannot start a thread for vCPU {index}: {error}") from error

    def _wait_until(self, done: Callable[[], bool], deadline: float, timeout: float, purpose: str) -> None:
        with self._changed:
            if not self._changed.wait_for(done, limit(max(deadline - time.monotonic(), 0))):
                raise GuestError(
                    f"the machine did not {purpose} within {timeout} seconds: "
                    f"{self._alive} vCPU(s) do not answer a kick"
                )

    def _kick_all(self) -> None:
        """Kick every vCPU, the others too when that of one fails; the error is told in the end."""
        with ExitStack() as kicks:
            for vcpu in reversed(self._vcpus):
                kicks.callback(vcpu.kick)

    @property
    def _in_own_thread(self) -> bool:
        return threading.current_thread() in self._threads

    @property
    def is_over(self) -> bool:
        """Whether no thread runs a vCPU, now or ever again."""
        return self.outcome is not None and self._alive == 0

    @property
    def _stopped_early(self) -> bool:
        return self.outcome is not None and not self._threads

    def _refuse_own_thread(self, purpose: str) -> None:
        if self._in_own_thread:
            raise GuestError(f"the machine cannot {purpose} from a thread of its own vCPUs; do it from another")
