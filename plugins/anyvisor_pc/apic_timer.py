"""The timer of a local APIC: a 32-bit counter that interrupts when it reaches zero, once or again and again.

Some facts about it (SDM Vol. 3, 11.5.4). Writing the initial count starts the counter, 0 stops it. It counts down once
every so many cycles of the bus, as the divide configuration says; an OS finds out how fast the bus is by looking. Here
it has 1 GHz, so a count divided by 1 is a nanosecond, and all arithmetic is exact. A counter runs on while its
interrupt is masked; one that reaches zero then is not heard of later. There is no TSC-deadline mode.

A late alarm is no reason to catch up: periods that went by unheard are one interrupt, as the request register has one
bit for them. For a guest that asks for a period of a nanosecond, alarms come ten thousand times a second, no more.
"""

from __future__ import annotations

from collections.abc import Callable

from anyvisor.clock import Clock, Timer
from anyvisor.x86_64.lapic import LocalVector

NANOSECONDS_PER_CYCLE = 1
DIVIDE_BITS = 0b1011
"""Bits 0, 1 and 3 of the divide configuration are one number of three bits."""
SHORTEST_PERIOD = 100_000
"""Nanoseconds between two alarms of a periodic timer, at least."""


class ApicTimer:
    """The counter. It calls `fire` when it reaches zero unmasked; `alarm` must call `settle`. Its owner locks it."""

    def __init__(self, clock: Clock, alarm: Timer, fire: Callable[[], None]):
        self._clock = clock
        self._alarm = alarm
        self._fire = fire
        self._masked, self._periodic = True, False
        self._divide_configuration = 0
        self._zero_at: int | None = None
        self._quiet_until = 0
        self._alarm_at: int | None = None
        self.initial_count = 0

    @property
    def current_count(self) -> int:
        """How far the counter still has to go; 0 when it does not run."""
        return self._count(self.settle())

    @property
    def divide_configuration(self) -> int:
        """The register as it was written."""
        return self._divide_configuration

    def configure(self, entry: LocalVector) -> None:
        """Its entry of the local vector table was written; a running counter goes on."""
        now = self.settle()
        self._masked, self._periodic = entry.masked, bool(entry.timer_mode)
        self._set_alarm(now)

    def start(self, count: int) -> None:
        """The initial count was written: begin there, or stop at 0."""
        now = self.settle()
        self.initial_count = count
        self._run_down(count, now)

    def divide(self, configuration: int) -> None:
        """The divide configuration was written: a running counter goes on from where it is, at the new pace."""
        now = self.settle()
        count = self._count(now)
        self._divide_configuration = configuration & DIVIDE_BITS
        self._run_down(count, now)

    def settle(self) -> int:
        """Do what time has made due; what time it is."""
        now = self._clock.now()
        if self._zero_at is not None and self._zero_at <= now:
            if not self._masked:
                self._quiet_until = now + SHORTEST_PERIOD
                self._fire()
            self._zero_at = self._zero_after(now, self._zero_at) if self._periodic else None
        self._set_alarm(now)
        return now

    def close(self) -> None:
        """Alarm no more."""
        self._zero_at = None
        self._alarm.clear()

    @property
    def _nanoseconds_per_count(self) -> int:
        code = self._divide_configuration & 0b11 | self._divide_configuration >> 1 & 0b100
        return NANOSECONDS_PER_CYCLE << (code + 1) % 8

    def _count(self, now: int) -> int:
        return 0 if self._zero_at is None else -((now - self._zero_at) // self._nanoseconds_per_count)

    def _run_down(self, count: int, now: int) -> None:
        self._zero_at = now + count * self._nanoseconds_per_count if count else None
        self._set_alarm(now)

    def _zero_after(self, now: int, last: int) -> int:
        period = self.initial_count * self._nanoseconds_per_count
        return last + ((now - last) // period + 1) * period

    def _set_alarm(self, now: int) -> None:
        wanted = None if self._masked else self._zero_at
        if wanted is not None and self._periodic:
            wanted = max(wanted, self._quiet_until)
        if wanted is None and self._alarm_at is not None:
            self._alarm.clear()
        elif wanted is not None and (wanted != self._alarm_at or wanted <= now):
            self._alarm.set(wanted)
        self._alarm_at = wanted
