"""A hypervisor whose guests are functions: each item of a vCPU's script is an exit, or is called with the bus of `run`.

What the recorder is tried on: whatever a backend may do with a bus can be done in a line. A vCPU with no script left
waits for a kick.
"""

import threading

from anyvisor.clock import HostClock
from anyvisor.exits import Exit, Kicked
from anyvisor.x86_64.generic import FACTS
from anyvisor.x86_64.state import Regs


class ActingVcpu:
    def __init__(self, index, script):
        self.index = index
        self.script = list(script)
        self.kicked = threading.Event()
        self.states = {Regs: Regs(rip=0xFFF0)}
        self.source = None

    def get(self, kind):
        return self.states[kind]

    def put(self, state):
        self.states[type(state)] = state

    def run(self, bus):
        while self.script:
            item = self.script.pop(0)
            if isinstance(item, Exit):
                return item
            item(bus)
        self.kicked.wait()
        self.kicked.clear()
        return Kicked()

    def take_interrupts_from(self, source):
        self.source = source

    def notify_interrupt(self):
        pass

    def kick(self):
        self.kicked.set()

    def close(self):
        pass


class ActingVm:
    def __init__(self, scripts):
        self.scripts = scripts
        self.clock = HostClock()

    def map_memory(self, ram, *, readonly=False):
        pass

    def create_vcpu(self, index, hardware_id=None):
        return ActingVcpu(index, self.scripts[index])

    def set_irq(self, gsi, level):
        pass

    def close(self):
        self.clock.close()


class ActingHypervisor:
    facts = FACTS

    def __init__(self, *scripts):
        self.scripts = scripts
        self.closed = 0

    def create_vm(self, *, deterministic=False):
        return ActingVm(self.scripts)

    def close(self):
        self.closed += 1
