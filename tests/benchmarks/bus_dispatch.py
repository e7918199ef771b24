"""What an I/O exit costs in Python, from the bus on: run it as a script.

Every figure is the best of several rounds in nanoseconds, taken in turns with the others, so that they can be
compared with each other; the direct call is the least it could cost.
"""

import timeit
from collections.abc import Callable

from anyvisor.bus import Bus
from anyvisor.console import Console
from anyvisor.device import attach
from anyvisor.memory import Region
from anyvisor_pc.serial import Serial
from anyvisor_pc.specs import SERIAL

CALLS = 50_000
ROUNDS = 7
THR, IER, IIR, MCR, LSR = 0x3F8, 0x3F9, 0x3FA, 0x3FC, 0x3FD


class Nothing:
    """A device that does nothing, as fast as it can be done."""

    def read(self, offset: int, size_bytes: int) -> int:
        return 0

    def write(self, offset: int, size_bytes: int, value: int) -> None:
        pass


def serial_bus(console: Console) -> Bus:
    bus = Bus()
    attach(bus, SERIAL, Serial(lambda level: None, console))
    return bus


def cases() -> dict[str, Callable[[], object]]:
    bus, nothing, console = Bus(), Nothing(), Console()
    bus.add_ports(Region(0x500, 16), nothing)
    for index in range(32):
        bus.add_mmio(Region(0xD0000000 + index * 0x1000, 0x1000, str(index)), nothing)
    polled, driven = serial_bus(Console()), serial_bus(Console())
    driven.write_port(MCR, 1, 0x08)
    driven.write_port(IER, 1, 0x02)

    def write_by_interrupt() -> None:
        driven.read_port(IIR, 1)
        driven.write_port(THR, 1, 0x41)

    def alternate_mmio() -> None:
        bus.write_mmio(0xD0003004, 4, 0)
        bus.write_mmio(0xD0011004, 4, 0)

    def write_as_printk() -> None:
        polled.read_port(LSR, 1)
        polled.write_port(THR, 1, 0x41)

    return {
        "direct call of the device": lambda: nothing.write(4, 1, 0),
        "bus.write_port": lambda: bus.write_port(0x504, 1, 0),
        "bus.read_port": lambda: bus.read_port(0x504, 1),
        "bus.write_mmio, same range again": lambda: bus.write_mmio(0xD0003004, 4, 0),
        "bus.write_mmio, two ranges in turn (both)": alternate_mmio,
        "bus.write_port, nobody there": lambda: bus.write_port(0x600, 1, 0),
        "console.output of a byte": lambda: console.output(b"A"),
        "UART: a byte": lambda: polled.write_port(THR, 1, 0x41),
        "UART: status and a byte, as printk": write_as_printk,
        "UART: cause and a byte, by interrupt": write_by_interrupt,
    }


def main() -> None:
    timers = {name: timeit.Timer(call) for name, call in cases().items()}
    best = dict.fromkeys(timers, float("inf"))
    for _ in range(ROUNDS):
        for name, timer in timers.items():
            best[name] = min(best[name], timer.timeit(CALLS) / CALLS * 1e9)
    for name, nanoseconds in best.items():
        print(f"{name:45} {nanoseconds:7.0f} ns")


if __name__ == "__main__":
    main()
