"""The bench that a contract is tested on: a VM with some RAM, devices that remember, and a tiny guest on its vCPU.

Where things are is the same in every test, and all of it lies within the reach of a 16-bit guest:

    0x1000   the guest's code
    0x4000   data
    0x8000   the top of its stack
    0x9000   tables: page tables, descriptors
    0xC000   the end of RAM; from MMIO_START (0xD000) on, 4 KiB of MMIO
    0xE000   4 KiB of more RAM, in tests that map some

At the ports 0x10-0x17 stands `ports`, at 0x30-0x37 `others`, in the MMIO range `mmio`: `Listener`s.
"""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from contextlib import suppress
from types import ModuleType
from typing import Any

import pytest

from anyvisor.acts import Script
from anyvisor.bus import Bus
from anyvisor.closing import Closing
from anyvisor.errors import AnyvisorError, HypervisorError
from anyvisor.exits import Exit
from anyvisor.facts import Capability
from anyvisor.hypervisor import Hypervisor, Vcpu
from anyvisor.interrupts import InterruptSource
from anyvisor.memory import KIB, GuestMemory, Region
from anyvisor.states import VcpuState, VmState
from anyvisor.testing.guest import Scriptable, TinyGuest
from anyvisor.testing.kinds import vcpu_kinds
from anyvisor.testing.listener import Listener
from anyvisor.testing.requirements import lacking
from anyvisor.testing.watch import PATIENCE_SECONDS, Underway

RAM = Region(0, 48 * KIB, "RAM")
CODE, DATA, STACK, TABLES = 0x1000, 0x4000, 0x8000, 0x9000
MMIO = Region(0xD000, 4 * KIB, "mmio")
MORE_RAM = Region(0xE000, 4 * KIB, "more RAM")
PORTS, OTHER_PORTS = Region(0x10, 8, "ports"), Region(0x30, 8, "others")


class Bench(Closing):
    """A VM of `hypervisor`, ready for `enter`. A context manager: `close` gives all of it back.

    `ram` are its regions of RAM, `states` are put before its `vcpus` are created; vCPU 0 takes its interrupts from
    `source`. A deterministic one counts its own time.
    """

    def __init__(
        self,
        hypervisor: Hypervisor,
        *,
        ram: Sequence[Region] = (RAM,),
        states: Sequence[VmState] = (),
        vcpus: int = 1,
        source: InterruptSource | None = None,
        deterministic: bool = False,
    ):
        self.facts = hypervisor.facts
        self.bus = Bus()
        self.ports, self.others, self.mmio = Listener(), Listener(), Listener()
        self.bus.add_ports(PORTS, self.ports)
        self.bus.add_ports(OTHER_PORTS, self.others)
        self.bus.add_mmio(MMIO, self.mmio)
        self.memory = GuestMemory(ram)
        try:
            self.vm = hypervisor.create_vm(deterministic=deterministic)
        except BaseException:
            self.memory.close()
            raise
        self._running: list[Underway[Any]] = []
        try:
            self.vcpus = self._build(states, vcpus, source)
        except BaseException:
            self.close()
            raise

    def _build(self, states: Sequence[VmState], vcpus: int, source: InterruptSource | None) -> list[Vcpu]:
        for ram in self.memory:
            self.vm.map_memory(ram)
        for state in states:
            self.vm.put(state)
        made = [self.vm.create_vcpu(index) for index in range(vcpus)]
        if source is not None:
            made[0].take_interrupts_from(source)
        return made

    @property
    def guests(self) -> Any:
        """The tiny guests of this architecture: `bench.guests.HALT`."""
        return self.guests_of("")

    def guests_of(self, topic: str) -> Any:
        """Those that belong to one contract: `bench.guests_of("running").TRIPLE_FAULT`."""
        return guests_of(self.facts.architecture, topic)

    @property
    def vcpu(self) -> Vcpu:
        """The boot processor."""
        return self.vcpus[0]

    def readable_kinds(self) -> list[type[VcpuState]]:
        """The types of vCPU state that this VM's vCPUs have; some need a VM state first (an APIC, its controllers)."""
        found = []
        for kind in vcpu_kinds(self.facts):
            with suppress(HypervisorError):
                self.vcpu.get(kind)
                found.append(kind)
        return found

    def enter(self, guest: TinyGuest, mode: str = "", *, vcpu: int = 0, code: int = CODE, **registers: int) -> None:
        """Put a guest at its first instruction, in `mode` (the first that it and the backend have, if it is left out).

        `registers` are those of the architecture's `Regs`. The test is skipped, saying why, on a backend that cannot
        run such a guest.
        """
        target = self.vcpus[vcpu]
        if isinstance(target, Scriptable) and guest.does is not None:
            target.play(guest.does)
            mode = mode or next(iter(guest.code))
        else:
            mode = self._mode_for(guest, mode)
        self.memory.write(code, guest.code[mode])
        entry(self.facts.architecture).enter(self, target, mode, rip=code, **registers)

    def _mode_for(self, guest: TinyGuest, wanted: str) -> str:
        """The mode to run it in; a skip where there is none."""
        have = [mode for mode in guest.code if mode in self.facts.modes and wanted in ("", mode)]
        if not have:
            lacking(self.facts, f"the processor mode {wanted or ' or '.join(guest.code)}")
        if not guest.basic and not self.facts.has(Capability.FULL_PROCESSOR):
            lacking(self.facts, Capability.FULL_PROCESSOR.value)
        return have[0]

    def run(self, vcpu: int = 0) -> Exit:
        """Run a vCPU until its guest ends by itself. The test fails when it does not, whether a kick helps or not."""
        __tracebackhide__ = True
        underway = self.start(vcpu)
        if not underway.is_over(PATIENCE_SECONDS):
            self.vcpus[vcpu].kick()
            helped = "a kick ended it" if underway.is_over(PATIENCE_SECONDS) else "a kick did not help"
            seen = f"ports {self.ports.writes[-4:]}, others {self.others.writes[-4:]}, mmio {self.mmio.writes[-4:]}"
            pytest.fail(
                f"the guest did not end within {PATIENCE_SECONDS:g} s ({helped}); last writes: {seen}", pytrace=False
            )
        return underway.result()

    def start(self, vcpu: int = 0) -> Underway[Exit]:
        """Run a vCPU in a thread of its own."""
        target = self.vcpus[vcpu]
        underway = Underway(lambda: target.run(self.bus), f"Vcpu.run of vCPU {vcpu}")
        self.watch(underway)
        return underway

    def watch(self, underway: Underway[Any]) -> None:
        """Let `close` wait for something else that runs a vCPU."""
        self._running.append(underway)

    def play(self, script: Script) -> bool:
        """Tell vCPU 0 in acts what its guest does from here on; False when it executes code instead."""
        if isinstance(self.vcpu, Scriptable):
            self.vcpu.play(script)
            return True
        return False

    def take_over(self, other: Bench) -> None:
        """Go on with the guest of another bench: its memory, and every state of its vCPU in the order of the facts."""
        for ram in other.memory:
            self.memory.write(ram.region.start, other.memory.read(ram.region.start, ram.region.size_bytes))
        states = [other.vcpu.get(kind) for kind in other.readable_kinds()]
        for state in states:
            self.vcpu.put(state)

    def close(self) -> None:
        """End what still runs, then give back the VM and its memory. Memory that a vCPU may still use is kept."""
        for vcpu in getattr(self, "vcpus", []):
            with suppress(AnyvisorError):
                vcpu.kick()
        stuck = [each for each in self._running if not each.is_over(PATIENCE_SECONDS)]
        if not stuck:
            self.vm.close()
            self.memory.close()

    def __repr__(self) -> str:
        return "bench"  # as it is called in the values that a failed assertion shows


def entry(architecture: str) -> ModuleType:
    """How a guest is entered on that architecture: `enter(bench, vcpu, mode, rip=..., **registers)`."""
    return importlib.import_module(f"anyvisor.testing.{architecture}.entry")


def guests_of(architecture: str, topic: str = "") -> Any:
    """An architecture's tiny guests: those that contracts share, or those of one."""
    name = f"{topic}_guests" if topic else "guests"
    return importlib.import_module(f"anyvisor.testing.{architecture}.{name}")
