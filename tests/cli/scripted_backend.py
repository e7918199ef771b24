"""A plugin whose hypervisor needs no host: its one vCPU does what $SCRIPT says, through the machine's real
devices.

Everything but the processor is real: plan, launch, bus, serial port, console, threads. So what the command
line does with a guest can be shown anywhere, and a guest can do what no kernel does on request.
"""

import os
import time

import attrs

from anyvisor import hookimpl
from anyvisor.exits import Halted, Kicked, Shutdown
from anyvisor.facts import Capability
from anyvisor.x86_64.generic import FACTS
from fakes import FakeHypervisor, FakeVcpu, FakeVm

DATA, LINE_STATUS, KEYBOARD = 0x3F8, 0x3FD, 0x64
RECEIVED = 1
RESET = 0xFE
CAPABILITIES = FACTS.capabilities - {Capability.DETERMINISTIC}


@hookimpl
def anyvisor_hypervisors():
    return {"scripted": "scripted_backend:open_scripted"}


def put(bus, data):
    for each in data:
        bus.write_port(DATA, 1, each)


def reset(bus):
    bus.write_port(KEYBOARD, 1, RESET)
    while True:
        yield None


def hello(bus):
    """Greet and reset."""
    put(bus, b"hello from the guest\r\n")
    yield from reset(bus)


def echo(bus):
    """Send back what is typed, until q."""
    put(bus, b"ready\r\n")
    typed = 0
    while typed != ord("q"):
        yield None
        if bus.read_port(LINE_STATUS, 1) & RECEIVED:
            typed = bus.read_port(DATA, 1)
            put(bus, bytes([typed]))
        else:
            time.sleep(0.001)
    yield from reset(bus)


def spin(bus):
    """Print a line, then nothing ever more."""
    put(bus, b"spinning\r\n")
    while True:
        time.sleep(0.001)
        yield None


def flood(bus):
    """Print for ever."""
    while True:
        put(bus, b"x" * 78 + b"\r\n")
        yield None


def big(bus):
    """Print half a megabyte, numbered, and reset."""
    for number in range(32 * 1024):
        put(bus, b"%014d\r\n" % number)
        yield None
    yield from reset(bus)


def halt(bus):
    """HLT."""
    yield Halted()


def crash(bus):
    """A triple fault."""
    put(bus, b"about to crash\r\n")
    yield Shutdown()


def broken(bus):
    """Raise what no backend should."""
    yield None
    raise RuntimeError("the backend is broken")


SCRIPTS = {each.__name__: each for each in (hello, echo, spin, flood, big, halt, crash, broken)}


class ScriptedVcpu(FakeVcpu):
    def __init__(self, index):
        super().__init__(index, [])
        self.steps = None

    def run(self, bus):
        self.steps = self.steps or SCRIPTS[os.environ["SCRIPT"]](bus)
        for exit_ in self.steps:
            if exit_ is not None:
                return exit_
            if self.kicked.is_set():
                break
        self.kicked.clear()
        return Kicked()


class ScriptedVm(FakeVm):
    def create_vcpu(self, index, hardware_id=None):
        return ScriptedVcpu(index)


class ScriptedHypervisor(FakeHypervisor):
    def create_vm(self, *, deterministic=False):
        return ScriptedVm(self.log, ())


def open_scripted():
    return ScriptedHypervisor(facts=attrs.evolve(FACTS, backend="scripted", max_vcpus=8, capabilities=CAPABILITIES))
