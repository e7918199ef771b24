"""Time as it was recorded: it goes on with the replay, and timers are called where they were.

A device that looks at the clock as often as it did sees the same times. One that looks more often sees the last of them
again; for one that looks less often, those it leaves out are gone once the guest's next act is done.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable

from anyvisor.recording.trace import ClockRead, Event
from anyvisor_mock.replay.judge import Judge
from anyvisor_mock.replay.order import Order


class ReplayClock:
    """The clock of a replayed VM; see `Clock`."""

    def __init__(self, events: Iterable[tuple[int, Event]], order: Order, judge: Judge):
        self._faces: dict[str, Face] = {"now": Face(), "wall": Face()}
        for number, event in events:
            if isinstance(event, ClockRead):
                self._faces[event.face].reads.append((number, event.value))
        self._order = order
        self._judge = judge
        self._timers: list[Callable[[], None]] = []
        self._tell: Callable[[BaseException], None] = lambda error: None  # noqa: ARG005
        order.call_timer = self._call

    def now(self) -> int:
        """Nanoseconds since the machine was made, as recorded here."""
        return int(self._faces["now"].read(*self._order.span))

    def wall_seconds(self) -> float:
        """The time of day, as recorded here."""
        return self._faces["wall"].read(*self._order.span)

    def timer(self, call: Callable[[], None]) -> ReplayTimer:
        """A timer that is called when the one made in its place was."""
        self._timers.append(call)
        return ReplayTimer()

    def on_failure(self, tell: Callable[[BaseException], None]) -> None:
        """Whom to tell when a timer's call raises."""
        self._tell = tell

    def close(self) -> None:
        """There is nothing to give back."""

    def _call(self, timer: int) -> None:
        if timer >= len(self._timers):
            self._judge.lacks(f"timer {timer} was called, and the caller has made only {len(self._timers)}")
        try:
            self._timers[timer]()
        except Exception as error:  # noqa: BLE001 - whatever a device raised must reach who waits
            self._tell(error)


class Face:
    """The times that were read from one face of a clock, and the last of them that was read again."""

    def __init__(self) -> None:
        self.reads: deque[tuple[int, float]] = deque()
        self.last: float = 0

    def read(self, after: float, before: float) -> float:
        """The next time between two events; the last one when there is none."""
        while self.reads and self.reads[0][0] < after:
            self.last = self.reads.popleft()[1]
        if self.reads and self.reads[0][0] < before:
            self.last = self.reads.popleft()[1]
        return self.last


class ReplayTimer:
    """A timer of a `ReplayClock`: when it is called stands in the trace."""

    def set(self, deadline: int) -> None:
        """It will be called when it was."""

    def clear(self) -> None:
        """It will be called when it was."""
