"""What guests do in each mode, what their handlers are to see (Intel SDM Vol. 3, chapter 6), and who is fit to judge.

Not every judge is fit for everything. This machine's KVM may be one that interprets its guests: outside of real mode it
knows no INT, and in protected mode no IRET. QEMU leaves out EXT in error codes and the limits of segments.
"""

import attrs
from event_guests import *  # noqa: F403

from anyvisor.exits import Exit, Halted, Shutdown

DE, DB, BP, OF, UD, DF, TS, NP, SS, GP, PF = 0, 1, 3, 4, 6, 8, 10, 11, 12, 13, 14
INT, DONE = 0x20, (UD, 0)
EXT, IN_IDT = 1, 2
KVM, QEMU, BOTH, NOBODY = ("kvm",), ("qemu",), ("kvm", "qemu"), ()


@attrs.frozen
class Case:
    name: str
    guest: Guest
    events: list
    judges: tuple = BOTH
    exit: Exit = Halted()
    left_behind: dict = attrs.field(factory=dict)
    """{address: bytes} that are in RAM at the end."""


def with_end(mode, source):
    register = {REAL: "bx", PROTECTED: "ebx", LONG: "rbx"}[mode]
    return f"{source}\nmov $1, %{register}; ud2\n"


def case(mode, name, source, *events, judges=BOTH, left=None, **fields):
    """A guest that ends with #UD, of which events does not have to tell."""
    left = left or Halted()
    done = [DONE] if left == Halted() else []
    return Case(f"{mode}: {name}", Guest(mode, with_end(mode, source), **fields), [*events, *done], judges, left)


def dying(mode, name, source, *events, judges=BOTH, **fields):
    """A guest that is halted by its first event, or shuts down before."""
    register = {REAL: "bx", PROTECTED: "ebx", LONG: "rbx"}[mode]
    left = Halted() if events else Shutdown()
    return Case(f"{mode}: {name}", Guest(mode, f"mov $1, %{register}\n{source}\nhlt\n", **fields), [*events], judges, left)


def on(mode, instruction):
    """An instruction that faults, and where to go on."""
    register = {REAL: "bx", PROTECTED: "ebx", LONG: "rbx"}[mode]
    return f"mov $7f, %{register}; {instruction}; hlt\n7: xor %{register}, %{register}\n"


def faults(mode, name, instruction, *events, **options):
    return case(mode, name, on(mode, instruction), *events, **options)


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
    dying(REAL, "handler in another segment", "int $0x21", (INT + 1, 0),
          patches={0x21 * 4: struct.pack("<HH", STUBS_AT + 16 * 0x21 - 0x800, 0x80)}),
    dying(REAL, "SP of 1", "mov $1, %sp; int $0x20", judges=NOBODY),
    dying(REAL, "IDT too short for all", "ud2", judges=QEMU, idt_limit=4 * 6 - 2),
    dying(REAL, "IDT too short for #GP", "int $0x20", (DF, 0), judges=QEMU, idt_limit=4 * 9 - 1),
]  # fmt: skip


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
    bad = gate(mode, INT, present=False)
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
        faults(mode, "IDT too short", "int $0x20", (GP, INT * 8 | IN_IDT), judges=QEMU if mode == PROTECTED else NOBODY, idt_limit=INT * word + word - 2),
        dying(mode, "IDT too short for #GP", "int $0x20", (DF, 0), judges=QEMU, idt_limit=9 * word - 1),
        dying(mode, "IDT too short for an exception", "mov $0x1F0, %eax; mov %eax, %ds", (DF, 0), idt_limit=9 * word - 1),
        dying(mode, "IDT too short for all", "ud2", idt_limit=word),
        case(mode, "conforming code", "int $0x20", (INT, 0), judges=QEMU, patches=code(CONFORMING)),
        dying(mode, "conforming code for an exception", "ud2", (UD, 0), patches=code(CONFORMING, UD)),
        case(mode, "code in the LDT", f"mov ${LOCAL}, %eax; lldt %ax; int $0x20", (INT, 0), judges=QEMU, patches=code(0xC)),
        dying(mode, "code in the LDT for an exception", f"mov ${LOCAL}, %eax; lldt %ax; ud2", (UD, 0), judges=QEMU, patches=code(0xC, UD)),
        case(mode, "trap gate", "sti; int $0x20; cli", (INT, 0), judges=QEMU, patches=gate(mode, INT, kind=TRAP)),
        dying(mode, "trap gate for an exception", "sti; ud2", (UD, 0), patches=gate(mode, UD, kind=TRAP)),
        dying(mode, "interrupt gate for an exception", "sti; std; stc; ud2", (UD, 0)),
    ]  # fmt: skip


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
        pf("read beyond all tables", f"mov $0x3FFFF000, %ecx; mov (%ecx), %eax", 0),
        pf("an access over two pages", f"mov %eax, {ABSENT - 2}", 2),
        case(mode, label + "three page faults", "".join(on(mode, f"mov {ABSENT + 8 * i}, %eax") for i in range(3)), *[(PF, 0)] * 3, **options),
        case(mode, label + "a page fault, another exception, a page fault",
             on(mode, f"mov {ABSENT}, %eax") + on(mode, "ud2") + on(mode, f"mov %eax, {ABSENT}"), (PF, 0), (UD, 0), (PF, 2), **options),
        dying(mode, label + "users read what is not there", f"mov {ABSENT + 8}, %eax", (PF, 4), user=True, **options),
        dying(mode, label + "users write what is not there", f"mov %eax, {ABSENT + 8}", (PF, 6), user=True, **options),
        dying(mode, label + "users read what is the kernel's", f"mov {SUPERVISOR + 8}, %eax", (PF, 5), user=True, **options),
        dying(mode, label + "users write what is read-only", f"mov %eax, {READ_ONLY + 8}", (PF, 7), user=True, **options),
        dying(mode, label + "handler's stack over two pages", "mov $0x8010, %esp; ud2", (UD, 0), **options),
        dying(mode, label + "handler's stack not there", f"mov ${ABSENT + 0x800}, %esp; ud2", **options),
    ]  # fmt: skip


SYSCALL_ENTRY = """
    mov %rcx, 0x700; mov %r11, 0x708; mov %rsp, 0x710
    mov %cs, %eax; mov %eax, 0x718; mov %ss, %eax; mov %eax, 0x720
    mov %rsp, %rdx; mov $0x8F00, %esp
    pushfq; pop %rax; mov %rax, 0x728
    mov %rdx, %rsp
    sysretq
"""
MSRS = {0xC0000081: (USER_CODE32 << 16 | KERNEL_CODE) << 32, 0xC0000082: OWN_HANDLER, 0xC0000083: OWN_HANDLER, 0xC0000084: 0x40700}


def system_call(name, entry, call, **fields):
    """From the kernel to users, who call it: it writes down what it finds, and goes back."""
    setup = "".join(
        f"mov ${index}, %ecx; mov ${value & 0xFFFFFFFF}, %eax; mov ${value >> 32}, %edx; wrmsr\n" for index, value in MSRS.items()
    )
    compat = fields.pop("compat", False)
    down = f"""
    push ${USER_DATA}; push ${USER_STACK}; push $0x202; push ${USER_CODE32 if compat else USER_CODE}; lea 1f(%rip), %rax; push %rax
    iretq
1:  {call}; mov $1, %ebx; mov %esp, %ebp; pushf; cld; ud2
"""
    return Case(f"{LONG}: SYSCALL, {name}", Guest(LONG, setup + down, patches={OWN_HANDLER: link(entry, OWN_HANDLER)}), [DONE], **fields)


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
        dying(LONG, "a page fault for an exception's stack", f"mov ${ABSENT + 0x10}, %esp; ud2", (PF, 2), patches=ist(PF), judges=NOBODY),
        dying(LONG, "a page fault for a page fault's stack", f"mov ${ABSENT + 0x10}, %esp; mov {ABSENT + 0x800}, %eax", (DF, 0), patches=ist(DF), judges=NOBODY),
        dying(LONG, "a page fault for the stack of #GP", f"mov ${ABSENT + 0x10}, %esp; mov $0x1F0, %eax; mov %eax, %ds", (PF, 2), patches=ist(PF), judges=NOBODY),
        dying(LONG, "a page fault for users' exception", "ud2", (PF, 2), user=True, judges=QEMU,
              patches={**ist(PF), TSS + 4: struct.pack("<Q", ABSENT + 0x10)}),
        dying(LONG, "a page fault for users' page fault", f"mov {ABSENT + 0x800}, %eax", (DF, 0), user=True, judges=QEMU,
              patches={**ist(DF), TSS + 4: struct.pack("<Q", ABSENT + 0x10)}),
        dying(LONG, "#GP for a page fault's gate", f"mov {ABSENT}, %eax", (DF, 0), judges=QEMU, patches=gate(LONG, PF, kind=CALL)),
        dying(LONG, "stack not canonical", "mov $1, %esp; shl $63, %rsp; ud2", (SS, EXT), patches=ist(SS), judges=NOBODY),
        dying(LONG, "users' stack not canonical", "ud2", (SS, EXT), patches={**ist(SS), TSS + 4: struct.pack("<Q", 1 << 63)}, user=True, judges=NOBODY),
        dying(LONG, "handler not canonical", "ud2", (GP, EXT), patches=gate(LONG, UD, offset=1 << 63), judges=NOBODY),
        dying(LONG, "TSS too short", "ud2", (TS, TASK | EXT), user=True, judges=NOBODY, tss_limit=0x2B, patches={**ist(UD, 2), **ist(TS)}),
        dying(LONG, "INT of compatibility mode", ".code32; int $0x20; .code64", (INT, 0), judges=QEMU, compat=True),
        dying(LONG, "exception of compatibility mode", ".code32; mov $0x12345678, %eax; ud2; .code64", (UD, 0), compat=True),
        dying(LONG, "page fault of compatibility mode", f".code32; mov %eax, %ds:{ABSENT + 0x10}; .code64", (PF, 6), compat=True),
        system_call("64-bit", SYSCALL_ENTRY, "syscall", judges=QEMU),
        system_call("flags that are masked", SYSCALL_ENTRY, "std; pushfq; orl $0x40000, (%rsp); popfq; syscall", judges=QEMU),
        system_call("flags that are not masked", SYSCALL_ENTRY, "xor %eax, %eax; stc; syscall", judges=NOBODY, left_behind={0x708: b"\x47\x02", 0x728: b"\x47\0"}),
        system_call("of compatibility mode", SYSCALL_ENTRY.replace("sysretq", "sysretl"), ".code32; syscall; .code64", judges=QEMU, compat=True),
    ]  # fmt: skip


def users(mode):
    stack, in_idt = ("rsp", NOBODY) if mode == LONG else ("esp", QEMU)
    return [
        dying(mode, "users' exception", "ud2", (UD, 0), user=True),
        dying(mode, "users' #DE", "xor %eax, %eax; div %eax", (DE, 0), user=True),
        case(mode, "users' INT and back", f"int $0x20; mov %{stack}, 0x700; mov %cs, 0x708; mov %ss, 0x710", (INT, 0), user=True, judges=QEMU),
        faults(mode, "users' exception and back", "ud2", (UD, 0), user=True, judges=QEMU if mode == PROTECTED else BOTH),
        dying(mode, "users' INT forbidden", "int $0x20", (GP, INT * 8 | IN_IDT), user=True, judges=in_idt, patches=gate(mode, INT, dpl=0)),
        dying(mode, "users' INT3 forbidden", "int3", (GP, BP * 8 | IN_IDT), user=True, judges=in_idt, patches=gate(mode, BP, dpl=0)),
        dying(mode, "users' exception where INT is forbidden", "ud2", (UD, 0), user=True, patches=gate(mode, UD, dpl=0)),
        dying(mode, "users' HLT", "hlt", (GP, 0), user=True),
        dying(mode, "conforming code for users", "int $0x20", (GP, 0), user=True, judges=QEMU, patches=gate(mode, INT, selector=CONFORMING)),
        dying(mode, "conforming code for users' exception", "ud2", (GP, 0), user=True, judges=QEMU, patches=gate(mode, UD, selector=CONFORMING)),
        dying(mode, "CPL 1 from CPL 3", "int $0x20", (PF, 2) if mode == LONG else (GP, 0), user=True, judges=QEMU, patches=gate(mode, INT, selector=RING1_CODE)),
    ]  # fmt: skip


def own(name, source, handler, patches, *, vector=UD, entry=None, **options):
    """In protected mode, a handler of the guest's own: nothing is logged but what it logs itself."""
    entry = {} if entry is None else entry
    pieces = {**gate(PROTECTED, vector, offset=OWN_HANDLER, **entry), OWN_HANDLER: link(handler, OWN_HANDLER), **patches}
    made = dying(PROTECTED, name, source, (UD, 0), patches=pieces, judges=QEMU, **options)
    return attrs.evolve(made, events=[])


STORE_ESP = ".code{0}; mov %esp, %ds:0x700; mov %ss, %eax; mov %eax, %ds:0x704; pushf; hlt"


def legacy_only():
    """What only protected mode has: 286 gates, 16-bit stacks, stacks of the TSS that are none."""
    stack16 = f"mov ${DATA16}, %eax; mov %eax, %ss"

    def ring1(name, ss0, vector, index, judges=QEMU, tss=None, **options):
        """#TS and #SS are handled at CPL 1. There the stack is put right, and UD2 tells of it."""
        handler = f".code32; movl ${KERNEL_DATA}, {TSS + 8}; pop %eax; mov %eax, 0x700; ud2"
        patches = {
            **gate(PROTECTED, vector, selector=RING1_CODE, offset=OWN_HANDLER),
            OWN_HANDLER: link(handler, OWN_HANDLER),
            TSS + 8: struct.pack("<I", ss0),
        }
        made = dying(PROTECTED, name, "ud2", (UD, 0), user=True, judges=judges, patches=patches, **options)
        return attrs.evolve(made, left_behind={0x700: struct.pack("<I", index | EXT)})

    return [
        own("286 interrupt gate", "sti; std; ud2", STORE_ESP.format(32), {}, entry={"kind": INTERRUPT16}),
        own("286 trap gate", "sti; ud2", STORE_ESP.format(32), {}, entry={"kind": TRAP16}),
        own("286 gate with an error code", f"mov ${NOTHING}, %eax; mov %eax, %ds", STORE_ESP.format(32), {}, vector=GP, entry={"kind": TRAP16}),
        own("286 gate for users", "ud2", STORE_ESP.format(32), {}, entry={"kind": INTERRUPT16}, user=True),
        own("16-bit handler", "ud2", STORE_ESP.format(16), {}, entry={"selector": CODE16}),
        own("16-bit handler of a 286 gate for users", "ud2", STORE_ESP.format(16), {}, entry={"selector": CODE16, "kind": INTERRUPT16}, user=True),
        own("16-bit stack", f"{stack16}; mov $0xABCD8F00, %esp; ud2", STORE_ESP.format(32), {}),
        own("16-bit stack goes round", f"{stack16}; mov $4, %esp; ud2", STORE_ESP.format(32), {}),
        own("16-bit stack for users", "ud2", STORE_ESP.format(32), {TSS + 4: struct.pack("<II", 0x9F00, DATA16)}, user=True),
        own("stack that does not begin at 0", f"mov ${BASED_DATA}, %eax; mov %eax, %ss; ud2", STORE_ESP.format(32), {}),
        own("stack for users that does not begin at 0", "ud2", STORE_ESP.format(32), {TSS + 8: struct.pack("<I", BASED_DATA)}, user=True),
        own("data that does not begin at 0", f"mov ${BASED_DATA}, %eax; mov %eax, %ds; mov %eax, %es; ud2", STORE_ESP.format(32), {}),
        own("stack that expands down", f"mov ${DOWN_DATA}, %eax; mov %eax, %ss; ud2", STORE_ESP.format(32), {}),
        own("stack of a 16-bit TSS", "ud2", STORE_ESP.format(32), {}, user=True, tss=16),
        dying(PROTECTED, "stack beyond its limit", f"mov ${SMALL_DATA}, %eax; mov %eax, %ss; ud2", judges=NOBODY),
        dying(PROTECTED, "expand-down stack below its limit", f"mov ${DOWN_DATA}, %eax; mov %eax, %ss; mov $0x8008, %esp; ud2", judges=NOBODY),
        dying(PROTECTED, "handler beyond its segment", "ud2", (GP, EXT), judges=NOBODY, patches=gate(PROTECTED, UD, selector=SMALL_CODE, offset=OWN_HANDLER)),
        ring1("null SS0", 0, TS, 0, judges=NOBODY),
        ring1("SS0 of users", USER_DATA, TS, USER_DATA & ~3, judges=NOBODY),
        ring1("SS0 with another RPL", KERNEL_DATA | 1, TS, KERNEL_DATA, judges=NOBODY),
        ring1("SS0 of another DPL", RING1_DATA & ~3, TS, RING1_DATA & ~3, judges=NOBODY),
        ring1("SS0 is code", KERNEL_CODE, TS, KERNEL_CODE, judges=NOBODY),
        ring1("SS0 beyond the GDT", 0x108, TS, 0x108, judges=NOBODY),
        ring1("SS0 not present", ABSENT_DATA, SS, ABSENT_DATA, judges=NOBODY),
        ring1("SS0 too small", SMALL_DATA, SS, SMALL_DATA, judges=NOBODY),
        dying(PROTECTED, "TSS too short", "ud2", (TS, TASK | EXT), user=True, judges=NOBODY, tss_limit=11,
              patches=gate(PROTECTED, UD, selector=RING1_CODE)),
    ]  # fmt: skip


CASES = [
    *REAL_MODE, *exceptions(PROTECTED), *users(PROTECTED), *legacy_only(),
    *page_faults(PROTECTED, "32-bit paging, ", paging="32-bit", judges=QEMU), *page_faults(PROTECTED, "PAE, ", paging="PAE", judges=QEMU),
    *exceptions(LONG), *users(LONG), *page_faults(LONG), *long_only(),
]  # fmt: skip
