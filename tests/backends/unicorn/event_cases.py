"""The guests that meet exceptions: those of real mode, those that long and protected mode share, and what each has."""

import struct

import attrs
from event_case import BOTH, BP, DE, DF, EXT, GP, IN_IDT, INT, NOBODY, NP, OF, PF, QEMU, SS, UD, case, dying, faults, on
from event_cases_long import long_only
from event_cases_protected import legacy_only
from event_code import link
from event_layout import (
    ABSENT,
    ABSENT_CODE,
    ABSENT_DATA,
    CALL,
    COMPAT_CODE,
    CONFORMING,
    KERNEL_DATA,
    LOCAL,
    LONG,
    NOTHING,
    OWN_HANDLER,
    PROTECTED,
    READ_ONLY,
    REAL,
    RING1_CODE,
    SUPERVISOR,
    TRAP,
    USER_CODE,
    gate,
)

REAL_MODE = [
    faults(REAL, "#DE", "xor %ax, %ax; stc; div %ax", (DE, 0)),
    faults(REAL, "#UD", "ud2", (UD, 0)),
    case(REAL, "INT3", "int3", (BP, 0)),
    case(REAL, "INT 3 of two bytes", ".byte 0xCD, 3", (BP, 0)),
    case(REAL, "INTO", "mov $0x7F, %al; inc %al; into", (OF, 0)),
    case(REAL, "INT with flags set", "std; stc; sti; int $0x20; pushfw; pop %dx", (INT, 0)),
    case(REAL, "INT back to back", "int $0x20; int $0x21; int $0x22", (INT, 0), (INT + 1, 0), (INT + 2, 0)),
    case(REAL, "upper half of ESP", "mov $0xABCD8F00, %esp; int $0x20; mov %esp, 0x700", (INT, 0)),
    dying(REAL, "SP goes round", "mov $4, %sp; int $0x21", (INT + 1, 0), patches=gate(REAL, 0x21)),
    attrs.evolve(
        dying(
            REAL,
            "handler in another segment",
            "int $0x21",
            (INT + 1, 0),
            patches={
                0x21 * 4: struct.pack("<HH", OWN_HANDLER - 0x800, 0x80),
                OWN_HANDLER: link(".code16; mov %cs, %ax; mov %ax, 0x700; hlt", OWN_HANDLER),
            },
        ),
        events=[],
        left_behind={0x700: b"\x80\0"},
    ),
    dying(REAL, "SP of 1", "mov $1, %sp; int $0x20", judges=NOBODY),
    dying(REAL, "IDT too short for all", "ud2", judges=QEMU, idt_limit=4 * 6 - 2),
    dying(REAL, "IDT too short for #GP", "int $0x20", (DF, 0), judges=QEMU, idt_limit=4 * 9 - 1),
]


def selectors(mode):
    """Segments that cannot be loaded; the same in both modes."""
    return [
        faults(mode, "#GP for a selector", f"mov ${NOTHING + 0x100}, %eax; mov %eax, %ds", (GP, NOTHING + 0x100)),
        faults(mode, "#GP in the LDT", "mov $0xC, %eax; mov %eax, %ds", (GP, 0xC)),
        faults(mode, "#NP for a selector", f"mov ${ABSENT_DATA}, %eax; mov %eax, %ds", (NP, ABSENT_DATA)),
        faults(mode, "#SS for a selector", f"mov ${ABSENT_DATA}, %eax; mov %eax, %ss", (SS, ABSENT_DATA)),
    ]


def gates(mode):
    """What can be wrong with a gate or with the code segment in it."""
    word = 16 if mode == LONG else 8
    code = lambda selector, vector=INT: gate(mode, vector, selector=selector)  # noqa: E731
    other = COMPAT_CODE if mode == LONG else RING1_CODE & ~3

    def both(name, patch, vector, index, judges=NOBODY):
        """By INT, and by an exception: then EXT is set, as the fault is not the program's own."""
        fault = UD * 8 | IN_IDT if index & IN_IDT else index
        by_int = NOBODY if mode == LONG and index & IN_IDT else QEMU
        return [
            case(mode, f"{name} (INT)", on(mode, "int $0x20"), (vector, index), judges=by_int, patches=patch(INT)),
            dying(mode, f"{name} (#UD)", "ud2", (vector, fault | EXT), judges=judges, patches=patch(UD)),
        ]

    return [
        *both("gate not present", lambda v: gate(mode, v, present=False), NP, INT * 8 | IN_IDT),
        *both("call gate", lambda v: gate(mode, v, kind=CALL), GP, INT * 8 | IN_IDT),
        *both("null code segment", lambda v: code(0, v), GP, 0),
        *both("code segment beyond the GDT", lambda v: code(0x108, v), GP, 0x108),
        *both("code segment beyond the LDT", lambda v: code(0xC, v), GP, 0xC),
        *both("data for a code segment", lambda v: code(KERNEL_DATA, v), GP, KERNEL_DATA),
        *both("code segment not present", lambda v: code(ABSENT_CODE, v), NP, ABSENT_CODE),
        *both("code segment of users", lambda v: code(USER_CODE, v), GP, USER_CODE & ~3),
        *(both("code segment of another kind", lambda v: code(other, v), GP, other) if mode == LONG else ()),
        faults(
            mode,
            "IDT too short",
            "int $0x20",
            (GP, INT * 8 | IN_IDT),
            judges=QEMU if mode == PROTECTED else NOBODY,
            idt_limit=INT * word + word - 2,
        ),
        dying(mode, "IDT too short for #GP", "int $0x20", (DF, 0), judges=QEMU, idt_limit=9 * word - 1),
        dying(
            mode, "IDT too short for an exception", "mov $0x1F0, %eax; mov %eax, %ds", (DF, 0), idt_limit=9 * word - 1
        ),
        dying(mode, "IDT too short for all", "ud2", idt_limit=word),
        case(mode, "conforming code", "int $0x20", (INT, 0), judges=QEMU, patches=code(CONFORMING)),
        dying(mode, "conforming code for an exception", "ud2", (UD, 0), patches=code(CONFORMING, UD)),
        case(
            mode,
            "code in the LDT",
            f"mov ${LOCAL}, %eax; lldt %ax; int $0x20",
            (INT, 0),
            judges=QEMU,
            patches=code(0xC),
        ),
        dying(
            mode,
            "code in the LDT for an exception",
            f"mov ${LOCAL}, %eax; lldt %ax; ud2",
            (UD, 0),
            judges=QEMU,
            patches=code(0xC, UD),
        ),
        case(mode, "trap gate", "sti; int $0x20; cli", (INT, 0), judges=QEMU, patches=gate(mode, INT, kind=TRAP)),
        dying(mode, "trap gate for an exception", "sti; ud2", (UD, 0), patches=gate(mode, UD, kind=TRAP)),
        dying(mode, "interrupt gate for an exception", "sti; std; stc; ud2", (UD, 0)),
    ]


def exceptions(mode):
    """What both modes have."""
    flags = "pushfq; orl $0x4000, (%rsp); popfq" if mode == LONG else "pushfl; orl $0x4000, (%esp); popfl"
    return [
        faults(mode, "#DE", "xor %eax, %eax; stc; div %eax", (DE, 0)),
        faults(mode, "#UD", "ud2", (UD, 0)),
        case(mode, "INT3", "int3", (BP, 0), judges=QEMU),
        case(mode, "INT 3 of two bytes", ".byte 0xCD, 3", (BP, 0), judges=QEMU),
        case(mode, "INT with flags set", "std; stc; sti; int $0x20; cli", (INT, 0), judges=QEMU),
        dying(mode, "NT is cleared", f"{flags}; ud2", (UD, 0)),
        *selectors(mode),
        *gates(mode),
    ]


def page_faults(mode, label="", **options):
    def pf(name, instruction, *codes, **more):
        return faults(mode, label + name, instruction, *((PF, code) for code in codes), **options, **more)

    return [
        pf("read of an absent page", f"mov {ABSENT + 8}, %eax", 0),
        pf("write to an absent page", f"mov %eax, {ABSENT + 0x10}", 2),
        pf("write to a read-only page", f"mov %eax, {READ_ONLY + 0xFFC}", 3),
        pf("read beyond all tables", "mov $0x3FFFF000, %ecx; mov (%ecx), %eax", 0),
        pf("an access over two pages", f"mov %eax, {ABSENT - 2}", 2),
        case(
            mode,
            label + "three page faults",
            "".join(on(mode, f"mov {ABSENT + 8 * i}, %eax") for i in range(3)),
            *[(PF, 0)] * 3,
            **options,
        ),
        case(
            mode,
            label + "a page fault, another exception, a page fault",
            on(mode, f"mov {ABSENT}, %eax") + on(mode, "ud2") + on(mode, f"mov %eax, {ABSENT}"),
            (PF, 0),
            (UD, 0),
            (PF, 2),
            **options,
        ),
        dying(mode, label + "users read what is not there", f"mov {ABSENT + 8}, %eax", (PF, 4), user=True, **options),
        dying(mode, label + "users write what is not there", f"mov %eax, {ABSENT + 8}", (PF, 6), user=True, **options),
        dying(
            mode,
            label + "users read what is the kernel's",
            f"mov {SUPERVISOR + 8}, %eax",
            (PF, 5),
            user=True,
            **options,
        ),
        dying(
            mode, label + "users write what is read-only", f"mov %eax, {READ_ONLY + 8}", (PF, 7), user=True, **options
        ),
        dying(mode, label + "handler's stack over two pages", "mov $0x8010, %esp; ud2", (UD, 0), **options),
        dying(mode, label + "handler's stack not there", f"mov ${ABSENT + 0x800}, %esp; ud2", **options),
    ]


def users(mode):
    stack, in_idt = ("rsp", NOBODY) if mode == LONG else ("esp", QEMU)
    return [
        dying(mode, "users' exception", "ud2", (UD, 0), user=True),
        dying(mode, "users' #DE", "xor %eax, %eax; div %eax", (DE, 0), user=True),
        case(
            mode,
            "users' INT and back",
            f"int $0x20; mov %{stack}, 0x700; mov %cs, 0x708; mov %ss, 0x710",
            (INT, 0),
            user=True,
            judges=QEMU,
        ),
        faults(
            mode, "users' exception and back", "ud2", (UD, 0), user=True, judges=QEMU if mode == PROTECTED else BOTH
        ),
        dying(
            mode,
            "users' INT forbidden",
            "int $0x20",
            (GP, INT * 8 | IN_IDT),
            user=True,
            judges=in_idt,
            patches=gate(mode, INT, dpl=0),
        ),
        dying(
            mode,
            "users' INT3 forbidden",
            "int3",
            (GP, BP * 8 | IN_IDT),
            user=True,
            judges=in_idt,
            patches=gate(mode, BP, dpl=0),
        ),
        dying(
            mode, "users' exception where INT is forbidden", "ud2", (UD, 0), user=True, patches=gate(mode, UD, dpl=0)
        ),
        dying(mode, "users' HLT", "hlt", (GP, 0), user=True),
        dying(
            mode,
            "conforming code for users",
            "int $0x20",
            (GP, 0),
            user=True,
            judges=QEMU,
            patches=gate(mode, INT, selector=CONFORMING),
        ),
        dying(
            mode,
            "conforming code for users' exception",
            "ud2",
            (GP, 0),
            user=True,
            judges=QEMU,
            patches=gate(mode, UD, selector=CONFORMING),
        ),
        dying(
            mode,
            "CPL 1 from CPL 3",
            "int $0x20",
            (PF, 2) if mode == LONG else (GP, 0),
            user=True,
            judges=QEMU,
            patches=gate(mode, INT, selector=RING1_CODE),
        ),
    ]


CASES = [
    *REAL_MODE,
    *exceptions(PROTECTED),
    *users(PROTECTED),
    *legacy_only(),
    *page_faults(PROTECTED, "32-bit paging, ", paging="32-bit", judges=QEMU),
    *page_faults(PROTECTED, "PAE, ", paging="PAE", judges=QEMU),
    *exceptions(LONG),
    *users(LONG),
    *page_faults(LONG),
    *long_only(),
]
