"""A hypervisor without a host behind it, for tests of what core does with one.

Its vCPUs run a script: each item is an exit to return, or a function called with the bus. A vCPU with no script left
spins until it is kicked, as a guest in an endless loop does.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from typing import Any

import attrs

from anyvisor.bus import Bus
from anyvisor.clock import HostClock
from anyvisor.exits import Exit, Kicked
from anyvisor.facts import HostFacts
from anyvisor.x86_64.control import ApicBase, Cr0
from anyvisor.x86_64.generic import FACTS
from anyvisor.x86_64.lapic import Lapic
from anyvisor.x86_64.state import DescriptorTable, Regs, SegmentRegister, Sregs

Item = Exit | Callable[[Bus], None]


def reset_states() -> dict[type, Any]:
    segment = SegmentRegister(limit=0xFFFF, present=True, s=True, type=3)
    names = ("cs", "ds", "es", "fs", "gs", "ss", "tr", "ldt")
    sregs = Sregs(
        **dict.fromkeys(names, segment),
        gdt=DescriptorTable(limit=0xFFFF),
        idt=DescriptorTable(limit=0xFFFF),
        cr0=Cr0(0x60000010),
        apic_base=ApicBase(0xFEE00900),
    )
    return {Regs: Regs(rip=0xFFF0), Sregs: sregs, Lapic: Lapic()}


class FakeVcpu:
    def __init__(self, index: int, script: Sequence[Item]):
        self.index = index
        self.script = list(script)
        self.states = reset_states()
        self.put_order: list[type] = []
        self.kicked = threading.Event()
        self.runs = 0
        self.source = None
        self.notified = 0
        self.closed = False

    def get(self, kind):
        return self.states[kind]

    def put(self, state) -> None:
        self.put_order.append(type(state))
        self.states[type(state)] = state

    def run(self, bus: Bus) -> Exit:
        self.runs += 1
        while self.script:
            if self.kicked.is_set():
                break
            item = self.script.pop(0)
            if isinstance(item, Exit):
                return item
            item(bus)
        self.kicked.wait()
        self.kicked.clear()
        return Kicked()

    def take_interrupts_from(self, source) -> None:
        self.source = source

    def notify_interrupt(self) -> None:
        self.notified += 1

    def kick(self) -> None:
        self.kicked.set()

    def close(self) -> None:
        self.closed = True


class FakeVm:
    def __init__(self, log: list[str], scripts: Sequence[Sequence[Item]], fail_at: str = ""):
        self.log = log
        self.scripts = scripts
        self.fail_at = fail_at
        self.lines: list[tuple[int, bool]] = []
        self.closed = 0
        self.clock = HostClock()
        self.deterministic = False

    def _note(self, what: str) -> None:
        self.log.append(what)
        if what == self.fail_at:
            raise OSError(f"told to fail at {what}")

    def map_memory(self, ram, *, readonly: bool = False) -> None:
        self._note(f"map {ram.region.start:#x}")

    def put(self, state) -> None:
        self._note(f"put {type(state).__name__}")

    def create_vcpu(self, index: int, hardware_id: int | None = None) -> FakeVcpu:
        self._note(f"vcpu {index}")
        return FakeVcpu(index, self.scripts[index] if index < len(self.scripts) else [])

    def set_irq(self, gsi: int, level: bool) -> None:
        self.lines.append((gsi, level))

    def close(self) -> None:
        self.closed += 1
        self.clock.close()
        self.log.append("close vm")


class FakeHypervisor:
    def __init__(self, *scripts: Sequence[Item], facts: HostFacts | None = None, fail_at: str = ""):
        self.facts = facts or attrs.evolve(FACTS, max_vcpus=8)
        self.scripts = scripts
        self.fail_at = fail_at
        self.log: list[str] = []
        self.vms: list[FakeVm] = []

    def create_vm(self, *, deterministic: bool = False) -> FakeVm:
        self.vms.append(FakeVm(self.log, self.scripts, self.fail_at))
        self.vms[-1].deterministic = deterministic
        return self.vms[-1]

    def close(self) -> None:
        self.log.append("close hypervisor")

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()
