"""Instructions in words, where capstone is installed (the extra `disasm`); as bytes where it is not.

Some facts about reading x86 code backwards. Instructions have 1 to 15 bytes and nothing marks where one begins, so what
lies before an instruction can be read in several ways. But two readings of the same bytes soon agree: most instructions
are short, so a reading that begins in the wrong place falls into step within a few of them. Of all the readings that
end where the instruction begins, the one from furthest back has had the most time to do so. A function's first byte,
where a symbol tells it, is no guess at all.
"""

from __future__ import annotations

import functools
import importlib
from collections.abc import Callable, Sequence
from typing import Any

import attrs

from anyvisor.errors import AnyvisorError
from anyvisor.memory import PAGE_BYTES, align_down

MAX_INSTRUCTION_BYTES = 15
"""SDM Vol. 2, 2.3.11."""
BAD = "(bad)"
LINE_BYTES = 8
"""How many bytes stand in a line where nothing disassembles them."""
LOOK_BACK_BYTES = 128

ReadLinear = Callable[[int, int], bytes]
"""`read_linear(address, size_bytes) -> bytes`: as many from the first on as there are; it may raise where none are."""


@attrs.frozen
class Instruction:
    """An instruction at a linear address: its bytes, and its text in Intel's syntax.

    `text` is empty for bytes that nobody has disassembled, and `(bad)` for a byte with which no instruction begins.
    """

    address: int
    code: bytes
    text: str = ""

    @property
    def end(self) -> int:
        """The address of what follows."""
        return self.address + len(self.code)

    def __str__(self) -> str:
        return f"{self.address:#x}  {self.code.hex(' '):<30}  {self.text}".rstrip()


def disassemble(code: bytes, address: int, bits: int, *, count: int | None = None) -> list[Instruction]:
    """The instructions in some bytes at an address, of code of 64, 32 or 16 `bits`; at most `count` of them.

    All bytes are in one of them: a byte that begins no instruction is `(bad)`, an instruction of which the end is
    missing has no text. Without capstone, all of them are lines of bytes.
    """
    decoder = _decoder(bits)
    if decoder is None:
        lines = [code[at : at + LINE_BYTES] for at in range(0, len(code), LINE_BYTES)]
        return [Instruction(address + at * LINE_BYTES, line) for at, line in enumerate(lines)][:count]
    found: list[Instruction] = []
    at = 0
    while at < len(code) and (count is None or len(found) < count):
        left = 0 if count is None else count - len(found)
        for start, size_bytes, name, operands in decoder.disasm_lite(code[at:], address + at, left):
            offset = start - address
            found.append(Instruction(start, code[offset : offset + size_bytes], f"{name} {operands}".rstrip()))
            at = offset + size_bytes
        if at < len(code) and (count is None or len(found) < count):
            found.append(_undecoded(decoder, code[at:], address + at))
            at = found[-1].end - address
    return found


def around(
    read_linear: ReadLinear, rip: int, bits: int, *, before: int = 6, after: int = 10, start: int | None = None
) -> list[Instruction]:
    """The instructions around one: up to `before` in front of it, then it and up to `after` behind it.

    One begins exactly at `rip`, the linear address of the instruction, if there is memory. Those before it are likely
    and not certain, unless `start` is where an instruction begins not far before, such as the function's first.
    """
    ahead = _read_ahead(read_linear, rip, (after + 1) * MAX_INSTRUCTION_BYTES)
    behind = _read_behind(read_linear, rip, LOOK_BACK_BYTES)
    if start is not None and rip - len(behind) <= start <= rip:
        behind = behind[len(behind) - (rip - start) :]
    earlier = _before(behind, rip, bits) if before else []
    return [*earlier[-before:], *disassemble(ahead, rip, bits, count=after + 1)]


# -- backwards -------------------------------------------------------------------------------------------------


def _before(code: bytes, rip: int, bits: int) -> list[Instruction]:
    """The instructions in the bytes before `rip`, by the longest reading that has nothing bad in it."""
    if _decoder(bits) is None:
        return [Instruction(rip - len(line), line) for line in (code[-LINE_BYTES:],) if line]
    for start in range(len(code)):
        found = disassemble(code[start:], rip - len(code) + start, bits)
        if all(each.text not in ("", BAD) for each in found):
            return found
    return []


# -- memory ----------------------------------------------------------------------------------------------------


def _read_ahead(read_linear: ReadLinear, address: int, size_bytes: int) -> bytes:
    """Up to that many bytes from an address on, as far as there is memory."""
    found = b""
    while len(found) < size_bytes:
        at = address + len(found)
        wanted = min(size_bytes - len(found), PAGE_BYTES - at % PAGE_BYTES)
        piece = _attempt(read_linear, at, wanted)
        found += piece
        if len(piece) < wanted:
            break
    return found


def _read_behind(read_linear: ReadLinear, end: int, size_bytes: int) -> bytes:
    """Up to that many bytes before an address, as far back as there is memory."""
    found = b""
    while len(found) < min(size_bytes, end):
        at = end - len(found)
        wanted = min(size_bytes - len(found), at - align_down(at - 1, PAGE_BYTES))
        piece = _attempt(read_linear, at - wanted, wanted)
        if len(piece) < wanted:
            break
        found = piece + found
    return found


def _attempt(read_linear: ReadLinear, address: int, size_bytes: int) -> bytes:
    try:
        return read_linear(address, size_bytes)
    except AnyvisorError:
        return b""


# -- capstone --------------------------------------------------------------------------------------------------


def _undecoded(decoder: Any, rest: bytes, address: int) -> Instruction:
    """What begins with bytes that are no instruction: one byte, or all that is there of one that goes on."""
    longer = rest[:MAX_INSTRUCTION_BYTES].ljust(MAX_INSTRUCTION_BYTES, b"\0")
    sizes: Sequence[int] = [size for _, size, _, _ in decoder.disasm_lite(longer, address, 1)]
    if sizes and sizes[0] > len(rest):
        return Instruction(address, rest)
    return Instruction(address, rest[:1], BAD)


@functools.cache
def _decoder(bits: int) -> Any:
    """Capstone's disassembler; None where it is not installed."""
    try:
        capstone = importlib.import_module("capstone")
    except ImportError:
        return None
    modes = {16: capstone.CS_MODE_16, 32: capstone.CS_MODE_32, 64: capstone.CS_MODE_64}
    return capstone.Cs(capstone.CS_ARCH_X86, modes[bits])
