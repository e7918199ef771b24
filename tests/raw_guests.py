"""Flat binaries that tell how they were started, in each mode of the processor."""

from __future__ import annotations

import struct
from pathlib import Path

from anyvisor.config import MachineConfig, Raw
from multiboot_kernels import spoken as said_by

__all__ = ["PLACES", "raw_config", "said_by"]

RESET = b"\xb0\xfe\xe6\x64\xf4\xeb\xfd"  # mov al, 0xfe; out 0x64, al: the keyboard controller's reset; hlt
TELL_WORD = b"\xe6\xe9\x88\xe0\xe6\xe9"  # out 0xe9, al; mov al, ah; out 0xe9, al
TELL = bytes([0xE6, 0xE9, 0xC1, 0xE8, 0x08] * 4)  # out 0xe9, al; shr eax, 8: four times
# fmt: off
REAL = b"".join([
    b"\x8c\xc8", TELL_WORD,                     # mov ax, cs
    b"\xe8\x00\x00\x58", TELL_WORD,             # call the next; pop ax
    b"\x8c\xd8", TELL_WORD,                     # mov ax, ds
    b"\x8c\xd0", TELL_WORD,                     # mov ax, ss
    b"\x89\xe0", TELL_WORD,                     # mov ax, sp
    b"\x0f\x20\xc0", TELL_WORD,                 # mov eax, cr0
    RESET,
])
REAL_CALL = 2 + 6 + 3
"""How far into the code the address is that is told."""
FLAT = b"".join([
    b"\x8c\xc8", TELL,                          # mov eax, cs
    b"\x8c\xd8", TELL,                          # mov eax, ds
    b"\xe8\x00\x00\x00\x00\x58", TELL,          # call the next; pop eax, or rax
    b"\x0f\x20\xc0", TELL,                      # mov eax, cr0, or rax
    b"\xb9\x80\x00\x00\xc0\x0f\x32", TELL,      # mov ecx, 0xc0000080; rdmsr: EFER
    b"\xb8\x05\x00\x00\x00\x48\xff\xc0", TELL,  # mov eax, 5; dec eax; inc eax: in 64-bit mode, inc rax
    RESET,
])
FLAT_CALL = 2 * (2 + 20) + 5
# fmt: on

PLACES = {
    "boot sector": ("real", 0x7C00, 0),
    "end of 64 KiB": ("real", 0xFF00, 0),
    "above 64 KiB": ("real", 0x12345, 0),
    "below the EBDA": ("real", 0x9D000, 0x20),
    "protected": ("protected", 0x100000, 0),
    "protected, low": ("protected", 0x30000, 0x10),
    "long": ("long", 0x100000, 0),
    "long, high": ("long", 0x3000000, 0x800),
}
"""By name: the mode, where the file goes, and how far into it its entry is."""


def raw_config(place: str, folder: Path) -> tuple[MachineConfig, bytes]:
    """A machine for a flat binary there, and what it says."""
    mode, address, skip = PLACES[place]
    code = REAL if mode == "real" else FLAT
    (folder / "image").write_bytes(b"\xf4" * skip + code)
    raw = Raw(address=address, mode=mode, entry=address + skip)
    config = MachineConfig(kernel=folder / "image", memory="64M", protocol="raw", raw=raw)
    return config, _real_says(raw.entry) if mode == "real" else _flat_says(mode, raw.entry)


def _real_says(entry: int) -> bytes:
    segment = 0 if entry < 0x10000 else entry >> 4
    return struct.pack("<6H", segment, entry - segment * 16 + REAL_CALL, 0, 0, 0x8FF0, 0x10)


def _flat_says(mode: str, entry: int) -> bytes:
    cr0, efer, count = (0x80000011, 0x500, 6) if mode == "long" else (0x11, 0, 5)
    return struct.pack("<6I", 0x10, 0x18, entry + FLAT_CALL, cr0, efer, count)
