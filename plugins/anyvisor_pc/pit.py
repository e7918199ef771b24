"""The PC's 8254 timer, and port 0x61, which has the speaker's half of it.

Some facts about its place in a PC (82371AB, 4.2 and 4.9). OUT of counter 0 is interrupt line 0. Counter 1 once told
when to refresh the RAM: bit 4 of port 0x61 still turns over every 15 microseconds. Counter 2 makes the speaker's tone:
bits 0 and 1 of port 0x61 are its GATE and whether the speaker hears it, bit 5 is its OUT; bits 2 and 3 can be set and
do nothing. Operating systems measure their processor against counter 2, by reading port 0x61 until bit 5 is set.

Interrupt line 0 rises whenever OUT does: at the end of each round, or of the count. The line then stays high until just
before the next rise, or until the counter is programmed anew; what edge-triggered inputs see is the same. Rounds that
end while nobody was there to tell them are told as one.
"""

from __future__ import annotations

from collections.abc import Callable

from anyvisor.clock import Clock
from anyvisor.device import DeviceContext
from anyvisor.plan import DeviceSpec
from anyvisor_pc.bytewide import NOTHING, ByteDevice
from anyvisor_pc.counter import ACCESS, Counter, nanoseconds

CONTROL, SYSTEM_CONTROL = 0x03, 0x21
"""Offsets of port 0x43, and of port 0x61."""
COUNTERS = range(3)

# Control words; the first two bits name the counter, or READ_BACK.
COUNTER_SHIFT, READ_BACK, NO_COUNT, NO_STATUS = 6, 3, 0x20, 0x10

# Port 0x61.
SPEAKER_GATE, KEPT, REFRESH_SHIFT, SPEAKER_OUT = 0x01, 0x0F, 4, 0x20
REFRESH_NANOSECONDS = nanoseconds(18)


def open_pit(spec: DeviceSpec, context: DeviceContext) -> Pit:
    """The timer that `spec` describes."""
    return Pit(context.interrupt(spec.gsi), context.clock)


class Pit(ByteDevice):
    """An 8254 at offsets 0 to 3 (port 0x40), and port 0x61 at offset 0x21. It raises and lowers `set_interrupt`."""

    def __init__(self, set_interrupt: Callable[[bool], None], clock: Clock):
        super().__init__()
        self._set_interrupt = set_interrupt
        self._now = clock.now
        self._timer = clock.timer(self._time_came)
        self._counters = Counter(gate=True), Counter(gate=True), Counter(gate=False)
        self._speaker = self._counters[2]
        self._system_control = 0
        self._line_level = False
        self._rise: int | None = None

    def read_byte(self, offset: int) -> int:
        """A counter's count or status, or port 0x61; the control port cannot be read."""
        now = self._now()
        if offset == SYSTEM_CONTROL:
            refresh = (now // REFRESH_NANOSECONDS & 1) << REFRESH_SHIFT
            return self._system_control | refresh | (SPEAKER_OUT if self._speaker.out(now) else 0)
        return self._counters[offset].read(now) if offset in COUNTERS else NOTHING

    def write_byte(self, offset: int, value: int) -> None:
        """A count, a control word, or the lower half of port 0x61."""
        now = self._now()
        if offset == CONTROL:
            self._control(value, now)
        elif offset == SYSTEM_CONTROL:
            self._system_control = value & KEPT
            self._speaker.set_gate(bool(value & SPEAKER_GATE), now)
        elif offset in COUNTERS and self._counters[offset].write(value, now) and offset == 0:
            self._aim()

    def close(self) -> None:
        """Raise no interrupt any more."""
        with self._lock:
            self._rise = None
            self._timer.clear()

    def _control(self, value: int, now: int) -> None:
        chosen = value >> COUNTER_SHIFT
        if chosen == READ_BACK:
            for index in COUNTERS:
                if value & 2 << index:
                    self._latch(self._counters[index], value, now)
        elif not value & ACCESS:
            self._counters[chosen].latch_count(now)
        else:
            self._counters[chosen].program(value)
            if chosen == 0:
                self._aim()

    @staticmethod
    def _latch(counter: Counter, command: int, now: int) -> None:
        """Read-back: the bits say what is not to be kept."""
        if not command & NO_COUNT:
            counter.latch_count(now)
        if not command & NO_STATUS:
            counter.latch_status(now)

    # -- interrupt line 0 ----------------------------------------------------------------------------------

    def _aim(self) -> None:
        """Counter 0 begins anew, or stops: the line is low until its OUT rises."""
        self._set_line(False)
        self._rise = self._counters[0].rise_after(0)
        self._set_timer()

    def _time_came(self) -> None:
        """The timer's call: maybe too late, or for a count that was replaced."""
        with self._lock:
            if self._rise is None:
                return
            pulses = self._counters[0].pulses(self._now())
            if pulses >= self._rise:
                self._set_line(False)
                self._set_line(True)
                self._rise = self._counters[0].rise_after(pulses)
            self._set_timer()

    def _set_timer(self) -> None:
        began = self._counters[0].began
        if self._rise is None or began is None:
            self._timer.clear()
        else:
            self._timer.set(began + nanoseconds(self._rise))

    def _set_line(self, level: bool) -> None:
        if level != self._line_level:
            self._line_level = level
            self._set_interrupt(level)
