"""A guest of some instructions in 64-bit mode, for asking an engine about itself."""

from __future__ import annotations

import ctypes
import mmap
import struct
from collections.abc import Iterator
from contextlib import closing, contextmanager

from unicorn import x86_const as x86

from anyvisor.memory import MIB
from anyvisor_unicorn.engine import Engine

RAM_BYTES = 4 * MIB
CODE, TABLES, DATA, MMIO = 0x1000, 0x9000, 0x20000, 0x40000000


class Disproof(Exception):
    """The engine is not what we know."""


@contextmanager
def guest(code: bytes) -> Iterator[tuple[Engine, mmap.mmap]]:
    """An engine in 64-bit mode, with `code` at CODE, and its RAM."""
    with mmap.mmap(-1, RAM_BYTES) as ram:
        for level, entry in ((0, TABLES + 0x1007), (0x1000, TABLES + 0x2007), (0x2000, 0x87)):
            struct.pack_into("<Q", ram, TABLES + level, entry)
        struct.pack_into("<Q", ram, TABLES + 0x1000 + 8, MMIO | 0x87)  # the second GiB, as one page
        ram[CODE : CODE + len(code)] = code
        base = ctypes.c_char.from_buffer(ram)
        with closing(Engine()) as engine:
            engine.map_ram(0, RAM_BYTES, ctypes.addressof(base))
            engine.write(x86.UC_X86_REG_CR3, TABLES)
            engine.write(x86.UC_X86_REG_CR4, 0x20)
            engine.write(x86.UC_X86_REG_CR0, 0x80050033)
            try:
                yield engine, ram
            finally:
                del base
