"""The time of a deterministic VM: each act takes a microsecond, and a HLT lasts until the next timer.

Whoever polls a timer would wait for ever if time stood still between two acts, so each look takes a moment, too.
"""

from __future__ import annotations

from collections.abc import Callable

from anyvisor.clock import NANOSECONDS, Alarm, Deadlines

ACT_NS, LOOK_NS = 1000, 10
FIRST_DAY = 1_767_225_600
"""2026-01-01, in seconds since 1970: when every deterministic machine is switched on."""


class ActClock:
    """A `Clock` that is moved on by the acts of a script, and calls its timers between two of them."""

    def __init__(self) -> None:
        self._now = 0
        self._deadlines = Deadlines()

    def now(self) -> int:
        """Nanoseconds since the machine was made; looking takes a moment."""
        self._now += LOOK_NS
        return self._now

    def wall_seconds(self) -> float:
        """The time of day of a machine that is always switched on at the same moment."""
        return FIRST_DAY + self.now() / NANOSECONDS

    def timer(self, call: Callable[[], None]) -> ActTimer:
        """A timer that calls `call` between two acts."""
        return ActTimer(self._deadlines, call)

    def on_failure(self, tell: Callable[[BaseException], None]) -> None:
        """Nobody need be told: a timer's call raises out of `run`."""

    def close(self) -> None:
        """There is nothing to give back."""

    def advance(self) -> None:
        """An act has been played: call what is due by now."""
        self._now += ACT_NS
        self._call_due()

    def skip(self) -> bool:
        """Go to the next timer and call it, as a halted processor does; False when there is none."""
        deadline = self._deadlines.next()
        if deadline is None:
            return False
        self._now = max(self._now, deadline)
        self._call_due()
        return True

    def _call_due(self) -> None:
        while (deadline := self._deadlines.next()) is not None and deadline <= self._now:
            self._deadlines.pop().call()


class ActTimer:
    """A timer of an `ActClock`."""

    def __init__(self, deadlines: Deadlines, call: Callable[[], None]):
        self._deadlines = deadlines
        self._alarm = Alarm(call)

    def set(self, deadline: int) -> None:
        """Be called once at `deadline`."""
        self._alarm.deadline = deadline
        self._deadlines.add(self._alarm)

    def clear(self) -> None:
        """Be not called any more."""
        self._alarm.deadline = None
