"""Faults of what the guest itself does."""

import struct

from anyvisor.machine import Machine
from faults.careful import LOADED
from faults.fault import SVM, UNICORN, code
from faults.places import ABOVE_RAM, NOWHERE
from faults.planting import control

EMPTY = 0x200_0000
"""RAM with nothing in it."""
MMIO = 0xD000_0000
# fmt: off
UD2, HLT, CLI = b"\x0f\x0b", b"\xf4", b"\xfa"
RESET = b"\xb0\xfe\xe6\x64\xf4\xeb\xfd"                    # mov $0xfe, %al; out %al, $0x64; hlt; jmp to it
TO_RAX = b"\xff\xe0"                                       # jmp *%rax
LIDT_HERE = b"\x0f\x01\x1d\x02\0\0\0"                      # lidt 2(%rip), behind the next instruction of two bytes
LOAD_DS = b"\x8e\xd8"                                      # mov %eax, %ds


def rax(value: int) -> bytes:
    """Movabs $value, %rax."""
    return b"\x48\xb8" + struct.pack("<Q", value)


def idt(base: int) -> bytes:
    """What LIDT loads: a table of 256 gates."""
    return struct.pack("<HQ", 0xFFF, base)


STORE = rax(NOWHERE) + b"\x48\x89\x00"                     # mov %rax, (%rax)
PUSH = b"\x48\xbc" + struct.pack("<Q", NOWHERE) + b"\x50"  # movabs $NOWHERE, %rsp; push %rax
DIVIDE = b"\x31\xc9\xf7\xf1"                               # xor %ecx, %ecx; div %ecx
XORPS = b"\x0f\x57\xc0"                                    # xorps %xmm0, %xmm0
CALL_NULL = b"\x31\xc0\xff\xd0"                            # xor %eax, %eax; call *%rax
SPIN = b"\x90\xeb\xfd"                                     # nop; jmp to it
POLL_PORT = b"\xba\x10\x05\0\0\xec\xa8\x01\x75\xfb"        # mov $0x510, %edx; in (%dx), %al; test $1, %al; jnz
POLL_MMIO = rax(MMIO) + b"\x8a\x18\xf6\xc3\x01\x75\xf9"    # mov (%rax), %bl; test $1, %bl; jnz
UNMAP_ALL = (                                              # mov %cr3, %rax; movq $0, (%rax); mov %rax, %cr3
    b"\x0f\x20\xd8\x48\xc7\x00\0\0\0\0\x0f\x22\xd8"
)
RECURSE = b"\xe8\xfb\xff\xff\xff"                          # call to itself
RETURN_TO_ZEROS = b"\x68\x37\x13\0\0\xc3"                 # push $0x1337; ret
LOAD_FLOAT = rax(MMIO) + b"\xdd\x00"                       # fldl (%rax)
NESTED = b"\x48\x83\xec\x58\xe8\xf7\xff\xff\xff"             # sub $88, %rsp; call to it
TOLD_PORT = b"\xba\x10\x05\0\0\xb0\x01\xee\xeb\xfd"        # mov $0x510, %edx; mov $1, %al; out; jmp to it
TOLD_MMIO = rax(MMIO) + b"\xc6\x00\x01\xeb\xfb"             # movb $1, (%rax); jmp to it
BRANCH = b"\x85\xc0\x74\0"                                  # test %eax, %eax; jz to what is behind it
CLEAR_PAE = b"\x0f\x20\xe0\x24\xdf\x0f\x22\xe0"             # mov %cr4, %rax; and $0xdf, %al; mov %rax, %cr4
FALSE_CR4 = b"\x0f\x20\xe0\x0d\0\0\0\x80\x0f\x22\xe0"      # mov %cr4, %rax; or $1 << 31, %eax; mov %rax, %cr4
# fmt: on


SAY_RETURN = 0x76
"""How far into the kernel the RET stands of the function that prints a string."""
SAY_JUMP = 0x6F
"""How far into the kernel the distance stands of the jump that ends the printing of a string."""


def misdirect(machine: Machine) -> None:
    """The jump at the end of every string leads elsewhere from now on: to zeros."""
    machine.memory.write(LOADED + SAY_JUMP, b"\x7f")


def break_return(machine: Machine) -> None:
    """The RET at the end of every string is what 64-bit mode has not from now on: by then it has printed one."""
    machine.memory.write(LOADED + SAY_RETURN, b"\x06")


def flip(machine: Machine) -> None:
    """A byte of the kernel changes after it was loaded: the CLD that it begins with, to what 64-bit mode has not."""
    machine.memory.write(LOADED, b"\x06")


BRANCHES = {
    SVM: (
        "unknown-exception",
        "the processor resets a vCPU that dies, and its code cannot be followed beyond a branch that depends on flags",
    )
}
CODES = (
    code("ud2", "UD2, and there is no IDT", UD2, "undefined-opcode"),
    code("idt-unmapped", "LIDT of what is not mapped, then UD2", LIDT_HERE + UD2 + idt(NOWHERE), "idt-bad"),
    code("idt-empty", "LIDT of a table of zeros, then UD2", LIDT_HERE + UD2 + idt(EMPTY), "idt-bad"),
    code("jump-nowhere", "a jump to where nothing is mapped", rax(NOWHERE) + TO_RAX, "code-not-mapped"),
    code("call-null", "a call of a null pointer", CALL_NULL, "jump-to-zero"),
    code("jump-to-zeros", "a jump to memory that is empty", rax(EMPTY) + TO_RAX, "executing-zeros"),
    code("jump-above-ram", "a jump to where no RAM is", rax(ABOVE_RAM) + TO_RAX, "executing-outside-ram"),
    code("store-nowhere", "a store to where nothing is mapped", STORE, "page-fault"),
    code("push-nowhere", "a push to where nothing is mapped", PUSH, "stack-not-mapped"),
    code("ud2-behind-branch", "a branch, then UD2", BRANCH + UD2, "undefined-opcode", misnamed=BRANCHES),
    code("divide-by-zero", "a division by zero", DIVIDE, "divide-error"),
    code("sse-off", "SSE, and CR4.OSFXSR is clear", XORPS, "undefined-opcode", plant=control("cr4", osfxsr=False)),
    code("selector-beyond", "DS gets a selector beyond the GDT", rax(0x48) + LOAD_DS, "selector-beyond-gdt"),
    code("selector-of-tss", "DS gets the TSS's selector", rax(0x20) + LOAD_DS, "bad-selector"),
    code("halted", "HLT with interrupts off", CLI + HLT, "halted-interrupts-off"),
    code("spinning", "a loop with interrupts off", CLI + SPIN, "spinning"),
    code("port-polled", "a port is polled that nobody answers", POLL_PORT, "polling-nobody"),
    code("mmio-polled", "MMIO is polled where nobody answers", POLL_MMIO, "polling-nobody"),
    code(
        "float-from-mmio",
        "a floating-point load from MMIO",
        LOAD_FLOAT + RESET,
        "instruction-not-emulated",
        runs={UNICORN: "the engine executes it"},
    ),
    code("tables-zeroed", "it empties its page tables", UNMAP_ALL, "code-not-mapped"),
    code("port-told", "it writes to a port that nobody answers, for ever", TOLD_PORT, "writing-to-nobody"),
    code("mmio-told", "it writes to MMIO where nobody answers, for ever", TOLD_MMIO, "writing-to-nobody"),
    code("pae-cleared", "it clears CR4.PAE in long mode", CLEAR_PAE, "long-mode-needs-pae"),
    code("cr4-refused", "it sets a bit of CR4 that does not exist", FALSE_CR4, "cr4-reserved"),
    code("recursion", "it calls itself without end", RECURSE, "endless-recursion"),
    code("recursion-deep", "the same, with variables on the stack", NESTED, "endless-recursion"),
    code(
        "bad-return",
        "a return to memory that is empty",
        RETURN_TO_ZEROS,
        "executing-zeros",
        "executing-data",
    ),
    code(
        "jump-damaged",
        "a jump's distance changes after it was loaded",
        b"",
        "code-damaged",
        tamper=misdirect,
    ),
    code(
        "byte-damaged-late",
        "a byte of a function changes that has done its work",
        b"",
        "code-damaged",
        tamper=break_return,
    ),
    code("byte-damaged", "a byte of the kernel changes after it was loaded", b"", "code-damaged", tamper=flip),
)
