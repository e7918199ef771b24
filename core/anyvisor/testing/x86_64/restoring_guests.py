"""Guests that have come halfway when a snapshot is taken: at their OUT to PORT. Behind it they store what they have.

They are in long mode, but for the last one. DATA has what they load, and gets what they store, if not the stack does.
"""

from __future__ import annotations

from anyvisor.testing.bench import DATA
from anyvisor.testing.guest import TinyGuest
from anyvisor.testing.x86_64.guests import OTHER_PORT, PORT
from anyvisor.x86_64.modes import LONG, PROTECTED, REAL

HIGH = DATA >> 8
OUT = bytes([0xE6, PORT])  # out PORT, al
SSE_ON = bytes([0x0F, 0x20, 0xE1,                                     # mov rcx, cr4
                0x66, 0x81, 0xC9, 0x00, 0x06,                         # or cx, 0x600 (OSFXSR and OSXMMEXCPT)
                0x0F, 0x22, 0xE1])  # mov cr4, rcx       # fmt: skip


def long_mode(*parts: bytes) -> TinyGuest:
    """A guest of long mode."""
    return TinyGuest({LONG: b"".join(parts)})


# fmt: off
GENERAL = long_mode(OUT, bytes([
    0x50, 0x53, 0x51, 0x52,                                           # push rax; push rbx; push rcx; push rdx
    0x56, 0x57, 0x55,                                                 # push rsi; push rdi; push rbp
    0x41, 0x50, 0x41, 0x51, 0x41, 0x52, 0x41, 0x53,                   # push r8; push r9; push r10; push r11
    0x41, 0x54, 0x41, 0x55, 0x41, 0x56, 0x41, 0x57,                   # push r12; push r13; push r14; push r15
    0x9C,                                                             # pushfq
    0xF4,                                                             # hlt
]))

FPU = long_mode(SSE_ON, bytes([
    0x0F, 0xAE, 0x0C, 0x25, 0x00, HIGH, 0x00, 0x00,                   # fxrstor [DATA]
]), OUT, bytes([
    0x0F, 0xAE, 0x04, 0x25, 0x00, HIGH + 2, 0x00, 0x00,               # fxsave [DATA + 0x200]
    0xF4,                                                             # hlt
]))

MSR = long_mode(bytes([
    0x0F, 0x30,                                                       # wrmsr
]), OUT, bytes([
    0x0F, 0x32,                                                       # rdmsr
    0x50, 0x52,                                                       # push rax; push rdx
    0xF4,                                                             # hlt
]))

DEBUG = long_mode(bytes([
    0x0F, 0x23, 0xC0,                                                 # mov dr0, rax
    0x0F, 0x23, 0xDB,                                                 # mov dr3, rbx
]), OUT, bytes([
    0x0F, 0x21, 0xC0, 0x50,                                           # mov rax, dr0; push rax
    0x0F, 0x21, 0xD8, 0x50,                                           # mov rax, dr3; push rax
    0xF4,                                                             # hlt
]))

CONTROL = long_mode(bytes([
    0x0F, 0x22, 0xD0,                                                 # mov cr2, rax
]), SSE_ON, bytes([
    0x0F, 0x01, 0x14, 0x25, 0x00, HIGH, 0x00, 0x00,                   # lgdt [DATA]
    0x0F, 0x01, 0x1C, 0x25, 0x10, HIGH, 0x00, 0x00,                   # lidt [DATA + 0x10]
]), OUT, bytes([
    0x0F, 0x20, 0xD0, 0x50,                                           # mov rax, cr2; push rax
    0x0F, 0x20, 0xE0, 0x50,                                           # mov rax, cr4; push rax
    0x0F, 0x20, 0xD8, 0x50,                                           # mov rax, cr3; push rax
    0x0F, 0x20, 0xC0, 0x50,                                           # mov rax, cr0; push rax
    0x0F, 0x01, 0x04, 0x25, 0x20, HIGH, 0x00, 0x00,                   # sgdt [DATA + 0x20]
    0x0F, 0x01, 0x0C, 0x25, 0x30, HIGH, 0x00, 0x00,                   # sidt [DATA + 0x30]
    0x0F, 0x00, 0xC8, 0x50,                                           # str eax; push rax
    0x8C, 0xD0, 0x50,                                                 # mov eax, ss; push rax
    0xF4,                                                             # hlt
]))

READ_MSR = TinyGuest({PROTECTED: bytes([
    0x0F, 0x32,                                                       # rdmsr
    0xE7, PORT,                                                       # out PORT, eax
    0x89, 0xD0,                                                       # mov eax, edx
    0xE7, OTHER_PORT,                                                 # out OTHER_PORT, eax
    0xF4,                                                             # hlt
])})

SAY_AND_HALT = TinyGuest({REAL: bytes([
    0xB0, 0x06,                                                       # mov al, 6
    0xE6, OTHER_PORT,                                                 # out OTHER_PORT, al
    0xF4,                                                             # hlt
])})
# fmt: on
