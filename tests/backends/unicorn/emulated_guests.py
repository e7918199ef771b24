"""Guests of some lines of assembly in 64-bit mode, and a machine with 1 MiB of RAM for the emulated processor to run.

The first 512 GiB are identity-mapped, in pages of 1 GiB, so what is not RAM is the bus. A vector has a handler where
the guest gives it one; code is put together by the GNU assembler.
"""

import collections
import os
import struct
import threading
from pathlib import Path

import attrs
from event_code import link, need_assembler

from anyvisor.bus import Bus
from anyvisor.memory import KIB, MIB, GuestMemory, Region
from anyvisor.x86_64.control import Cr0, Cr4, Efer
from anyvisor.x86_64.state import DescriptorTable, Regs, SegmentRegister, Sregs

RAM_BYTES = MIB
CODE, HANDLERS, TABLES, IDT, STACK, DATA = 0x1000, 0x4000, 0x8000, 0xA000, 0xF000, 0x10000
HANDLER_BYTES = 0x40
MMIO, ABOVE_RAM = 0x40000000, RAM_BYTES
PORT, OTHER_PORT = 0x10, 0x30
SPIN = "jmp ."
HALT = "cli; hlt"
NAMES = {name: value for name, value in globals().items() if name.isupper() and isinstance(value, int)}


def assemble(source, address=CODE):
    """The code of some lines of assembly (AT&T); our names are known in it."""
    need_assembler()
    names = "".join(f".set {name}, {value}\n" for name, value in NAMES.items())
    return link(f"{names}.code64\n{source}\n", address)


class Recorder:
    """Remembers what is written, and answers reads from `answers`, the last of them for ever, then calls `then`."""

    def __init__(self, *answers, then=lambda: None):
        self.answers = list(answers) or [0]
        self.reads = []
        self.writes = []
        self.then = then

    def read(self, offset, size_bytes):
        self.reads.append((offset, size_bytes))
        self.then()
        return self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]

    def write(self, offset, size_bytes, value):
        self.writes.append((offset, size_bytes, value))
        self.then()

    @property
    def values(self):
        return [value for _, _, value in self.writes]


class Source:
    """An interrupt controller: vectors in a queue."""

    def __init__(self, *vectors):
        self.vectors = collections.deque(vectors)

    @property
    def pending(self):
        return bool(self.vectors)

    def acknowledge(self):
        return self.vectors.popleft()


class Guest:
    """A VM with one vCPU in long mode at `source`.

    Or, if it is to be `fresh`, as it was made. `ports` answers at PORT, `others` at OTHER_PORT, `mmio` from MMIO up.
    `handlers` has the code of vectors.
    """

    def __init__(
        self, hypervisor, source="", *, handlers=(), interrupts=None, ram=None, deterministic=False, fresh=False
    ):
        self.bus = Bus()
        self.ports, self.others, self.mmio = Recorder(), Recorder(), Recorder()
        self.bus.add_ports(Region(PORT, 8, "ports"), self.ports)
        self.bus.add_ports(Region(OTHER_PORT, 8, "others"), self.others)
        self.bus.add_mmio(Region(MMIO, 64 * KIB, "mmio"), self.mmio)
        self.memory = GuestMemory(ram or [Region(0, RAM_BYTES, "RAM")])
        self.vm = hypervisor.create_vm(deterministic=deterministic)
        for ram in self.memory:
            self.vm.map_memory(ram)
        self.vcpu = self.vm.create_vcpu(0)
        if interrupts is not None:
            self.vcpu.take_interrupts_from(interrupts)
        self.source = interrupts
        self.load(source)
        for vector, handler in dict(handlers).items():
            self.handle(vector, handler)
        if not fresh:
            self.enter()

    def load(self, source):
        self.memory.write(CODE, assemble(source))

    def handle(self, vector, source):
        address = HANDLERS + vector * HANDLER_BYTES
        code = assemble(source, address)
        assert len(code) <= HANDLER_BYTES
        self.memory.write(address, code)
        self.memory.write(IDT + vector * 16, struct.pack("<HHBBHQ", address & 0xFFFF, 0x10, 0, 0x8E, address >> 16, 0))

    def enter(self, **registers):
        """Be at the first instruction, in long mode."""
        for table, entries in (
            (TABLES, [TABLES + 0x1003]),
            (TABLES + 0x1000, [gib << 30 | 0x83 for gib in range(512)]),
        ):
            self.memory.write(table, struct.pack(f"<{len(entries)}Q", *entries))
        self.memory.write(0x600, struct.pack("<4Q", 0, 0, 0x00AF9B000000FFFF, 0x00CF93000000FFFF))
        self.vcpu.put(long_mode(self.vcpu.get(Sregs)))
        self.vcpu.put(Regs(**{"rip": CODE, "rsp": STACK, **registers}))

    def run(self, **registers):
        """Run from the first instruction with these registers."""
        if registers:
            self.enter(**registers)
        return self.vcpu.run(self.bus)

    def word(self, address=DATA):
        return int.from_bytes(self.memory.read(address, 8), "little")

    def close(self):
        self.vm.close()
        self.memory.close()


def long_mode(sregs):
    data = SegmentRegister(limit=0xFFFFFFFF, selector=0x18, type=3, s=True, present=True, db=True, g=True)
    code = attrs.evolve(data, selector=0x10, type=0xB, l=True, db=False)
    return attrs.evolve(
        sregs,
        cs=code,
        **dict.fromkeys(("ds", "es", "fs", "gs", "ss"), data),
        tr=SegmentRegister(limit=0x67, selector=0x20, type=0xB, present=True),
        gdt=DescriptorTable(0x600, 0x1F),
        idt=DescriptorTable(IDT, 0xFFF),
        cr0=Cr0(pe=True, et=True, ne=True, wp=True, pg=True),
        cr3=TABLES,
        cr4=Cr4(pae=True),
        efer=Efer(lme=True, lma=True, sce=True),
    )


class Runner(threading.Thread):
    """Runs a vCPU once, elsewhere."""

    def __init__(self, guest):
        super().__init__(daemon=True)
        self.guest = guest
        self.found = None
        self.error = None
        self.start()

    def run(self):
        try:
            self.found = self.guest.vcpu.run(self.guest.bus)
        except BaseException as error:  # noqa: BLE001 - told to who asks for the result
            self.error = error

    def result(self, seconds=20):
        self.join(seconds)
        assert not self.is_alive(), "the vCPU did not leave the guest"
        if self.error is not None:
            raise self.error
        return self.found


def spinning(guest, source="out %al, $PORT\n" + SPIN, **options):
    """A guest that is in its guest code by the time this returns: it has written to PORT."""
    inside = threading.Event()
    made = guest(source, **options)
    made.ports.then = inside.set
    runner = Runner(made)
    assert inside.wait(20)
    return made, runner


def held():
    """What this process holds: how many descriptors, threads, and mappings."""
    maps = Path("/proc/self/maps").read_text().splitlines()
    return len(os.listdir("/proc/self/fd")), threading.active_count(), len(maps)  # noqa: PTH208
