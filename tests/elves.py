"""The smallest kernel images that boot: an ELF of one segment, made here byte by byte."""

import struct
from pathlib import Path

LOAD_ADDRESS = 0x1000000


def tiny_elf(path: Path, code: bytes, *, memory_bytes: int = 0x1000) -> Path:
    """An x86-64 ELF executable of one PT_LOAD segment at 16 MiB that begins with `code`."""
    offset = 0x1000
    header = struct.pack(
        "<16sHHIQQQIHHHHHH",
        b"\x7fELF\x02\x01\x01".ljust(16, b"\0"), 2, 62, 1, LOAD_ADDRESS, 64, 0, 0, 64, 56, 1, 0, 0, 0,
    )  # fmt: skip
    segment = struct.pack(
        "<IIQQQQQQ", 1, 5, offset, LOAD_ADDRESS, LOAD_ADDRESS, len(code), max(memory_bytes, len(code)), 0x1000
    )
    path.write_bytes((header + segment).ljust(offset, b"\0") + code)
    return path
