"""What a device is given, without a machine around it: a bus, memory, consoles, and lines that remember."""

from collections.abc import Callable, Sequence

from anyvisor.bus import Bus
from anyvisor.console import Console
from anyvisor.device import DeviceContext, attach
from anyvisor.memory import MIB, GuestMemory, Region
from anyvisor.plan import DeviceSpec

ONE_MIB = Region(0, 1 * MIB)


class Bench:
    """A bus with one device. `levels` are its line's changes, `stops` what it asked of the machine."""

    def __init__(self, factory: Callable, spec: DeviceSpec, *, ram: Sequence[Region] = (ONE_MIB,)):
        self.bus = Bus()
        self.levels: list[bool] = []
        self.gsis: list[int | None] = []
        self.stops: list[str] = []
        self.consoles: dict[str, Console] = {}
        self.memory = GuestMemory(ram)
        context = DeviceContext(self.memory, self._interrupt, self._console, self.stops.append)
        self.device = factory(spec, context)
        attach(self.bus, spec, self.device)

    def _interrupt(self, gsi: int | None) -> Callable[[bool], None]:
        self.gsis.append(gsi)
        return self.levels.append

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
        self.memory.close()
