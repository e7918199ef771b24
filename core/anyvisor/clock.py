"""The time that a machine's devices live in.

A device never asks the host for the time: it asks its machine's clock, which is the host's own in most machines and a
counted one where every boot must be the same as the last. Times are nanoseconds since the machine was made.

Some facts about threads. `HostClock` calls timers from a thread of its own, with no lock held, so a device may set a
timer while it holds its own lock, and take that lock when it is called. A timer that was cleared may be called once
more, by a call that was on its way; a device looks at its own state to see whether it still matters.
"""

from __future__ import annotations

import heapq
import itertools
import threading
import time
from collections.abc import Callable
from typing import Protocol

NANOSECONDS = 10**9
ROOM = 32
"""So many timers may be left behind before they are cleared away."""


class Timer(Protocol):
    """Something that is to be called at one moment; made by `Clock.timer`."""

    def set(self, deadline: int) -> None:
        """Be called once, at `deadline` (nanoseconds) or soon if that is past; this replaces what was set before."""
        ...

    def clear(self) -> None:
        """Be not called any more."""
        ...


class Clock(Protocol):
    """A machine's time."""

    def now(self) -> int:
        """Nanoseconds since the machine was made; never goes back."""
        ...

    def wall_seconds(self) -> float:
        """The time of day: seconds since 1970, UTC."""
        ...

    def timer(self, call: Callable[[], None]) -> Timer:
        """A timer that calls `call`; it is not set yet."""
        ...

    def on_failure(self, tell: Callable[[BaseException], None]) -> None:
        """Whom to tell when a timer's call raises where nobody else would see it."""
        ...

    def close(self) -> None:
        """Call no timer any more; may be called twice."""
        ...


class Deadlines:
    """Timers in the order of their deadlines. Not locked: its owner is.

    What was set and then replaced or cleared stays behind until it is due, or until there is too much of it: a guest
    that sets a far timer again and again must not fill the host's memory.
    """

    def __init__(self) -> None:
        self._heap: list[tuple[int, int, Alarm]] = []
        self._count = itertools.count()
        self._room = ROOM

    def add(self, alarm: Alarm) -> None:
        """Remember an alarm at its deadline; what was remembered of it before counts no more."""
        assert alarm.deadline is not None
        alarm.ticket = next(self._count)
        heapq.heappush(self._heap, (alarm.deadline, alarm.ticket, alarm))
        if len(self._heap) > self._room:
            self._heap = [each for each in self._heap if self._holds(*each)]
            heapq.heapify(self._heap)
            self._room = 2 * len(self._heap) + ROOM

    def next(self) -> int | None:
        """The first deadline; None when there is none."""
        while self._heap and not self._holds(*self._heap[0]):
            heapq.heappop(self._heap)
        return self._heap[0][0] if self._heap else None

    def pop(self) -> Alarm:
        """Take the first alarm away; its deadline is over."""
        alarm = heapq.heappop(self._heap)[2]
        alarm.deadline = None
        return alarm

    @staticmethod
    def _holds(deadline: int, ticket: int, alarm: Alarm) -> bool:
        return alarm.deadline == deadline and alarm.ticket == ticket


class Alarm:
    """One timer as `Deadlines` keeps it: what to call, and when, if at all."""

    def __init__(self, call: Callable[[], None]):
        self.call = call
        self.deadline: int | None = None
        self.ticket = -1


class HostClock:
    """The host's time. Its thread begins with the first timer that is set."""

    def __init__(self) -> None:
        self._began = time.monotonic_ns()
        self._deadlines = Deadlines()
        self._changed = threading.Condition()
        self._thread: threading.Thread | None = None
        self._closed = False
        self._tell: Callable[[BaseException], None] = lambda error: None  # noqa: ARG005

    def now(self) -> int:
        """Nanoseconds since the clock was made."""
        return time.monotonic_ns() - self._began

    def wall_seconds(self) -> float:
        """The host's time of day."""
        return time.time()

    def timer(self, call: Callable[[], None]) -> HostTimer:
        """A timer that calls `call` from the clock's thread."""
        return HostTimer(self, call)

    def on_failure(self, tell: Callable[[BaseException], None]) -> None:
        """Whom to tell when a timer's call raises; the clock goes on."""
        self._tell = tell

    def set(self, alarm: Alarm, deadline: int | None) -> None:
        """Set an alarm, or clear it (None)."""
        with self._changed:
            alarm.deadline = deadline
            if deadline is None or self._closed:
                return
            before = self._deadlines.next()
            self._deadlines.add(alarm)
            if self._thread is None:
                thread = threading.Thread(target=self._life, name="clock", daemon=True)
                thread.start()
                self._thread = thread
            elif before is None or deadline < before:
                self._changed.notify()

    def close(self) -> None:
        """End the thread and wait for it, unless it is the one that asks."""
        with self._changed:
            self._closed = True
            self._changed.notify()
        if self._thread is not None and self._thread is not threading.current_thread():
            self._thread.join()

    def _life(self) -> None:
        while (alarm := self._due()) is not None:
            try:
                alarm.call()
            except BaseException as error:  # noqa: BLE001 - whatever a device raised must reach who waits
                self._tell(error)

    def _due(self) -> Alarm | None:
        """Wait for the first deadline; None when the clock is closed."""
        with self._changed:
            while not self._closed:
                deadline = self._deadlines.next()
                if deadline is None:
                    self._changed.wait()
                elif (wait := deadline - self.now()) > 0:
                    self._changed.wait(min(wait / NANOSECONDS, threading.TIMEOUT_MAX))
                else:
                    return self._deadlines.pop()
            return None


class HostTimer:
    """A timer of a `HostClock`."""

    def __init__(self, clock: HostClock, call: Callable[[], None]):
        self._clock = clock
        self._alarm = Alarm(call)

    def set(self, deadline: int) -> None:
        """Be called once at `deadline`."""
        self._clock.set(self._alarm, deadline)

    def clear(self) -> None:
        """Be not called any more."""
        self._clock.set(self._alarm, None)
