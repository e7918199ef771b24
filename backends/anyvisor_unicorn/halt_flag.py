"""Where the engine says that its processor has halted.

Some facts about HLT. `Engine.start` returns alike for HLT and for a stop, and who takes one for the other either goes
on behind a HLT or waits where nobody halted. QEMU's processor has a flag for it, `halted`, in front of the state that a
context holds; the engine's own structure points to it. Which of its words is that pointer is found by what lies there.
They are anything at all, so nothing is read through one of them but by the kernel, which refuses what is no address.
"""

from __future__ import annotations

import ctypes
import os
import struct
from collections.abc import Callable, Iterator
from contextlib import closing

import attrs
from unicorn import x86_const as x86

from anyvisor_unicorn import layout
from anyvisor_unicorn.engine import STRUCTURE_BYTES, Engine
from anyvisor_unicorn.guests import CODE, MMIO, Disproof, guest

STORE_AND_HALT = bytes([0x88, 0x07,            # mov [rdi], al
                        0xEB, 0x00,            # jmp next
                        0xF4])  # next: hlt    # fmt: skip
AT_HALT, BEHIND_HALT = CODE + len(STORE_AND_HALT) - 1, CODE + len(STORE_AND_HALT)
REACH_BYTES = 0x10000
"""How far in front of the registers the processor's structure may begin."""
R14_OFFSET = 14 * 8
PIECE_BYTES = 0x1000
HALTS = (0, 1, 1, 0, 0, 1, 0)
"""Whether a run is to end in a HLT; not by turns, as other words of the engine may change."""


@attrs.frozen
class HaltFlag:
    """Where the flag lies: at `offset` of what the engine's structure points to at `pointer_offset`.

    The registers, in the layout of a saved context, lie behind it at `registers_offset`.
    """

    pointer_offset: int
    offset: int
    registers_offset: int

    def of(self, engine: Engine) -> ctypes.c_uint32:
        """The flag of an engine; 1 after it came back by HLT, until it is started again."""
        return ctypes.c_uint32.from_address(_pointer(engine, self.pointer_offset) + self.offset)

    def rip_of(self, engine: Engine) -> ctypes.c_uint64:
        """RIP of an engine while it runs: right at IN and OUT, which set it, and else at some instruction before."""
        registers = _pointer(engine, self.pointer_offset) + self.registers_offset
        return ctypes.c_uint64.from_address(registers + 8 * layout.RIP)


def _pointer(engine: Engine, offset: int) -> int:
    return ctypes.c_uint64.from_address(engine.address + offset).value


def find_halt_flag(make_exact: Callable[[Engine], None]) -> HaltFlag:
    """Ask two engines that `make_exact` lets be stopped; Disproof unless both have the flag, and at the same place."""
    found = {_ask_for_halt_flag(make_exact) for _ in range(2)}
    if len(found) != 1:
        raise Disproof("the engine's flag for HLT is not always at the same place")
    return found.pop()


def _ask_for_halt_flag(make_exact: Callable[[Engine], None]) -> HaltFlag:
    """A guest stores to a device that stops the engine, and then halts: the flag is 0 in between and 1 behind."""
    with guest(STORE_AND_HALT) as (engine, _):
        make_exact(engine)
        engine.map_mmio(MMIO, 0x1000, lambda *_: 0, lambda *_: engine.stop())
        engine.write(x86.UC_X86_REG_RDI, MMIO)
        pointer_offset, size_bytes = _find_processor(engine)
        pointer = _pointer(engine, pointer_offset)
        places = set(range(0, size_bytes - 3, 4))
        for value in HALTS:
            start, end = (AT_HALT, BEHIND_HALT) if value else (CODE, AT_HALT)
            engine.start(start)
            if engine.read(x86.UC_X86_REG_RIP) != end:
                raise Disproof("the engine does not come back from a stop or a HLT where it should")
            words = ctypes.string_at(pointer, size_bytes)
            places = {place for place in places if int.from_bytes(words[place : place + 4], "little") == value}
    if len(places) != 1:
        raise Disproof("the engine's flag for HLT is not to be found")
    return HaltFlag(pointer_offset, places.pop(), size_bytes)


def _find_processor(engine: Engine) -> tuple[int, int]:
    """What points to the processor: the offset in the engine's structure, and how far in front of its registers.

    The registers are known by random numbers, since memory that was given back may still hold those of other engines.
    Whatever else lies in front of them is further away.
    """
    mark = os.urandom(16)
    for register, half in ((x86.UC_X86_REG_R14, mark[:8]), (x86.UC_X86_REG_R15, mark[8:])):
        engine.write(register, int.from_bytes(half, "little"))
    structure = ctypes.string_at(engine.address, STRUCTURE_BYTES)
    found = []
    with closing(Kernel()) as kernel:
        for offset in range(0, STRUCTURE_BYTES, 8):
            (pointer,) = struct.unpack_from("<Q", structure, offset)
            if pointer >> 16 and not pointer >> 47:
                at = b"".join(kernel.read(pointer, REACH_BYTES)).find(mark)
                if at >= 0:
                    found.append((at - R14_OFFSET, offset))
    if not found:
        raise Disproof("the engine's processor is not to be found")
    size_bytes, offset = min(found)
    return offset, size_bytes


class Kernel:
    """Reads this process's memory through a pipe, where the kernel looks whether there is any."""

    def __init__(self) -> None:
        self._out, self._in = os.pipe()

    def read(self, address: int, size_bytes: int) -> Iterator[bytes]:
        """The memory at `address`, in pieces, as far as there is any."""
        end = address + size_bytes
        while address < end:
            piece = min(PIECE_BYTES - address % PIECE_BYTES, end - address)
            try:
                piece = os.write(self._in, (ctypes.c_ubyte * piece).from_address(address))
            except OSError:
                return
            yield os.read(self._out, piece)
            address += piece

    def close(self) -> None:
        """Give the pipe back."""
        os.close(self._in)
        os.close(self._out)
