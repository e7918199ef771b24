"""Kernels of a few bytes that are entered by the 32-bit Linux boot protocol, and tell what they find."""

from __future__ import annotations

import struct

from multiboot_kernels import elf32 as pack_elf32

LOADED = 0x1000000
TELL = bytes([0xE6, 0xE9, 0xC1, 0xE8, 0x08] * 4)  # out 0xe9, al; shr eax, 8: four times
# fmt: off
CODE = b"".join([
    b"\x9c\x58", TELL,                          # pushfd; pop eax
    b"\x89\xf0", TELL,                          # mov eax, esi
    b"\x89\xe8", TELL,                          # mov eax, ebp
    b"\x89\xf8", TELL,                          # mov eax, edi
    b"\x89\xd8", TELL,                          # mov eax, ebx
    b"\x8b\x86\x02\x02\x00\x00", TELL,          # mov eax, [esi + 0x202]
    b"\x8c\xc8", TELL,                          # mov eax, cs
    b"\x8c\xd8", TELL,                          # mov eax, ds
    b"\x8c\xc0", TELL,                          # mov eax, es
    b"\x8c\xd0", TELL,                          # mov eax, ss
    b"\x0f\x20\xc0", TELL,                      # mov eax, cr0
    b"\xb0\xfe\xe6\x64",                        # mov al, 0xfe; out 0x64, al: the keyboard controller's reset
    b"\xf4\xeb\xfd",                            # hlt; jmp back to it
])
# fmt: on
HDRS = int.from_bytes(b"HdrS", "little")
SAYS = struct.pack("<11I", 2, 0x7000, 0, 0, 0, HDRS, 0x10, 0x18, 0x18, 0x18, 0x11)
"""EFLAGS, ESI, EBP, EDI, EBX, a word of the zero page, segments and CR0, as the protocol wants them."""


def elf32() -> bytes:
    """An ELF vmlinux for i386."""
    return pack_elf32(((LOADED, CODE, 0x1000),), entry=LOADED)


def bzimage32() -> bytes:
    """A bzImage of protocol 2.10 with no other entry than its first byte."""
    image = bytearray(1024) + CODE.ljust(0x1000, b"\xf4")
    fields = [
        (0x1F1, "B", 1), (0x1F4, "I", 0x100), (0x1FE, "H", 0xAA55), (0x200, "H", 0x66EB), (0x202, "I", HDRS),
        (0x206, "H", 0x20A), (0x211, "B", 1), (0x22C, "I", 0x37FFFFFF), (0x230, "I", 0x200000), (0x234, "B", 1),
        (0x238, "I", 2047), (0x258, "Q", LOADED), (0x260, "I", 0x100000),
    ]  # fmt: skip
    for offset, form, value in fields:
        struct.pack_into(f"<{form}", image, offset, value)
    return bytes(image)
