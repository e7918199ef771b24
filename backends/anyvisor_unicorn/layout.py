"""Where the parts of the processor's state lie in what the engine saves.

Some facts about the layout. A saved context is, after its header, QEMU's own CPU structure, which no interface
describes; it is the only way to change the privilege level, or to deliver an interrupt. What is written here is true of
Unicorn 2.1 on machines with 64-bit pointers. Nothing believes it unproven: `proof` asks the engine at start-up.

`hflags` is the processor's mode as QEMU's translator keeps it; segment flags are the high half of a descriptor.
RFLAGS in the state lacks the arithmetic flags and DF while the guest runs: `Engine.read` has them.
"""

from __future__ import annotations

# Indices of 64-bit words.
RAX, RCX, RDX, RBX, RSP, RBP, RSI, RDI = range(8)
R11 = 11
RIP, RFLAGS = 16, 17
CC_SRC = 19
CR2, CR3 = 55, 56
CR0, CR4 = 53, 57
EFER = 74
STAR, LSTAR, CSTAR, FMASK = 603, 605, 606, 607

# Indices of 32-bit words.
CC_OP, DF, HFLAGS = 42, 43, 44
ERROR_CODE, IS_SOFTWARE, OLD_EXCEPTION = 1346, 1347, 1374

# Segments: 24 bytes each, from 64-bit word 23 on: selector, base, limit and flags.
ES, CS, SS, DS, FS, GS, LDT, TR, GDT, IDT = range(10)
_FIRST_SEGMENT = 23


def base_word(segment: int) -> int:
    """The 64-bit word that holds a segment's base."""
    return _FIRST_SEGMENT + 3 * segment + 1


def selector_word(segment: int) -> int:
    """The 32-bit word that holds a segment's selector."""
    return 2 * (_FIRST_SEGMENT + 3 * segment)


def limit_word(segment: int) -> int:
    """The 32-bit word that holds a segment's limit, in bytes."""
    return selector_word(segment) + 4


def flags_word(segment: int) -> int:
    """The 32-bit word that holds a segment's flags."""
    return selector_word(segment) + 5


# Bits of hflags.
H_CPL = 3
H_INHIBIT_IRQ = 1 << 3
H_CS32, H_SS32, H_ADDSEG = 1 << 4, 1 << 5, 1 << 6
H_PE = 1 << 7
H_LMA, H_CS64 = 1 << 14, 1 << 15
H_MODE = H_CPL | H_PE | H_LMA | H_CS64

# Bits of segment flags.
F_WRITABLE_OR_READABLE, F_CONFORMING, F_CODE, F_SYSTEM_NOT = 1 << 9, 1 << 10, 1 << 11, 1 << 12
F_DPL_SHIFT = 13
F_PRESENT, F_L, F_DB = 1 << 15, 1 << 21, 1 << 22
F_64_BIT_CODE = 0x00AF9B00
F_FLAT_DATA = 0x00CF9300

NO_EXCEPTION = 0xFFFFFFFF
CC_OP_FLAGS = 1
"""What CC_OP holds when CC_SRC holds the arithmetic flags as RFLAGS has them."""
ARITHMETIC_FLAGS = 0x8D5
"""CF, PF, AF, ZF, SF, OF."""
