"""Time that the guest itself makes pass: so much for each step, and a little each time it looks at the clock.

For backends with deterministic VMs: a step is what they count, an instruction or a thousand.

Whoever polls a timer waits for ever if time stands still while nobody runs, so each look takes a moment. What a
deterministic guest does then depends on nothing but itself: its time of day, too, begins at a fixed date.
"""

from __future__ import annotations

from collections.abc import Callable

from anyvisor.clock import NANOSECONDS, Alarm, Deadlines

FIRST_DAY = 1_767_225_600
"""2026-01-01, in seconds since 1970: when every deterministic machine is switched on."""


class CountedClock:
    """A `Clock` that is moved on by the vCPU's thread, and calls its timers there. Not for several threads.

    A step takes `step_ns`, a look at the clock `look_ns` nanoseconds.
    """

    def __init__(self, step_ns: int, look_ns: int) -> None:
        self._now = 0
        self._step_ns = step_ns
        self._look_ns = look_ns
        self._deadlines = Deadlines()

    def now(self) -> int:
        """Nanoseconds since the machine was made; looking takes a moment."""
        self._now += self._look_ns
        return self._now

    def wall_seconds(self) -> float:
        """The time of day of a machine that is always switched on at the same moment."""
        return FIRST_DAY + self.now() / NANOSECONDS

    def timer(self, call: Callable[[], None]) -> CountedTimer:
        """A timer that calls `call` from the vCPU's thread."""
        return CountedTimer(self._deadlines, call)

    def on_failure(self, tell: Callable[[BaseException], None]) -> None:
        """Nobody need be told: a timer's call raises out of `run`."""

    def close(self) -> None:
        """There is nothing to give back."""

    @property
    def next_deadline(self) -> int | None:
        """When the next timer is due; None when there is none."""
        return self._deadlines.next()

    def steps_until_next(self, most: int) -> int:
        """How many steps there are until the next timer, `most` at most."""
        deadline = self._deadlines.next()
        return most if deadline is None else max(min((deadline - self._now) // self._step_ns, most), 1)

    def advance(self, steps: int) -> None:
        """The guest has done so many steps: call what is due by now."""
        self._now += steps * self._step_ns
        while (deadline := self._deadlines.next()) is not None and deadline <= self._now:
            self._deadlines.pop().call()

    def skip(self) -> bool:
        """Go to the next timer and call it, as a halted processor does; False when there is none."""
        deadline = self._deadlines.next()
        if deadline is None:
            return False
        self._now = max(self._now, deadline)
        self.advance(0)
        return True


class CountedTimer:
    """A timer of a `CountedClock`."""

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
