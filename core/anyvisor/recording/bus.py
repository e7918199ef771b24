"""A bus that notes every access and answers as the bus behind it does; likewise a clock and an interrupt source.

Some facts about order. Each access is noted when the device has answered, and accesses take turns by one lock: that of
two vCPUs to the same device stand in the trace in the order in which the device saw them. Timers take the same turns.
The lock is taken before any device's own and held while the device works, so a device must not wait for an access
that another vCPU has yet to make.

Some facts about speed. The lines of accesses are made here and not by `format.encode`, at a tenth of the cost.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from contextlib import AbstractContextManager

from anyvisor.acts import MmioRead, MmioWrite, PortIn, PortOut
from anyvisor.bus import ALL_ONES, Bus, Read, Write
from anyvisor.clock import Clock, Timer
from anyvisor.front_bus import FrontBus
from anyvisor.interrupts import InterruptSource
from anyvisor.recording.failure import Failure
from anyvisor.recording.log import Log
from anyvisor.recording.trace import Acted, ClockRead, DeviceRaised, Done, InterruptTaken, TimerCalled

Turn = AbstractContextManager[object]
"""The lock by which accesses and timers take turns; who holds it may take it again."""


class RecordingBus(FrontBus):
    """`inner`, with every access noted as one of vCPU `subject`. For one run, since ports are remembered."""

    def __init__(self, inner: Bus, subject: int, log: Log, turn: Turn):
        super().__init__(inner)
        self._subject = subject
        self._log = log
        self._add = log.add
        self._turn = turn

    def read_mmio(self, address: int, size_bytes: int) -> int:
        """What a load of `size_bytes` from guest-physical `address` gives."""
        with self._turn:
            try:
                value = self._inner.read_mmio(address, size_bytes)
            except BaseException as error:
                self._raised(MmioRead(address, size_bytes), error)
                raise
            self._add(f'[{self._subject},"read",{address},{size_bytes},{value}]\n')
            return value

    def write_mmio(self, address: int, size_bytes: int, value: int) -> None:
        """A store of `value` to guest-physical `address`."""
        with self._turn:
            try:
                self._inner.write_mmio(address, size_bytes, value)
            except BaseException as error:
                self._raised(MmioWrite(address, size_bytes, value), error)
                raise
            self._add(f'[{self._subject},"write",{address},{size_bytes},{value}]\n')

    def _port_read(self, port: int, read: Read) -> Read:
        add, turn, begin = self._add, self._turn, f'[{self._subject},"in",{port},'

        def noted(offset: int, size_bytes: int) -> int:
            with turn:
                try:
                    value = read(offset, size_bytes) & ALL_ONES[size_bytes]
                except BaseException as error:
                    self._raised(PortIn(port, size_bytes), error)
                    raise
                add(f"{begin}{size_bytes},{value}]\n")
                return value

        return noted

    def _port_write(self, port: int, write: Write) -> Write:
        add, turn, begin = self._add, self._turn, f'[{self._subject},"out",{port},'

        def noted(offset: int, size_bytes: int, value: int) -> None:
            with turn:
                try:
                    write(offset, size_bytes, value)
                except BaseException as error:
                    self._raised(PortOut(port, size_bytes, value), error)
                    raise
                add(f"{begin}{size_bytes},{value}]\n")

        return noted

    def _raised(self, act: Done, error: BaseException) -> None:
        self._log.note(Acted(self._subject, act))
        self._log.note(DeviceRaised(self._subject, Failure.of(error)))


class RecordingSource:
    """`inner`, with every interrupt that vCPU `subject` takes noted."""

    def __init__(self, inner: InterruptSource, subject: int, log: Log, turn: Turn):
        self._inner = inner
        self._subject = subject
        self._log = log
        self._turn = turn

    @property
    def pending(self) -> bool:
        """Whether INTR is asserted."""
        return self._inner.pending

    def acknowledge(self) -> int:
        """The INTA cycle."""
        with self._turn:
            try:
                vector = self._inner.acknowledge()
            except BaseException as error:
                self._log.note(Acted(self._subject, InterruptTaken(None)))
                self._log.note(DeviceRaised(self._subject, Failure.of(error)))
                raise
            self._log.note(Acted(self._subject, InterruptTaken(vector)))
            return vector


class RecordingClock:
    """`inner`, with every look at it noted, and every timer that it calls."""

    def __init__(self, inner: Clock, subject: int, log: Log, turn: Turn):
        self._inner = inner
        self._subject = subject
        self._log = log
        self._turn = turn
        self._timers = itertools.count()

    def now(self) -> int:
        """Nanoseconds since the machine was made."""
        now = self._inner.now()
        self._log.add(f'[{self._subject},"now",{now}]\n')
        return now

    def wall_seconds(self) -> float:
        """The time of day."""
        seconds = self._inner.wall_seconds()
        self._log.note(ClockRead(self._subject, "wall", seconds))
        return seconds

    def timer(self, call: Callable[[], None]) -> Timer:
        """A timer that calls `call`, when it is its turn."""
        number = next(self._timers)

        def noted() -> None:
            with self._turn:
                self._log.note(TimerCalled(self._subject, number))
                call()

        return self._inner.timer(noted)

    def on_failure(self, tell: Callable[[BaseException], None]) -> None:
        """Whom to tell when a timer's call raises."""
        self._inner.on_failure(tell)

    def close(self) -> None:
        """Call no timer any more."""
        self._inner.close()
