"""What a device is given, without a machine around it: a bus, memory, consoles, lines that remember, and time."""

from collections.abc import Callable, Sequence

from anyvisor.bus import Bus
from anyvisor.clock import Clock, HostClock
from anyvisor.console import Console
from anyvisor.device import DeviceContext, attach
from anyvisor.interrupts import InterruptWiring
from anyvisor.memory import MIB, GuestMemory, Region
from anyvisor.plan import DeviceSpec

ONE_MIB = Region(0, 1 * MIB)


class HandTimer:
    """A timer of a `HandClock`; `deadline` is None while it is not set."""

    def __init__(self, call: Callable[[], None]):
        self.call = call
        self.deadline: int | None = None

    def set(self, deadline: int) -> None:
        self.deadline = deadline

    def clear(self) -> None:
        self.deadline = None


class HandClock:
    """A clock that a test turns: timers are called in the order of their deadlines, while it passes them."""

    def __init__(self, now: int = 0, seconds: float = 0.0):
        self.time = now
        self.seconds = seconds
        self.timers: list[HandTimer] = []

    def now(self) -> int:
        return self.time

    def wall_seconds(self) -> float:
        return self.seconds + self.time / 1e9

    def timer(self, call: Callable[[], None]) -> HandTimer:
        self.timers.append(HandTimer(call))
        return self.timers[-1]

    def on_failure(self, tell: Callable[[BaseException], None]) -> None:
        """Whoever turns this clock sees what a timer's call raises."""

    def go_to(self, moment: int) -> None:
        while (first := self.first()) is not None and first.deadline <= moment:
            self.time = max(self.time, first.deadline)
            first.deadline = None
            first.call()
        self.time = max(self.time, moment)

    def first(self) -> HandTimer | None:
        waiting = [timer for timer in self.timers if timer.deadline is not None]
        return min(waiting, key=lambda timer: timer.deadline, default=None)

    def close(self) -> None:
        for timer in self.timers:
            timer.clear()


class Bench:
    """A bus with one device. `levels` are its line's changes, `stops` what it asked of the machine.

    `notes` counts how often a controller said that INTR may have changed.
    """

    def __init__(
        self,
        factory: Callable,
        spec: DeviceSpec,
        *,
        ram: Sequence[Region] = (ONE_MIB,),
        clock: Clock | None = None,
    ):
        self.bus = Bus()
        self.levels: list[bool] = []
        self.gsis: list[int | None] = []
        self.stops: list[str] = []
        self.consoles: dict[str, Console] = {}
        self.memory = GuestMemory(ram)
        self.clock = clock or HostClock()
        self.notes = 0
        self.wiring = InterruptWiring(lambda gsi, level: None, lambda source: None, self._note)
        context = DeviceContext(self.memory, self._interrupt, self._console, self.stops.append, self.clock, self.wiring)
        self.device = factory(spec, context)
        attach(self.bus, spec, self.device)

    def _interrupt(self, gsi: int | None) -> Callable[[bool], None]:
        self.gsis.append(gsi)
        return self.levels.append

    def _note(self) -> None:
        self.notes += 1

    def _console(self, name: str) -> Console:
        return self.consoles.setdefault(name, Console(name))

    @property
    def level(self) -> bool:
        return bool(self.levels) and self.levels[-1]

    def inb(self, port: int) -> int:
        return self.bus.read_port(port, 1)

    def outb(self, port: int, value: int) -> None:
        self.bus.write_port(port, 1, value)

    def close(self) -> None:
        self.device.close()
        self.clock.close()
        self.memory.close()
