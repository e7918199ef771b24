"""Guests of a dozen bytes, their assembly beside them, and a machine with 64 KiB of RAM to run them."""

import collections
import os
import struct
import threading
from pathlib import Path

import attrs

from anyvisor.bus import Bus
from anyvisor.memory import GuestMemory, Region
from anyvisor.x86_64.chips import Irqchip
from anyvisor.x86_64.control import Cr0, Cr4, Efer
from anyvisor.x86_64.state import DescriptorTable, Regs, SegmentRegister, Sregs

RAM_BYTES = 0x10000
MMIO = 0xD0000
"""No RAM here, and real mode can reach it: DS of every guest starts here."""
PORT, OTHER_PORT = 0x10, 0x30
SEGMENTS = ("cs", "ds", "es", "fs", "gs", "ss")

SPIN = bytes([0xEB, 0xFE])  # jmp .                        # fmt: skip
HALT = bytes([0xF4])  # hlt
CRASH = bytes([0x0F, 0x0B])  # ud2
OUT_THEN_SPIN = bytes([0xE6, PORT, *SPIN])  # out PORT, al; jmp .          # fmt: skip
SMALLEST = bytes([0xE6, PORT, *HALT])  # out PORT, al; hlt            # fmt: skip

INTERRUPT_VECTOR, HANDLER = 0x24, 0x100
# Set up the 8259 pair's master: vectors from 0x20, only line 4 open. Then say so at PORT, and wait.
WAIT_FOR_INTERRUPT = bytes([
    0xB0, 0x11, 0xE6, 0x20,                     # mov al, 0x11; out 0x20, al   start, in cascade
    0xB0, 0x20, 0xE6, 0x21,                     # mov al, 0x20; out 0x21, al   vectors from 0x20
    0xB0, 0x04, 0xE6, 0x21,                     # mov al, 4;    out 0x21, al   slave at line 2
    0xB0, 0x01, 0xE6, 0x21,                     # mov al, 1;    out 0x21, al   8086 mode
    0xB0, 0xEF, 0xE6, 0x21,                     # mov al, 0xef; out 0x21, al   all masked but line 4
    0xFB,                                       # sti
    0xE6, PORT,                                 # out PORT, al
    0xF4, 0xEB, 0xFD,                           # wait: hlt; jmp wait
])  # fmt: skip
SAY_INTERRUPTED = bytes([0xB0, 0x99,            # mov al, 0x99
                         0xE6, OTHER_PORT,      # out OTHER_PORT, al
                         0xCF])  # iret                         # fmt: skip


class Recorder:
    """Remembers what is written, and answers reads from `answers`; `then` is called after each."""

    def __init__(self, answers=(), then=lambda: None):
        self.answers = list(answers)
        self.reads = []
        self.writes = []
        self.then = then

    def read(self, offset, size_bytes):
        self.reads.append((offset, size_bytes))
        self.then()
        return self.answers.pop(0)

    def write(self, offset, size_bytes, value):
        self.writes.append((offset, size_bytes, value))
        self.then()

    @property
    def values(self):
        return [value for _, _, value in self.writes]


class Source:
    """An interrupt controller: vectors in a queue. `log` says which were taken, in words, among what others log."""

    def __init__(self, *vectors):
        self.vectors = collections.deque(vectors)
        self.log = []

    @property
    def pending(self):
        return bool(self.vectors)

    def acknowledge(self):
        self.log.append(f"vector {self.vectors[0]:#x}")
        return self.vectors.popleft()


class Guest:
    """A VM with RAM, a bus and vCPUs in real mode.

    `ports` answers at PORT, `others` at OTHER_PORT, `mmio` from `mmio_start` up; `answers` are read. vCPU 0 takes
    its interrupts from `source`.
    """

    def __init__(self, hypervisor, code, *, irqchip=False, vcpus=1, mmio_start=MMIO, answers=(), source=None):
        self.bus = Bus()
        self.ports, self.others, self.mmio = Recorder(answers), Recorder(), Recorder(answers)
        self.bus.add_ports(Region(PORT, 4, "ports"), self.ports)
        self.bus.add_ports(Region(OTHER_PORT, 4, "others"), self.others)
        self.bus.add_mmio(Region(mmio_start, 0x10000, "mmio"), self.mmio)
        self.memory = GuestMemory([Region(0, RAM_BYTES, "RAM")])
        self.memory.write(0, code)
        self.vm = hypervisor.create_vm()
        for ram in self.memory:
            self.vm.map_memory(ram)
        if irqchip:
            self.vm.put(Irqchip())
        self.vcpus = [self.vm.create_vcpu(index) for index in range(vcpus)]
        self.vcpu = self.vcpus[0]
        if source is not None:
            self.vcpu.take_interrupts_from(source)
        for vcpu in self.vcpus:
            real_mode(vcpu)

    def run(self, **registers):
        """Run vCPU 0, from address 0 with these registers."""
        self.vcpu.put(Regs(**registers))
        return self.vcpu.run(self.bus)

    def close(self):
        self.vm.close()
        self.memory.close()


def real_mode(vcpu, rip=0):
    code = SegmentRegister(limit=0xFFFF, type=0xB, s=True, present=True)
    device = SegmentRegister(base=MMIO, selector=MMIO >> 4, limit=0xFFFF, type=3, s=True, present=True)
    vcpu.put(attrs.evolve(vcpu.get(Sregs), cs=code, ds=device))
    vcpu.put(Regs(rip=rip, rsp=0x8000))


def flat(vcpu, **fields):
    """Code and data segments over all of the address space; `fields` are those of the code segment."""
    data = SegmentRegister(limit=0xFFFFFFFF, selector=0x18, type=3, s=True, present=True, db=True, g=True)
    code = attrs.evolve(data, selector=0x10, type=0xB, **fields)
    return attrs.evolve(vcpu.get(Sregs), **{**dict.fromkeys(SEGMENTS, data), "cs": code})


def protected_mode(vcpu):
    vcpu.put(attrs.evolve(flat(vcpu, db=True), cr0=Cr0(pe=True, et=True)))


def long_mode(vcpu, memory):
    """Identity-mapped: the first GiB in pages of 2 MiB (present, writable; SDM Vol. 3, 4.5)."""
    pml4, pdpt, directory = 0x9000, 0xA000, 0xB000
    memory.write(pml4, struct.pack("<Q", pdpt | 3))
    memory.write(pdpt, struct.pack("<Q", directory | 3))
    memory.write(directory, struct.pack("<512Q", *((page << 21) | 0x83 for page in range(512))))
    busy_tss = SegmentRegister(limit=0x67, selector=0x20, type=0xB, present=True)
    vcpu.put(
        attrs.evolve(
            flat(vcpu, l=True, db=False),
            tr=busy_tss,
            gdt=DescriptorTable(),
            cr0=Cr0(pe=True, et=True, pg=True),
            cr3=pml4,
            cr4=Cr4(pae=True),
            efer=Efer(lme=True, lma=True),
        )
    )


def handle_interrupt(memory):
    """Let SAY_INTERRUPTED answer INTERRUPT_VECTOR."""
    memory.write(HANDLER, SAY_INTERRUPTED)
    memory.write(INTERRUPT_VECTOR * 4, struct.pack("<HH", HANDLER, 0))


def held():
    """What this process holds of the kernel: how many descriptors, how many mappings of them, how many threads."""
    mappings = sum("kvm" in line for line in Path("/proc/self/maps").read_text().splitlines())
    return len(os.listdir("/proc/self/fd")), mappings, threading.active_count()  # noqa: PTH208
