"""What only guests in long mode meet: IST stacks, addresses that are not canonical, SYSCALL, compatibility mode."""

import struct

from event_case import DF, DONE, EXT, GP, INT, KVM, NOBODY, PF, QEMU, SS, TS, UD, Case, dying, faults
from event_code import link
from event_guests import Guest
from event_layout import (
    ABSENT,
    CALL,
    KERNEL_CODE,
    LONG,
    NO_EXECUTE,
    OWN_HANDLER,
    TASK,
    TSS,
    USER_CODE,
    USER_CODE32,
    USER_DATA,
    USER_STACK,
    gate,
)

SYSCALL_ENTRY = """
    mov %rcx, 0x700; mov %r11, 0x708; mov %rsp, 0x710
    mov %cs, %eax; mov %eax, 0x718; mov %ss, %eax; mov %eax, 0x720
    mov %rsp, %rdx; mov $0x8F00, %esp
    pushfq; pop %rax; mov %rax, 0x728
    mov %rdx, %rsp
    sysretq
"""
MSRS = {
    0xC0000081: (USER_CODE32 << 16 | KERNEL_CODE) << 32,
    0xC0000082: OWN_HANDLER,
    0xC0000083: OWN_HANDLER,
    0xC0000084: 0x40700,
}


def system_call(name, entry, call, **fields):
    """From the kernel to users, who call it: it writes down what it finds, and goes back."""
    setup = "".join(
        f"mov ${index}, %ecx; mov ${value & 0xFFFFFFFF}, %eax; mov ${value >> 32}, %edx; wrmsr\n"
        for index, value in MSRS.items()
    )
    compat = fields.pop("compat", False)
    down = f"""
    push ${USER_DATA}; push ${USER_STACK}; push $0x202
    push ${USER_CODE32 if compat else USER_CODE}; lea 1f(%rip), %rax; push %rax
    iretq
1:  {call}; mov $1, %ebx; mov %esp, %ebp; pushf; cld; ud2
"""
    return Case(
        f"{LONG}: SYSCALL, {name}",
        Guest(LONG, setup + down, patches={OWN_HANDLER: link(entry, OWN_HANDLER)}),
        [DONE],
        **fields,
    )


def long_only():
    ist = lambda vector, number=1: gate(LONG, vector, ist=number)  # noqa: E731
    return [
        faults(LONG, "fetch of what is not code", f"mov ${NO_EXECUTE}, %ecx; jmp *%rcx", (PF, 0x11)),
        faults(LONG, "address not canonical", "movabs $1 << 63, %rax; mov (%rax), %eax", (GP, 0)),
        dying(LONG, "users fetch what is not code", f"mov ${NO_EXECUTE}, %ecx; jmp *%rcx", (PF, 0x15), user=True),
        dying(LONG, "IST", "ud2", (UD, 0), judges=KVM, patches=ist(UD)),
        dying(LONG, "IST for users", "ud2", (UD, 0), patches=ist(UD), user=True),
        dying(LONG, "IST for users' INT", "int $0x20", (INT, 0), patches=ist(INT), judges=QEMU, user=True),
        dying(LONG, "stack not aligned", "mov $0x8F07, %esp; ud2", (UD, 0)),
        dying(
            LONG,
            "a page fault for an exception's stack",
            f"mov ${ABSENT + 0x10}, %esp; ud2",
            (PF, 2),
            patches=ist(PF),
            judges=NOBODY,
        ),
        dying(
            LONG,
            "a page fault for a page fault's stack",
            f"mov ${ABSENT + 0x10}, %esp; mov {ABSENT + 0x800}, %eax",
            (DF, 0),
            patches=ist(DF),
            judges=NOBODY,
        ),
        dying(
            LONG,
            "a page fault for the stack of #GP",
            f"mov ${ABSENT + 0x10}, %esp; mov $0x1F0, %eax; mov %eax, %ds",
            (PF, 2),
            patches=ist(PF),
            judges=NOBODY,
        ),
        dying(
            LONG,
            "a page fault for users' exception",
            "ud2",
            (PF, 2),
            user=True,
            judges=QEMU,
            patches={**ist(PF), TSS + 4: struct.pack("<Q", ABSENT + 0x10)},
        ),
        dying(
            LONG,
            "a page fault for users' page fault",
            f"mov {ABSENT + 0x800}, %eax",
            (DF, 0),
            user=True,
            judges=QEMU,
            patches={**ist(DF), TSS + 4: struct.pack("<Q", ABSENT + 0x10)},
        ),
        dying(
            LONG,
            "#GP for a page fault's gate",
            f"mov {ABSENT}, %eax",
            (DF, 0),
            judges=QEMU,
            patches=gate(LONG, PF, kind=CALL),
        ),
        dying(
            LONG, "stack not canonical", "mov $1, %esp; shl $63, %rsp; ud2", (SS, EXT), patches=ist(SS), judges=NOBODY
        ),
        dying(
            LONG,
            "users' stack not canonical",
            "ud2",
            (SS, EXT),
            patches={**ist(SS), TSS + 4: struct.pack("<Q", 1 << 63)},
            user=True,
            judges=NOBODY,
        ),
        dying(LONG, "handler not canonical", "ud2", (GP, EXT), patches=gate(LONG, UD, offset=1 << 63), judges=NOBODY),
        dying(
            LONG,
            "TSS too short",
            "ud2",
            (TS, TASK | EXT),
            user=True,
            judges=NOBODY,
            tss_limit=0x2B,
            patches={**ist(UD, 2), **ist(TS)},
        ),
        dying(LONG, "INT of compatibility mode", ".code32; int $0x20; .code64", (INT, 0), judges=QEMU, compat=True),
        dying(
            LONG,
            "exception of compatibility mode",
            ".code32; mov $0x12345678, %eax; ud2; .code64",
            (UD, 0),
            compat=True,
        ),
        dying(
            LONG,
            "page fault of compatibility mode",
            f".code32; mov %eax, %ds:{ABSENT + 0x10}; .code64",
            (PF, 6),
            compat=True,
        ),
        system_call("64-bit", SYSCALL_ENTRY, "syscall", judges=QEMU),
        system_call(
            "flags that are masked", SYSCALL_ENTRY, "std; pushfq; orl $0x40000, (%rsp); popfq; syscall", judges=QEMU
        ),
        system_call(
            "flags that are not masked",
            SYSCALL_ENTRY,
            "xor %eax, %eax; stc; syscall",
            judges=NOBODY,
            left_behind={0x708: b"\x47\x02", 0x728: b"\x47\0"},
        ),
        system_call(
            "of compatibility mode",
            SYSCALL_ENTRY.replace("sysretq", "sysretl"),
            ".code32; syscall; .code64",
            judges=QEMU,
            compat=True,
        ),
    ]
