"""Guests of a few dozen bytes for recordings, the devices they talk to, and the machines they run on."""

import struct
import threading

import attrs

from anyvisor import MachineConfig
from anyvisor.assemble import assemble
from anyvisor.bus import Bus
from anyvisor.launch import launch
from anyvisor.memory import GuestMemory, Region
from anyvisor.x86_64.chips import Irqchip
from anyvisor.x86_64.state import Regs, SegmentRegister, Sregs
from elves import tiny_elf

PORTS, MMIO = Region(0x200, 4, "ports"), Region(0x20000000, 0x1000, "mmio")
PORT, OTHER_PORT = 0x10, 0x30
SECONDS = 20

# fmt: off
# 64-bit. What it writes is what it has read, so answers that change are seen in what follows.
ALL_SIZES = bytes([0xBA, 0x00, 0x02, 0x00, 0x00,                    # mov edx, 0x200
                   0xEC, 0xEE,                                      # in al, dx;  out dx, al
                   0x66, 0xED, 0x66, 0xEF,                          # in ax, dx;  out dx, ax
                   0xED, 0xEF,                                      # in eax, dx; out dx, eax
                   0xBF, 0x00, 0x00, 0x30, 0x00,                    # mov edi, 0x300000
                   0xB9, 0x05, 0x00, 0x00, 0x00, 0xF3, 0x6C,        # mov ecx, 5; rep insb
                   0xB9, 0x03, 0x00, 0x00, 0x00, 0xF3, 0x66, 0x6D,  # mov ecx, 3; rep insw
                   0xBE, 0x00, 0x00, 0x30, 0x00,                    # mov esi, 0x300000
                   0xB9, 0x03, 0x00, 0x00, 0x00, 0xF3, 0x6E,        # mov ecx, 3; rep outsb
                   0xB9, 0x02, 0x00, 0x00, 0x00, 0xF3, 0x6F,        # mov ecx, 2; rep outsd
                   0xBB, 0x00, 0x00, 0x00, 0x20,                    # mov ebx, 0x20000000
                   0x8A, 0x03, 0x88, 0x43, 0x01,                    # mov al, [rbx];       mov [rbx+1], al
                   0x66, 0x8B, 0x43, 0x02, 0x66, 0x89, 0x43, 0x04,  # mov ax, [rbx+2];     mov [rbx+4], ax
                   0x8B, 0x43, 0x08, 0x89, 0x43, 0x0C,              # mov eax, [rbx+8];    mov [rbx+12], eax
                   0x48, 0x8B, 0x43, 0x10, 0x48, 0x89, 0x43, 0x18,  # mov rax, [rbx+16];   mov [rbx+24], rax
                   0xEC, 0x3C, 0xF0, 0x72, 0xFB,                    # wait: in al, dx; cmp al, 0xf0; jb wait
                   0xB0, 0xFE, 0xE6, 0x64, 0xEB, 0xFE])             # mov al, 0xfe; out 0x64, al; jmp .   reset

# 16-bit, for several vCPUs at once.
ECHO_50_TIMES = bytes([0xBA, PORT, 0x00,                            # mov dx, PORT
                       0xB9, 50, 0x00,                              # mov cx, 50
                       0xEC, 0xEE,                                  # again: in al, dx; out dx, al
                       0xE2, 0xFC,                                  # loop again
                       0xF4])                                       # hlt

INTERRUPT_VECTOR, HANDLER = 0x24, 0x100
# 16-bit. Sets up the 8259 pair's master: vectors from 0x20, only line 4 open. Then says so at PORT, and waits.
WAIT_FOR_INTERRUPT = bytes([0xB0, 0x11, 0xE6, 0x20,                 # mov al, 0x11; out 0x20, al   start, in cascade
                            0xB0, 0x20, 0xE6, 0x21,                 # mov al, 0x20; out 0x21, al   vectors from 0x20
                            0xB0, 0x04, 0xE6, 0x21,                 # mov al, 4;    out 0x21, al   slave at line 2
                            0xB0, 0x01, 0xE6, 0x21,                 # mov al, 1;    out 0x21, al   8086 mode
                            0xB0, 0xEF, 0xE6, 0x21,                 # mov al, 0xef; out 0x21, al   all but line 4
                            0xFB, 0xE6, PORT,                       # sti; out PORT, al
                            0xF4, 0xEB, 0xFD])                      # wait: hlt; jmp wait
SAY_INTERRUPTED = bytes([0xB0, 0x99, 0xE6, OTHER_PORT, 0xCF])       # mov al, 0x99; out OTHER_PORT, al; iret

PRINT_LINE = bytes([0x48, 0x8D, 0x35, 0x12, 0x00, 0x00, 0x00,       # lea rsi, [rip + 18]   the text behind the code
                    0x66, 0xBA, 0xF8, 0x03,                         # mov dx, 0x3f8
                    0xAC,                                           # next: lodsb
                    0x84, 0xC0,                                     # test al, al
                    0x74, 0x03,                                     # jz over
                    0xEE,                                           # out dx, al
                    0xEB, 0xF8,                                     # jmp next
                    0xB0, 0xFE, 0xE6, 0x64, 0xEB, 0xFE,             # over: mov al, 0xfe; out 0x64, al; jmp .   reset
                    *b"recorded and replayed\r\n\0"])
# fmt: on


class Device:
    """Notes its traffic, and answers with numbers that depend on all of it; `then` is called after a write."""

    def __init__(self, spoilt=-1, then=lambda value: None):
        self.traffic = []
        self.state = 7
        self.spoilt = spoilt
        """The number of the read that is answered otherwise."""
        self.reads = 0
        self.then = then
        self.lock = threading.Lock()

    def read(self, offset, size_bytes):
        with self.lock:
            self._next(offset)
            answer = self.state >> 7 & (1 << size_bytes * 8) - 1
            if self.reads == self.spoilt:
                answer ^= 1
            self.reads += 1
            self.traffic.append(("read", offset, size_bytes, answer))
            return answer

    def write(self, offset, size_bytes, value):
        with self.lock:
            self._next(value)
            self.traffic.append(("write", offset, size_bytes, value))
        self.then(value)

    def _next(self, more):
        self.state = (self.state * 6364136223846793005 + more * 2 + 1) % (1 << 71)


def kernel(folder, code):
    return tiny_elf(folder / "kernel", code, memory_bytes=0x2000)


def run_machine(hypervisor, kernel, *, device=None, states=(), before=lambda machine: None):
    """Launch a machine with a `Device` of ours and let it run to its end; the device, the machine as it ended."""
    plan = assemble(MachineConfig(kernel=kernel, memory="32M"), hypervisor.facts)
    device = device or Device()
    with launch(plan, hypervisor) as machine:
        machine.bus.add_ports(PORTS, device)
        machine.bus.add_mmio(MMIO, device)
        for state in states:
            machine.vcpus[0].put(state)
        before(machine)
        machine.start()
        assert machine.wait(SECONDS).reason == "reset"
    return device, machine


class RealModeGuest:
    """vCPUs in real mode at the same code, without a plan; `device` answers at PORT and OTHER_PORT."""

    def __init__(self, hypervisor, code, device, *, vcpus=1, irqchip=False):
        self.memory = GuestMemory([Region(0, 0x10000, "RAM")])
        self.memory.write(0, code)
        self.memory.write(HANDLER + 0x100, SAY_INTERRUPTED)
        self.memory.write(INTERRUPT_VECTOR * 4, struct.pack("<HH", HANDLER + 0x100, 0))
        self.bus = Bus()
        self.bus.add_ports(Region(PORT, 1), device)
        self.bus.add_ports(Region(OTHER_PORT, 1), device, offset=OTHER_PORT)
        self.vm = hypervisor.create_vm()
        for ram in self.memory:
            self.vm.map_memory(ram)
        if irqchip:
            self.vm.put(Irqchip())
        self.vcpus = [self.vm.create_vcpu(index) for index in range(vcpus)]
        for vcpu in self.vcpus:
            code_segment = SegmentRegister(limit=0xFFFF, type=0xB, s=True, present=True)
            vcpu.put(attrs.evolve(vcpu.get(Sregs), cs=code_segment))
            vcpu.put(Regs(rip=0, rsp=0x8000))

    def run_all(self):
        """Every vCPU in a thread of its own; what each `run` gave or raised."""
        found = [None] * len(self.vcpus)

        def life(index):
            try:
                found[index] = self.vcpus[index].run(self.bus)
            except Exception as error:  # noqa: BLE001
                found[index] = error

        threads = [threading.Thread(target=life, args=(index,)) for index in range(len(self.vcpus))]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(SECONDS)
        return found

    def close(self):
        self.vm.close()
        self.memory.close()
