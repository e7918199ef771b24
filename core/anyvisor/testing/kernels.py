"""The smallest kernel images that boot: an ELF of one segment, made here byte by byte."""

from __future__ import annotations

import os
import struct
from pathlib import Path

LOAD_ADDRESS = 0x1000000
"""Where the code lies in the guest's memory, and where it is entered: 16 MiB."""
HALT = b"\xf4"
"""`hlt`, all that a kernel does that nobody runs."""
CODE_OFFSET = 0x1000
"""Where the code lies in the file."""
X86_64 = 62
"""ELF's number for the machine."""
EXECUTABLE, LOADABLE, READ_EXECUTE = 2, 1, 5


def tiny_kernel(path: os.PathLike[str] | str, code: bytes = HALT, *, memory_bytes: int = 0x1000) -> Path:
    """Write an x86-64 ELF executable of one segment at 16 MiB that begins with `code`; gives its path back.

    The segment takes up `memory_bytes` of guest memory, or as many as the code has. The code starts in 64-bit mode.
    """
    header = struct.pack(
        "<16sHHIQQQIHHHHHH",
        b"\x7fELF\x02\x01\x01", EXECUTABLE, X86_64, 1, LOAD_ADDRESS, 64, 0, 0, 64, 56, 1, 0, 0, 0,
    )  # fmt: skip
    size_bytes = max(memory_bytes, len(code))
    segment = struct.pack(
        "<IIQQQQQQ", LOADABLE, READ_EXECUTE, CODE_OFFSET, LOAD_ADDRESS, LOAD_ADDRESS, len(code), size_bytes, 0x1000
    )
    file = Path(path)
    file.write_bytes((header + segment).ljust(CODE_OFFSET, b"\0") + code)
    return file
