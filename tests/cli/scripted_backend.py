"""A plugin whose hypervisor needs no host: its one vCPU does what $SCRIPT says, through the machine's real
devices.

Everything but the processor is real: plan, launch, bus, serial port, console, threads. So what the command
line does with a guest can be shown anywhere, and a guest can do what no kernel does on request.
"""

import os
import time
from pathlib import Path

import attrs

from anyvisor import hookimpl
from anyvisor.acts import PortIn, PortOut, Spin
from anyvisor.exits import Halted, Shutdown
from anyvisor.facts import Capability
from anyvisor.x86_64.generic import FACTS
from anyvisor_mock import MockHypervisor

DATA, LINE_STATUS, KEYBOARD = 0x3F8, 0x3FD, 0x64
INTERRUPT_ENABLE, FIFO_CONTROL, INTERRUPT_CAUSE, MODEM_CONTROL = 0x3F9, 0x3FA, 0x3FA, 0x3FC
RECEIVED, RECEIVED_CAUSE = 1, 4
RESET = PortOut(KEYBOARD, 1, 0xFE)
CAPABILITIES = FACTS.capabilities - {Capability.DETERMINISTIC}


@hookimpl
def anyvisor_hypervisors():
    return {"scripted": "scripted_backend:open_scripted"}


def put(bus, data):
    """All but the last byte at once: an act for each would take long."""
    for each in data[:-1]:
        bus.write_port(DATA, 1, each)
    yield PortOut(DATA, 1, data[-1])


def hello(bus):
    """Greet and reset."""
    yield from put(bus, b"hello from the guest\r\n")
    yield RESET


def echo(bus):
    """Send back what is typed, until q."""
    yield from put(bus, b"ready\r\n")
    typed = 0
    while typed != ord("q"):
        yield PortIn(LINE_STATUS, 1)
        if bus.read_port(LINE_STATUS, 1) & RECEIVED:
            typed = bus.read_port(DATA, 1)
            yield from put(bus, bytes([typed]))
        else:
            time.sleep(0.001)
    yield RESET


def late(bus):
    """Begin late: set the port up as a driver does, which empties its FIFOs, and echo by interrupts until q."""
    yield from put(bus, b"ready\r\n")
    time.sleep(0.2)
    for port, value in ((FIFO_CONTROL, 0x07), (INTERRUPT_ENABLE, 0x01), (FIFO_CONTROL, 0x07), (MODEM_CONTROL, 0x0B)):
        yield PortOut(port, 1, value)
    typed = 0
    while typed != ord("q"):
        time.sleep(0.001)
        if bus.read_port(INTERRUPT_CAUSE, 1) & RECEIVED_CAUSE:
            typed = bus.read_port(DATA, 1)
            yield from put(bus, bytes([typed]))
        yield PortIn(INTERRUPT_CAUSE, 1)
    yield RESET


def spin(bus):
    """Print a line, then nothing ever more."""
    yield from put(bus, b"spinning\r\n")
    yield Spin()


def flood(bus):
    """Print for ever."""
    while True:
        yield from put(bus, b"x" * 78 + b"\r\n")


def big(bus):
    """Print half a megabyte, numbered, and reset."""
    for number in range(32 * 1024):
        yield from put(bus, b"%014d\r\n" % number)
    yield RESET


def panic(bus):
    """Print what a Linux without an initrd did, and reset as it did."""
    console = Path(__file__).parents[1] / "panics" / "no-initrd.txt"
    yield from put(bus, console.read_bytes().replace(b"\n", b"\r\n"))
    yield RESET


def reader(bus):
    """Print a log with a panic in it, go on, and reset."""
    console = Path(__file__).parents[1] / "panics" / "no-initrd.txt"
    yield from put(bus, console.read_bytes() + b"guest# reboot -f\r\n")
    yield RESET


def wait(bus):
    """Panic, and wait for somebody to look."""
    console = Path(__file__).parents[1] / "panics" / "panic-waits.txt"
    yield from put(bus, console.read_bytes())
    yield Spin()


def poll(bus):
    """Ask for a device that is not there, for ever."""
    while True:
        yield PortIn(0x399, 1)


def halt(bus):
    """HLT."""
    yield Halted()


def crash(bus):
    """A triple fault."""
    yield from put(bus, b"about to crash\r\n")
    yield Shutdown()


def broken(bus):
    """Raise what no backend should."""
    raise RuntimeError("the backend is broken")


SCRIPTS = {
    each.__name__: each
    for each in (hello, echo, late, spin, flood, big, panic, reader, wait, poll, halt, crash, broken)
}


class ScriptedHypervisor(MockHypervisor):
    def __init__(self, facts):
        super().__init__(facts, script=SCRIPTS[os.environ["SCRIPT"]])


def open_scripted():
    return ScriptedHypervisor(attrs.evolve(FACTS, backend="scripted", max_vcpus=8, capabilities=CAPABILITIES))
