"""Guests that meet exceptions and interrupts, and write down what their handlers saw.

Each is some lines of assembly (AT&T, put together by the GNU assembler) behind a prologue of handlers, and between
tables, that are made here. Every vector below 64 has a stub of 16 bytes, and all stubs go on to one handler. That
appends a record to the log: the vector, the error code (0 where there is none), the rest of the frame, then CR2, CS,
SS, the stack pointer and the flags that it has itself. Where it goes then is in BX: 1 halts, 0 is the frame's IRET,
anything else is where to go instead.

In the frame the handler clears RF, which hardware sets for faults and QEMU's processor (and so Unicorn's) does not.
"""

import shutil
import struct
import subprocess
import tempfile
from pathlib import Path

import attrs
import pytest

from anyvisor.bus import Bus
from anyvisor.exits import Exit
from anyvisor.memory import GuestMemory, Region
from anyvisor.x86_64.control import Cr0, Cr4, Efer
from anyvisor.x86_64.gdt import BYTE, Segment
from anyvisor.x86_64.state import DescriptorTable, Regs, SegmentRegister, Sregs

RAM_BYTES = 0x20000
LOG_POINTER, LOG, CODE, BOOT, IDT, GDT, LDT, TSS = 0x500, 0x600, 0x1000, 0x3800, 0x4000, 0x5000, 0x5800, 0x6000
STACK, RING0_STACK, IST1_STACK, USER_STACK, RING1_STACK = 0x8F00, 0x9F00, 0xAF00, 0xBF00, 0xCF00
TABLES = 0x10000
ABSENT, READ_ONLY, SUPERVISOR, NO_EXECUTE = 0x18000, 0x19000, 0x1A000, 0x1B000
"""Pages with other rights than the rest; BEYOND is in no table at all."""
BEYOND = 0x40000000
PROTECTED, LONG = 32, 64
REAL = 16

KERNEL_CODE, KERNEL_DATA, USER_CODE32, USER_DATA, USER_CODE = 0x08, 0x10, 0x1B, 0x23, 0x2B
TASK, CONFORMING, ABSENT_CODE, ABSENT_DATA, CODE16, DATA16 = 0x30, 0x40, 0x48, 0x50, 0x58, 0x60
SMALL_DATA, RING1_CODE, RING1_DATA, BASED_DATA, COMPAT_CODE, LOCAL = 0x68, 0x71, 0x79, 0x80, 0x88, 0x90
TASK16, SMALL_CODE, NOTHING, DOWN_DATA = 0xA0, 0xB0, 0xF8, 0xB8
OWN_HANDLER = 0x3000
"""Where a guest may have one of its own."""
BASED = 0x80
"""Where segment BASED_DATA begins."""

PRESENT, WRITABLE, USER, USED, XD = 1, 2, 4, 0x60, 1 << 63
ALL = PRESENT | WRITABLE | USER | USED
INTERRUPT, TRAP, INTERRUPT16, TRAP16, TASK_GATE, CALL = 0xE, 0xF, 6, 7, 5, 0xC

COMMON = """
    .set WITH_ERROR, 1<<8 | 1<<10 | 1<<11 | 1<<12 | 1<<13 | 1<<14 | 1<<17
"""
STUBS = """
    jmp main
    .balign 16
stubs:
    .set vector, 0
    .rept 64
    .balign 16
    .if vector > 31 || !((1 << vector) & WITH_ERROR)
    push $0
    .endif
    push $vector
    jmp common
    .set vector, vector + 1
    .endr
"""
HANDLERS = {
    LONG: COMMON + ".code64\n" + STUBS + """
common:
    pushfq
    andl $0xFFFEFFFF, 40(%rsp)
    push %rax; push %rcx; push %rsi; push %rdi
    mov LOG_POINTER, %rdi
    lea 40(%rsp), %rsi
    mov $7, %ecx
1:  mov (%rsi), %rax
    mov %rax, (%rdi)
    add $8, %rsi
    add $8, %rdi
    dec %ecx
    jnz 1b
    mov %cr2, %rax;     mov %rax, (%rdi)
    mov %cs, %eax;      mov %rax, 8(%rdi)
    mov %ss, %eax;      mov %rax, 16(%rdi)
    lea 40(%rsp), %rax; mov %rax, 24(%rdi)
    mov 32(%rsp), %rax; mov %rax, 32(%rdi)
    add $40, %rdi
    mov %rdi, LOG_POINTER
    pop %rdi; pop %rsi; pop %rcx; pop %rax
    add $8, %rsp
    cmp $1, %rbx
    jne 2f
    hlt
2:  test %rbx, %rbx
    jz 3f
    mov %rbx, 16(%rsp)
3:  add $16, %rsp
    iretq
main:
""",
    PROTECTED: COMMON + ".code32\n" + STUBS + """
common:
    pushfl
    andl $0xFFFEFFFF, %ss:20(%esp)
    push %eax; push %ecx; push %esi; push %edi
    mov LOG_POINTER, %edi
    mov %esp, %esi
    add $20, %esi
    mov $7, %ecx
1:  mov %ss:(%esi), %eax
    mov %eax, (%edi)
    add $4, %esi
    add $4, %edi
    dec %ecx
    jnz 1b
    mov %cr2, %eax;     mov %eax, (%edi)
    mov %cs, %eax;      mov %eax, 4(%edi)
    mov %ss, %eax;      mov %eax, 8(%edi)
    mov %esp, %eax;     add $20, %eax; mov %eax, 12(%edi)
    mov %ss:16(%esp), %eax; mov %eax, 16(%edi)
    add $20, %edi
    mov %edi, LOG_POINTER
    pop %edi; pop %esi; pop %ecx; pop %eax
    add $4, %esp
    cmp $1, %ebx
    jne 2f
    hlt
2:  test %ebx, %ebx
    jz 4f
    testb $3, %ss:12(%esp)
    jnz 3f
    add $20, %esp
    jmp *%ebx
3:  mov %ebx, %ss:8(%esp)
4:  add $8, %esp
    iretl
main:
""",
    REAL: COMMON + ".code16\n" + STUBS.replace("!((1 << vector) & WITH_ERROR)", "1") + """
common:
    pushfw
    push %ax; push %cx; push %si; push %di
    mov %cs:LOG_POINTER, %di
    mov %sp, %si
    add $10, %si
    mov $5, %cx
1:  mov %ss:(%si), %ax
    mov %ax, %cs:(%di)
    add $2, %si
    add $2, %di
    dec %cx
    jnz 1b
    mov %cs, %ax;       mov %ax, %cs:(%di)
    mov %ss, %ax;       mov %ax, %cs:2(%di)
    mov %sp, %ax;       add $10, %ax; mov %ax, %cs:4(%di)
    mov %sp, %si;       mov %ss:8(%si), %ax; mov %ax, %cs:6(%di)
    add $8, %di
    mov %di, %cs:LOG_POINTER
    pop %di; pop %si; pop %cx; pop %ax
    add $2, %sp
    mov %sp, %bp
    cmp $1, %bx
    jne 2f
    hlt
2:  test %bx, %bx
    jz 3f
    mov %bx, 4(%bp)
3:  add $4, %sp
    iretw
main:
""",
}  # fmt: skip
STUBS_AT = CODE + 0x10
"""The first jump of the prologue has room before."""


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
    """What became of a guest: why it came back, its RAM, and its log."""

    exit: Exit
    ram: bytes
    log: tuple[Seen, ...]

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

    def run_on(self, hypervisor, *, from_reset=False) -> Outcome:
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
                vcpu.put(Regs(rip=BOOT if from_reset else CODE, rsp=USER_STACK if self.cpl else STACK))
                left = vcpu.run(Bus())
            finally:
                vm.close()
            ram = bytes(memory.read(0, RAM_BYTES))
        finally:
            memory.close()
        return Outcome(left, ram, tuple(log(ram, self.mode)))


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


def need_assembler():
    if not (shutil.which("as") and shutil.which("ld")):
        pytest.skip("install binutils to have guests assembled")


def assemble(guest) -> bytes:
    """The guest's code as it lies at CODE."""
    need_assembler()
    names = "\n".join(
        f".set {name}, {value}" for name, value in globals().items() if name.isupper() and isinstance(value, int)
        and name != "XD"
    )  # fmt: skip
    return link(names + HANDLERS[guest.mode] + guest.source + "\n", CODE)


def link(source: str, address: int, _cache={}) -> bytes:  # noqa: B006
    if source not in _cache:
        with tempfile.TemporaryDirectory() as folder:
            text, thing, image = (Path(folder) / name for name in ("guest.s", "guest.o", "guest.bin"))
            text.write_text(source)
            subprocess.run(["as", "--64", "-o", thing, text], check=True, capture_output=True, text=True)
            subprocess.run(
                ["ld", f"-Ttext={address:#x}", "-e", f"{address:#x}", "--oformat=binary", "-o", image, thing],
                check=True, capture_output=True, text=True,
            )  # fmt: skip
            _cache[source] = image.read_bytes()
    return _cache[source]


# -- tables ------------------------------------------------------------------------------------------------------------


def gate(mode, vector, *, kind=INTERRUPT, dpl=3, present=True, selector=KERNEL_CODE, ist=0, offset=None):
    """{address: bytes} of one IDT entry."""
    offset = STUBS_AT + 16 * vector if offset is None else offset
    if mode == REAL:
        return {vector * 4: struct.pack("<HH", offset, 0)}
    flags = kind | dpl << 5 | present << 7
    low = struct.pack("<HHBBH", offset & 0xFFFF, selector, ist, flags, offset >> 16 & 0xFFFF)
    if mode == PROTECTED:
        return {IDT + vector * 8: low}
    return {IDT + vector * 16: low + struct.pack("<Q", offset >> 32)}


def segments(guest):
    mode = bits = guest.mode
    task = Segment.tss(base=TSS, limit_bytes=guest.tss_limit, busy=True, bits=guest.tss or bits, granularity=BYTE)
    return {
        KERNEL_CODE: Segment.code(bits=bits),
        KERNEL_DATA: Segment.data(),
        USER_CODE32: Segment.code(bits=32, privilege=3),
        USER_DATA: Segment.data(privilege=3),
        USER_CODE: Segment.code(bits=bits, privilege=3),
        TASK: task,
        CONFORMING: Segment.code(bits=bits, conforming=True),
        ABSENT_CODE: Segment.code(bits=bits, present=False),
        ABSENT_DATA: Segment.data(present=False),
        CODE16: Segment.code(bits=16),
        DATA16: Segment.data(bits=16, limit_bytes=0xFFFF, granularity=BYTE),
        SMALL_DATA: Segment.data(limit_bytes=0x7FFF, granularity=BYTE),
        RING1_CODE: Segment.code(bits=bits, privilege=1),
        RING1_DATA: Segment.data(privilege=1),
        BASED_DATA: Segment.data(base=BASED),
        COMPAT_CODE: Segment.code(bits=32),
        LOCAL: Segment.ldt(base=LDT, limit_bytes=0xF, granularity=BYTE, bits=mode),
        SMALL_CODE: Segment.code(bits=mode, limit_bytes=OWN_HANDLER - 1, granularity=BYTE),
        DOWN_DATA: Segment.data(limit_bytes=0x7FFF, granularity=BYTE, expand_down=True),
    }


def tables(guest):
    """{address: bytes} of everything but the code."""
    mode, pieces = guest.mode, {LOG_POINTER: struct.pack("<Q", LOG)}
    for vector in range(64):
        pieces |= gate(mode, vector)
    if mode == REAL:
        return pieces
    for selector, segment in segments(guest).items():
        pieces[GDT + (selector & ~7)] = segment.to_bytes()
    pieces[LDT] = bytes(8) + Segment.code(bits=mode).to_bytes()
    if mode == LONG:
        pieces[TSS] = struct.pack("<IQQQQQ", 0, RING0_STACK, 0, 0, 0, IST1_STACK)
        return pieces | long_tables()
    if guest.tss == 16:
        pieces[TSS] = struct.pack("<HHHHH", 0, RING0_STACK, KERNEL_DATA, RING1_STACK, RING1_DATA)
        return pieces | legacy_tables()
    pieces[TSS] = struct.pack("<IIIII", 0, RING0_STACK, KERNEL_DATA, RING1_STACK, RING1_DATA)
    return pieces | (pae_tables() if guest.paging == "PAE" else legacy_tables())


def rights(page):
    return {ABSENT: ALL & ~PRESENT, READ_ONLY: ALL & ~WRITABLE, SUPERVISOR: ALL & ~USER, NO_EXECUTE: ALL | XD}.get(
        page, ALL
    )


def long_tables():
    """Four levels; the first 2 MiB are in pages of 4 KiB."""
    tables = [TABLES + level * 0x1000 for level in range(4)]
    pieces = {tables[i]: struct.pack("<Q", tables[i + 1] | ALL) for i in range(3)}
    pages = range(0, RAM_BYTES, 0x1000)
    pieces[tables[3]] = struct.pack(f"<{len(pages)}Q", *(page | rights(page) for page in pages))
    return pieces


def pae_tables():
    """Three levels; the four entries of the first have no rights."""
    levels = [TABLES + level * 0x1000 for level in range(3)]
    pages = range(0, RAM_BYTES, 0x1000)
    entries = struct.pack(f"<{len(pages)}Q", *((page | rights(page)) & ~XD for page in pages))
    return {
        levels[0]: struct.pack("<Q", levels[1] | PRESENT | USED & 0x20),
        levels[1]: struct.pack("<Q", levels[2] | ALL),
        levels[2]: entries,
    }


def legacy_tables():
    """Two levels of 32-bit entries."""
    pages = range(0, RAM_BYTES, 0x1000)
    entries = [(page | rights(page)) & 0xFFFFFFFF for page in pages]
    return {TABLES: struct.pack("<I", TABLES + 0x1000 | ALL), TABLES + 0x1000: struct.pack(f"<{len(pages)}I", *entries)}


# -- the first instructions -------------------------------------------------------------------------------------------

CR0 = {PROTECTED: Cr0(pe=True, et=True, ne=True, wp=True), LONG: Cr0(pe=True, et=True, ne=True, wp=True, pg=True)}
BOOT_PAE = f"""
    mov ${int(Cr4(pae=True))}, %eax
    mov %eax, %cr4
"""
BOOT_LONG = f"""
    {BOOT_PAE}
    mov $0xC0000080, %ecx
    mov ${int(Efer(lme=True, nxe=True, sce=True))}, %eax
    xor %edx, %edx
    wrmsr
"""
BOOT_USER = f"""
    mov ${USER_DATA}, %eax
    mov %eax, %ds; mov %eax, %es; mov %eax, %fs; mov %eax, %gs
    push ${USER_DATA}; push ${USER_STACK}; push $2; push ${{code}}; push ${CODE}
    iret{{bits}}
"""
BOOT_KERNEL = {LONG: f"mov ${CODE}, %eax; jmp *%rax", PROTECTED: f"mov ${CODE}, %eax; jmp *%eax"}


def boot(guest) -> bytes:
    """From real mode to the guest's: it runs at BOOT, with the processor as after a reset but for CS."""
    source = f"""
    .code16
    cli
    xor %ax, %ax
    mov %ax, %ds; mov %ax, %es; mov %ax, %fs; mov %ax, %gs; mov %ax, %ss
    mov ${STACK}, %sp
    lidtl idtr
    """
    if guest.mode == REAL:
        source += f"ljmp $0, ${CODE}\n"
    else:
        source += f"""
    lgdtl gdtr
    mov ${TABLES}, %eax
    mov %eax, %cr3
    {BOOT_LONG if guest.mode == LONG else BOOT_PAE if guest.paging == "PAE" else ""}
    mov ${int(CR0[guest.mode].replace(pg=bool(guest.paging) or guest.mode == LONG))}, %eax
    mov %eax, %cr0
    ljmpl ${KERNEL_CODE}, $1f
    .code{guest.mode}
1:  mov ${KERNEL_DATA}, %eax
    mov %eax, %ds; mov %eax, %es; mov %eax, %fs; mov %eax, %gs; mov %eax, %ss
    mov ${STACK}, %esp
    andb $0xFD, {GDT + TASK + 5}
    mov ${TASK}, %eax
    ltr %ax
    xor %ebx, %ebx
    {BOOT_USER.format(bits="q" if guest.mode == LONG else "l", code=guest.user_code) if guest.cpl else BOOT_KERNEL[guest.mode]}
    """
    return link(f"""{source}
    .balign 8
idtr: .word {guest.idt_limit}; .long {0 if guest.mode == REAL else IDT}
gdtr: .word 0xFF; .long {GDT}
""", BOOT)


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
