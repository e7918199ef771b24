"""Other people's APICs, asked by a guest: KVM's in-kernel ones, and QEMU's.

A script is a list of steps: ("write", address, value) and ("read", address) of 32 bits, ("take",) to let interrupts in
for a moment, ("line", gsi, level) and ("pause",) for the world outside. The guest goes through it and leaves what it
read, and 0x100 | vector for each interrupt, at RESULTS. For the world outside it asks through a mailbox, and waits.
"""

import struct
import threading
import time

import attrs
from qemu_devices import QemuDevices

from anyvisor.bus import Bus
from anyvisor.memory import GuestMemory, Region
from anyvisor.x86_64.chips import Irqchip
from anyvisor.x86_64.control import Cr0
from anyvisor.x86_64.cpuid import Cpuid
from anyvisor.x86_64.state import DescriptorTable, Regs, SegmentRegister, Sregs

MAILBOX, IDT_POINTER, GDT, CODE, IDT, STUBS, TABLE, RESULTS = (
    0x500, 0x520, 0x530, 0x1000, 0x2000, 0x3000, 0x4000, 0x8000,
)  # fmt: skip
RAM_BYTES = 0x10000
KINDS = {"write": 0, "read": 1, "take": 2, "line": 3, "pause": 4, "end": 5}
LINE, PAUSE, END = 1, 2, 3
COMMON = CODE + 0x5F
PAUSE_SECONDS = 0.03
PATIENCE_SECONDS = 30

GUEST = bytes([
    0x0F, 0x01, 0x1D, 0x20, 0x05, 0x00, 0x00,              # lidt [IDT_POINTER]
    0xBC, 0x00, 0x10, 0x00, 0x00,                          # mov esp, CODE
    0xBE, 0x00, 0x40, 0x00, 0x00,                          # mov esi, TABLE
    0xBF, 0x00, 0x80, 0x00, 0x00,                          # mov edi, RESULTS
    0xAD, 0x89, 0xC1,                                      # next: lodsd; mov ecx, eax   kind
    0xAD, 0x89, 0xC3,                                      # lodsd; mov ebx, eax         address
    0xAD,                                                  # lodsd                       value
    0x49, 0x78, 0x29, 0x74, 0x2B,                          # dec ecx; js write; je read
    0x49, 0x74, 0x2D,                                      # dec ecx; je take
    0x89, 0x1D, 0x04, 0x05, 0x00, 0x00,                    # mov [MAILBOX + 4], ebx
    0xA3, 0x08, 0x05, 0x00, 0x00,                          # mov [MAILBOX + 8], eax
    0x89, 0x3D, 0x0C, 0x05, 0x00, 0x00,                    # mov [MAILBOX + 12], edi
    0x89, 0x0D, 0x00, 0x05, 0x00, 0x00,                    # mov [MAILBOX], ecx
    0xF3, 0x90,                                            # wait: pause
    0x83, 0x3D, 0x00, 0x05, 0x00, 0x00, 0x00, 0x75, 0xF5,  # cmp dword [MAILBOX], 0; jne wait
    0xEB, 0xCD,                                            # jmp next
    0x89, 0x03, 0xEB, 0xC9,                                # write: mov [ebx], eax; jmp next
    0x8B, 0x03, 0xAB, 0xEB, 0xC4,                          # read: mov eax, [ebx]; stosd; jmp next
    0xFB, 0xB9, 0x20, 0x00, 0x00, 0x00,                    # take: sti; mov ecx, 32
    0xE6, 0x80, 0xE2, 0xFC, 0xFA, 0xEB, 0xB7,              # again: out 0x80, al; loop again; cli; jmp next
    0x0F, 0xB6, 0xC0, 0x0D, 0x00, 0x01, 0x00, 0x00,        # common: movzx eax, al; or eax, 0x100
    0xAB, 0x58, 0xC2, 0x08, 0x00,                          # stosd; pop eax; ret 8          as iret, but for flags
])  # fmt: skip

# A ROM's way there: protected mode, and a copy of its first 32 KiB at address 0.
BOOT, BOOT32, BOOT_GDT_POINTER, RESET_VECTOR, ROM_START = 0xF000, 0xF020, 0xF080, 0xFFF0, 0xF0000
BOOT_CODE = bytes([
    0xFA,                                                  # cli
    0x66, 0x2E, 0x0F, 0x01, 0x16, 0x80, 0xF0,              # lgdt cs:[BOOT_GDT_POINTER]
    0x0F, 0x20, 0xC0, 0x0C, 0x01, 0x0F, 0x22, 0xC0,        # mov eax, cr0; or al, 1; mov cr0, eax
    0x66, 0xEA, 0x20, 0xF0, 0x0F, 0x00, 0x10, 0x00,        # jmp 0x10:ROM_START + BOOT32
])  # fmt: skip
BOOT32_CODE = bytes([
    0xB8, 0x18, 0x00, 0x00, 0x00,                          # mov eax, 0x18
    0x8E, 0xD8, 0x8E, 0xC0, 0x8E, 0xD0,                    # mov ds, eax; mov es, eax; mov ss, eax
    0xBE, 0x00, 0x00, 0x0F, 0x00, 0x31, 0xFF,              # mov esi, ROM_START; xor edi, edi
    0xB9, 0x00, 0x20, 0x00, 0x00, 0xF3, 0xA5,              # mov ecx, 0x2000; rep movsd
    0xB8, 0x00, 0x10, 0x00, 0x00, 0xFF, 0xE0,              # mov eax, CODE; jmp eax
])  # fmt: skip
TRAP_GATE = 0x8F00
"""Interrupts stay on, so that the guest needs no IRET: an interpreting KVM has none for protected mode."""
FLAT_CODE, FLAT_DATA = 0x00CF9B000000FFFF, 0x00CF93000000FFFF


def image(script):
    """The guest's first 32 KiB of memory."""
    memory = bytearray(RESULTS)

    def place(address, data):
        assert address + len(data) <= RESULTS, "the script is too long"
        memory[address : address + len(data)] = data

    place(IDT_POINTER, struct.pack("<HI", 256 * 8 - 1, IDT))
    place(GDT, struct.pack("<4Q", 0, 0, FLAT_CODE, FLAT_DATA))
    place(CODE, GUEST)
    for vector in range(256):
        stub = STUBS + 16 * vector
        place(IDT + 8 * vector, struct.pack("<HHHH", stub, 0x10, TRAP_GATE, 0))
        # push eax; mov al, vector; jmp common
        place(stub, struct.pack("<BBBBi", 0x50, 0xB0, vector, 0xE9, COMMON - stub - 8))
    place(TABLE, b"".join(_step(*step) for step in [*script, ("end",)]))
    return bytes(memory)


def _step(kind, address=0, value=0):
    return struct.pack("<3I", KINDS[kind], address, value)


def serve(machine):
    """Do what the guest asks of the world until it is done; its results."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while True:
        request, first, second, end = struct.unpack("<4I", machine.read(MAILBOX, 16))
        if request == END:
            return list(struct.unpack(f"<{(end - RESULTS) // 4}I", machine.read(RESULTS, end - RESULTS)))
        if request == LINE:
            machine.set_line(first, bool(second))
        elif request == PAUSE:
            time.sleep(PAUSE_SECONDS)
        if request:
            machine.write(MAILBOX, bytes(4))
        assert time.monotonic() < deadline, "the guest is not done"
        time.sleep(0.0005)


class KvmGuest:
    """The guest on KVM, with the kernel's interrupt chips."""

    def __init__(self, kvm, script):
        self.memory = GuestMemory([Region(0, RAM_BYTES, "RAM")])
        self.memory.write(0, image(script))
        self.vm = kvm.create_vm()
        for ram in self.memory:
            self.vm.map_memory(ram)
        self.vm.put(Irqchip())
        self.vcpu = self.vm.create_vcpu(0)
        self.vcpu.put(kvm.facts.supported_state(Cpuid))
        data = SegmentRegister(limit=0xFFFFFFFF, selector=0x18, type=3, s=True, present=True, db=True, g=True)
        code = SegmentRegister(limit=0xFFFFFFFF, selector=0x10, type=0xB, s=True, present=True, db=True, g=True)
        segments = {**dict.fromkeys(("ds", "es", "fs", "gs", "ss"), data), "cs": code}
        gdt, cr0 = DescriptorTable(base=GDT, limit=31), Cr0(pe=True, et=True)
        self.vcpu.put(attrs.evolve(self.vcpu.get(Sregs), **segments, gdt=gdt, cr0=cr0))
        self.vcpu.put(Regs(rip=CODE, rflags=2))
        self.read, self.write, self.set_line = self.memory.read, self.memory.write, self.vm.set_irq
        self.thread = threading.Thread(target=self.vcpu.run, args=(Bus(),), daemon=True)

    def run(self):
        self.thread.start()
        try:
            return serve(self)
        finally:
            self.vcpu.kick()
            self.thread.join(PATIENCE_SECONDS)
            self.vm.close()
            self.memory.close()


class QemuGuest(QemuDevices):
    """The guest as the ROM of a PC of QEMU's."""

    def __init__(self, directory, script):
        rom = directory / "apic.rom"
        rom.write_bytes(self.rom(script))
        super().__init__(directory, "-bios", str(rom))

    @staticmethod
    def rom(script):
        rom = bytearray(image(script).ljust(0x10000, b"\0"))
        for address, data in (
            (BOOT, BOOT_CODE),
            (BOOT32, BOOT32_CODE),
            (BOOT_GDT_POINTER, struct.pack("<HI", 31, ROM_START + GDT)),
            (RESET_VECTOR, struct.pack("<Bh", 0xE9, BOOT - RESET_VECTOR - 3)),
        ):
            rom[address : address + len(data)] = data
        return bytes(rom)

    def ask(self, command):
        """Lines shall reach the I/O APIC."""
        return "" if command == "irq_intercept_in ioapic" else super().ask(command)

    def read(self, address, size_bytes):
        return bytes.fromhex(self.ask(f"read {address:#x} {size_bytes:#x}").split()[1][2:]) if size_bytes else b""

    def write(self, address, data):
        self.ask(f"write {address:#x} {len(data):#x} 0x{data.hex()}")

    def set_line(self, gsi, level):
        self.ask(f"set_irq_in ioapic unnamed-gpio-in {gsi} {level:d}")

    def run(self):
        try:
            return serve(self)
        finally:
            self.close()
