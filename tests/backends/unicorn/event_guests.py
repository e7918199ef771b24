"""Guests that meet exceptions and interrupts, and write down what their handlers saw.

Each is some lines of assembly (AT&T, put together by the GNU assembler) behind a prologue of handlers, and between
tables, that are made here. Every vector below 64 has a stub of 16 bytes, and all stubs go on to one handler. That
appends a record to the log: the vector, the error code (0 where there is none), the rest of the frame, then CR2, CS,
SS, the stack pointer and the flags that it has itself. Where it goes then is in BX: 1 halts, 0 is the frame's IRET,
anything else is where to go instead.

In the frame the handler clears RF, which hardware sets for faults and QEMU's processor (and so Unicorn's) does not.
"""

import struct

import attrs
from event_code import CR0, assemble, boot
from event_layout import (
    BOOT,
    CODE,
    GDT,
    IDT,
    KERNEL_CODE,
    KERNEL_DATA,
    LOG,
    LOG_POINTER,
    LONG,
    PROTECTED,
    RAM_BYTES,
    REAL,
    STACK,
    TABLES,
    TASK,
    USER_CODE,
    USER_CODE32,
    USER_DATA,
    USER_STACK,
    segments,
    tables,
)

from anyvisor.bus import Bus
from anyvisor.exits import Exit, GuestException, Shutdown
from anyvisor.memory import GuestMemory, Region
from anyvisor.x86_64.control import Cr0, Cr4, Efer
from anyvisor.x86_64.state import DescriptorTable, Regs, SegmentRegister, Sregs


@attrs.frozen
class Seen:
    """One record of the log."""

    vector: int
    error_code: int
    ip: int
    cs: int
    flags: int
    sp: int
    ss: int
    cr2: int = 0
    handler_cs: int = 0
    handler_ss: int = 0
    handler_sp: int = 0
    handler_flags: int = 0


@attrs.frozen
class Outcome:
    """What became of a guest: why it came back, its RAM, its log, and what is told of a shutdown."""

    exit: Exit
    ram: bytes
    log: tuple[Seen, ...]
    told: tuple[GuestException, ...] = ()

    @property
    def events(self):
        return [(seen.vector, seen.error_code) for seen in self.log]


@attrs.frozen
class Guest:
    """A guest: `source` is what it does, `patches` are bytes put over its tables, `sregs` fields of its first state."""

    mode: int
    source: str
    patches: dict[int, bytes] = attrs.field(factory=dict)
    idt_limit: int = 0xFFF
    paging: str = ""
    """In protected mode: none, `32-bit` or `PAE`."""
    user: bool = False
    """Begins at CPL 3."""
    compat: bool = False
    """Begins at CPL 3 in compatibility mode."""
    interrupts: bool = False
    """Begins with interrupts on, and with what halts the handler in BX."""
    tss: int = 0
    """Bits of the TSS, if not those of the mode."""
    tss_limit: int = 0x67

    @property
    def cpl(self):
        return 3 if self.user or self.compat else 0

    @property
    def user_code(self):
        return USER_CODE32 if self.compat else USER_CODE

    def image(self) -> bytes:
        """RAM as it is before the first instruction, which is at BOOT."""
        image = bytearray(RAM_BYTES)
        for address, data in {**tables(self), BOOT: boot(self), CODE: assemble(self), **self.patches}.items():
            image[address : address + len(data)] = data
        return bytes(image)

    def run_on(self, hypervisor, *, from_reset=False, source=None) -> Outcome:
        memory = GuestMemory([Region(0, RAM_BYTES, "RAM")])
        try:
            memory.write(0, self.image())
            vm = hypervisor.create_vm()
            try:
                for ram in memory:
                    vm.map_memory(ram)
                vcpu = vm.create_vcpu(0)
                first = vcpu.get(Sregs)
                vcpu.put(real_mode(first) if from_reset else prepared(self, first))
                vcpu.put(
                    Regs(
                        rip=BOOT if from_reset else CODE,
                        rsp=USER_STACK if self.cpl else STACK,
                        rflags=2 | self.interrupts << 9,
                        rbx=int(self.interrupts),
                    )
                )
                if source is not None:
                    vcpu.take_interrupts_from(source)
                left = vcpu.run(Bus())
            finally:
                vm.close()
            ram = bytes(memory.read(0, RAM_BYTES))
        finally:
            memory.close()
        told = left.exceptions if isinstance(left, Shutdown) else ()
        return Outcome(Shutdown() if isinstance(left, Shutdown) else left, ram, tuple(log(ram, self.mode)), told)


def log(ram, mode):
    word = {REAL: "H", PROTECTED: "I", LONG: "Q"}[mode]
    count = 9 if mode == REAL else 12
    (end,) = struct.unpack_from(f"<{word}", ram, LOG_POINTER)
    assert LOG <= end <= CODE, "the log has room"
    for record in struct.iter_unpack(f"<{count}{word}", ram[LOG:end]):
        if mode == REAL:
            yield Seen(*record[:5], 0, 0, 0, *record[5:])
        else:
            yield Seen(*record)


def real_mode(old):
    """At a segment of 0, all else as a reset leaves it."""
    code = SegmentRegister(limit=0xFFFF, type=0xB, s=True, present=True)
    names = dict.fromkeys(("ds", "es", "fs", "gs", "ss"), attrs.evolve(code, type=3))
    idt = DescriptorTable(0, 0x3FF)
    return attrs.evolve(old, cs=code, **names, cr0=Cr0(et=True), cr4=Cr4(0), efer=Efer(0), idt=idt)


def prepared(guest, old):
    """The state that the instructions at BOOT lead to."""
    if guest.mode == REAL:
        return attrs.evolve(real_mode(old), idt=DescriptorTable(0, guest.idt_limit))
    made, long_mode = segments(guest), guest.mode == LONG
    code, data = (KERNEL_CODE, KERNEL_DATA) if guest.cpl == 0 else (guest.user_code, USER_DATA)
    return attrs.evolve(
        old,
        **dict.fromkeys(("ds", "es", "fs", "gs", "ss"), made[data].register(data)),
        cs=made[code].register(code),
        tr=made[TASK].register(TASK),
        gdt=DescriptorTable(GDT, 0xFF),
        idt=DescriptorTable(IDT, guest.idt_limit),
        cr0=CR0[guest.mode].replace(pg=bool(guest.paging) or long_mode),
        cr3=TABLES,
        cr4=Cr4(pae=long_mode or guest.paging == "PAE"),
        efer=Efer(lme=True, lma=True, nxe=True, sce=True) if long_mode else Efer(0),
    )
