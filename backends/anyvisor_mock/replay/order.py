"""Whose turn it is in a replay: the acts of a VM's vCPUs, the ends of their runs and its timers, as recorded.

Some facts about waiting. The devices of a machine belong to all of its vCPUs, so they see the same traffic only if the
acts of several vCPUs come in their recorded order: each thread waits for its turn. It waits as long as the vCPU before
it is in `run`, and a few seconds for one that is not: that one may be on its way there, or the caller has changed.
"""

from __future__ import annotations

import math
import threading
from collections import Counter
from collections.abc import Callable, Iterable

from anyvisor.errors import ReplayError
from anyvisor.recording.trace import Acted, Event, RunEnded, TimerCalled
from anyvisor_mock.replay.judge import Judge


class Order:
    """The turns of one VM. `names` says what to call its vCPUs; `call_timer` is what a `TimerCalled` is given to."""

    def __init__(self, events: Iterable[tuple[int, Event]], names: dict[int, str], judge: Judge, patience: float):
        self._turns = [each for each in events if isinstance(each[1], Acted | RunEnded | TimerCalled)]
        self._names = names
        self._judge = judge
        self._patience_seconds = patience
        self._next = 0
        self._in_timer = False
        self._running: set[int] = set()
        self._kicks: Counter[int] = Counter()
        self._stopped = ""
        self._changed = threading.Condition()
        self.call_timer: Callable[[int], None] = lambda timer: None  # noqa: ARG005

    @property
    def span(self) -> tuple[float, float]:
        """The numbers of the events between which the replay is: what was done last, and what comes next."""
        with self._changed:
            reached = self._next + self._in_timer
            last = self._turns[reached - 1][0] if reached else -1
            return last, self._turns[reached][0] if reached < len(self._turns) else math.inf

    def enter(self, vcpu: int) -> None:
        """The vCPU is in `run`."""
        with self._changed:
            self._running.add(vcpu)

    def leave(self, vcpu: int) -> None:
        """It is no more."""
        with self._changed:
            self._running.remove(vcpu)
            self._changed.notify_all()

    def begin(self, vcpu: int, number: int) -> None:
        """Wait for the turn of event `number`, which is the vCPU's, and call the timers that come before it."""
        while (timer := self._wait(vcpu, number)) is not None:
            self.call_timer(timer.timer)
            self.end()

    def end(self) -> None:
        """The turn is over."""
        with self._changed:
            self._in_timer = False
            self._next += 1
            self._changed.notify_all()

    def stop(self, reason: str) -> None:
        """Let nobody wait any more: the replay is over. The first reason counts."""
        with self._changed:
            self._stopped = self._stopped or reason
            self._changed.notify_all()

    def kick(self, vcpu: int) -> None:
        """The vCPU was kicked; from any thread. Kicks count here: each is one recorded `Kicked`."""
        with self._changed:
            self._kicks[vcpu] += 1
            self._changed.notify_all()

    def wait_for_kick(self, vcpu: int) -> None:
        """Wait as long as it takes, as one waits for a guest that spins."""
        with self._changed:
            self._changed.wait_for(lambda: self._kicks[vcpu] or self._stopped)
            self._check()
            self._kicks[vcpu] -= 1

    def _wait(self, vcpu: int, number: int) -> TimerCalled | None:
        """A timer to be called first by who asks, or None when it is his turn."""
        with self._changed:
            while True:
                self._check()
                at, event = self._turns[self._next]
                if at == number:
                    return None
                if isinstance(event, TimerCalled) and not self._in_timer:
                    self._in_timer = True
                    return event
                self._wait_for_others(vcpu, number, at, event)

    def _wait_for_others(self, vcpu: int, number: int, at: int, event: Event) -> None:
        before = self._next
        moved = self._changed.wait_for(lambda: self._next != before or self._stopped, self._patience_seconds)
        if not moved and not self._in_timer and event.subject not in self._running:
            self._judge.lacks(
                f"{self._names[vcpu]} is at event {number}, and event {at}, of {self._names[event.subject]}, comes "
                f"first; nobody has let that run for {self._patience_seconds:g} s"
            )

    def _check(self) -> None:
        if self._stopped:
            raise ReplayError(f"the replay has ended: {self._stopped}")
