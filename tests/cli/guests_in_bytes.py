"""Kernels of a few dozen bytes: 64-bit code beside its assembly, wrapped as an ELF file to boot."""

import struct

LOAD_ADDRESS = 0x100000
X86_64, AARCH64 = 62, 183

# fmt: off
RESET = bytes([0xB0, 0xFE,       # mov al, 0xfe
               0xE6, 0x64,       # out 0x64, al     the keyboard controller pulls the reset line
               0xEB, 0xFE])      # jmp .

HELLO = bytes([0x48, 0x8D, 0x35, 0x12, 0x00, 0x00, 0x00,  # lea rsi, [rip + 18]   the text behind the code
               0x66, 0xBA, 0xF8, 0x03,                    # mov dx, 0x3f8
               0xAC,                                      # next: lodsb
               0x84, 0xC0,                                # test al, al
               0x74, 0x03,                                # jz over
               0xEE,                                      # out dx, al
               0xEB, 0xF8,                                # jmp next
               *RESET]) + b"hello from the guest\r\n\0"   # over: ...

SPIN = bytes([0xEB, 0xFE])       # jmp .

CRASH = bytes([0x0F, 0x0B])      # ud2              with no handler: a triple fault

# Echo what is typed until a q comes.
ECHO = bytes([0x66, 0xBA, 0xFD, 0x03,   # wait: mov dx, 0x3fd   line status
              0xEC,                     # in al, dx
              0xA8, 0x01,               # test al, 1            is there a byte?
              0x74, 0xF7,               # jz wait
              0x66, 0xBA, 0xF8, 0x03,   # mov dx, 0x3f8
              0xEC,                     # in al, dx
              0xEE,                     # out dx, al
              0x3C, 0x71,               # cmp al, 'q'
              0x75, 0xED,               # jne wait
              *RESET])
# fmt: on


def elf(code=HELLO, *, machine=X86_64, address=LOAD_ADDRESS):
    """An executable with that code in one loadable segment, entered at its first byte."""
    offset = 64 + 56
    header = struct.pack("<16sHHIQQQIHHHHHH", b"\x7fELF\2\1\1", 2, machine, 1, address, 64, 0, 0, 64, 56, 1, 0, 0, 0)
    program = struct.pack("<IIQQQQQQ", 1, 7, offset, address, address, len(code), len(code), 0x1000)
    return header + program + code
