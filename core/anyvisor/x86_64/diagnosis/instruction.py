"""One instruction taken apart: its length, its opcode, and the memory that it names.

Some facts about the encoding (SDM Vol. 2, chapter 2). Prefixes, an opcode of one to three bytes, then for most a ModRM
byte that names a register and a register or memory, perhaps an SIB byte and a displacement, and an immediate. Whether
there is a ModRM byte and an immediate follows from the opcode alone. This is what a diagnosis needs to say why an
instruction faults, and works where no disassembler is installed. VEX and EVEX instructions are not taken apart.
"""

from __future__ import annotations

import attrs

PREFIXES = frozenset((0x26, 0x2E, 0x36, 0x3E, 0x64, 0x65, 0x66, 0x67, 0xF0, 0xF2, 0xF3))
SEGMENT_PREFIXES = {0x26: "es", 0x2E: "cs", 0x36: "ss", 0x3E: "ds", 0x64: "fs", 0x65: "gs"}
REGISTERS = tuple("rax rcx rdx rbx rsp rbp rsi rdi r8 r9 r10 r11 r12 r13 r14 r15".split())  # noqa: SIM905
PAIRS_16 = (("rbx", "rsi"), ("rbx", "rdi"), ("rbp", "rsi"), ("rbp", "rdi"), ("rsi",), ("rdi",), ("rbp",), ("rbx",))
"""The registers of a 16-bit address, by the low bits of ModRM."""
INVALID_64 = frozenset(bytes.fromhex("06070e16171e1f272f373f6061829aced4d5d6ea"))
"""One-byte opcodes that 64-bit mode does not have."""
VEX = frozenset((0xC4, 0xC5, 0x62))
CONTROL_MOVES = frozenset((0x0F20, 0x0F21, 0x0F22, 0x0F23))
"""MOV to and from control and debug registers; their ModRM byte never names memory."""


def _ranges(*ends: int | tuple[int, int]) -> frozenset[int]:
    spans = [each if isinstance(each, tuple) else (each, each) for each in ends]
    return frozenset(number for first, last in spans for number in range(first, last + 1))


# fmt: off
MODRM = (
    frozenset(op for op in range(0x40) if op & 7 < 4)
    | _ranges(0x62, 0x63, 0x69, 0x6B, (0x80, 0x8F), 0xC0, 0xC1, (0xC4, 0xC7), (0xD0, 0xD3), (0xD8, 0xDF))
    | _ranges(0xF6, 0xF7, 0xFE, 0xFF)
)
NO_MODRM_0F = (
    _ranges((0x05, 0x09), 0x0B, 0x0E, (0x30, 0x37), 0x77, (0x80, 0x8F), (0xA0, 0xA2), (0xA8, 0xAA), (0xC8, 0xCF))
)
BYTE = (
    frozenset(op for op in range(0x40) if op & 7 == 4)
    | _ranges(0x6A, 0x6B, (0x70, 0x7F), 0x80, 0x82, 0x83, 0xA8, (0xB0, 0xB7), 0xC0, 0xC1, 0xC6, 0xCD, 0xD4, 0xD5)
    | _ranges((0xE0, 0xE7), 0xEB)
)
BYTE_0F = _ranges(0x0F, (0x70, 0x73), 0xA4, 0xAC, 0xBA, 0xC2, (0xC4, 0xC6))
WORD_OR_DOUBLE = frozenset(op for op in range(0x40) if op & 7 == 5) | _ranges(0x68, 0x69, 0x81, 0xA9, 0xC7, 0xE8, 0xE9)
# fmt: on


@attrs.frozen
class Memory:
    """A memory operand: the names of the registers that its address is the sum of, and what is added."""

    registers: tuple[str, ...] = ()
    scaled: str = ""
    scale: int = 1
    displacement: int = 0
    segment: str = "ds"
    address_bits: int = 64
    is_relative: bool = attrs.field(default=False, eq=False)
    """Whether it is written in the way that 64-bit mode takes as relative to RIP."""


@attrs.frozen
class Instruction:
    """An instruction's parts. `opcode` is the whole of it: 0x8B, 0x0F0B, 0x0F3800; `reg` and `rm` are ModRM's fields.

    `register` is the number of the register that `rm` names where it names no memory.
    """

    length: int
    opcode: int
    reg: int = 0
    register: int | None = None
    memory: Memory | None = None
    immediate: int = 0
    operand_bytes: int = 4
    prefixes: frozenset[int] = frozenset()

    @property
    def has_modrm(self) -> bool:
        """Whether it names a register or memory by a ModRM byte."""
        return self.register is not None or self.memory is not None


class Reader:
    """Takes bytes off the front; IndexError at their end."""

    def __init__(self, code: bytes):
        self.code = code
        self.at = 0

    def byte(self) -> int:
        """The next byte."""
        self.at += 1
        return self.code[self.at - 1]

    def number(self, size_bytes: int) -> int:
        """The next bytes as a signed number."""
        if self.at + size_bytes > len(self.code):
            raise IndexError
        self.at += size_bytes
        return int.from_bytes(self.code[self.at - size_bytes : self.at], "little", signed=True)


def take_apart(code: bytes, bits: int) -> Instruction | None:
    """The instruction at the start of `code`, for a processor in that mode; None if it ends too soon or is VEX."""
    try:
        return _instruction(Reader(code), bits)
    except IndexError:
        return None


def _instruction(code: Reader, bits: int) -> Instruction | None:
    prefixes, rex, first = _prefixes(code, bits)
    if first in VEX and (bits == 64 or code.code[code.at] >= 0xC0):
        return None
    opcode = _opcode(code, first)
    operand = 8 if rex & 8 else 4 if (bits == 16) == (0x66 in prefixes) else 2
    reg, register, memory = 0, None, None
    if _has_modrm(opcode):
        address_bits = _address_bits(bits, 0x67 in prefixes)
        reg, register, memory = _modrm(code, rex, address_bits, _segment(prefixes), opcode in CONTROL_MOVES)
        if bits == 64 and memory and memory.is_relative:
            memory = attrs.evolve(memory, registers=("rip",))
    immediate = code.number(_immediate_bytes(opcode, reg, operand, bits, prefixes))
    if memory and memory.registers == ("rip",):
        memory = attrs.evolve(memory, displacement=memory.displacement + code.at)
    if 0xB0 <= opcode <= 0xBF or 0x50 <= opcode <= 0x5F:  # the register is in the opcode
        register, reg = opcode & 7 | (rex & 1) << 3, 0
    return Instruction(code.at, opcode, reg, register, memory, immediate, operand, prefixes)


def _prefixes(code: Reader, bits: int) -> tuple[frozenset[int], int, int]:
    """The prefixes, REX (0 for none), and the first byte behind them."""
    found: set[int] = set()
    rex = 0
    while (byte := code.byte()) in PREFIXES or (bits == 64 and byte & 0xF0 == 0x40):
        rex = 0 if byte in PREFIXES else byte  # one that is not the last prefix does not count
        found.add(byte)
    return frozenset(found), rex, byte


def _opcode(code: Reader, first: int) -> int:
    if first != 0x0F:
        return first
    second = code.byte()
    return (0x0F00 | second) << 8 | code.byte() if second in (0x38, 0x3A) else 0x0F00 | second


def _has_modrm(opcode: int) -> bool:
    if opcode < 0x100:
        return opcode in MODRM
    return opcode > 0xFFFF or opcode & 0xFF not in NO_MODRM_0F


def _address_bits(bits: int, has_prefix: bool) -> int:
    if bits == 64:
        return 32 if has_prefix else 64
    return 16 if (bits == 16) != has_prefix else 32


def _segment(prefixes: frozenset[int]) -> str:
    return next((name for prefix, name in SEGMENT_PREFIXES.items() if prefix in prefixes), "")


def _modrm(
    code: Reader, rex: int, address_bits: int, segment: str, names_no_memory: bool
) -> tuple[int, int | None, Memory | None]:
    """ModRM's register field, then the register or the memory that it names besides."""
    byte = code.byte()
    mod, reg, rm = byte >> 6, byte >> 3 & 7 | (rex & 4) << 1, byte & 7
    if mod == 3 or names_no_memory:
        return reg, rm | (rex & 1) << 3, None
    if address_bits == 16:
        return reg, None, _memory_16(code, mod, rm, segment)
    return reg, None, _memory(code, mod, rm, rex, address_bits, segment)


def _memory_16(code: Reader, mod: int, rm: int, segment: str) -> Memory:
    direct = mod == 0 and rm == 6
    registers = () if direct else PAIRS_16[rm]
    displacement = code.number(2 if direct else (0, 1, 2)[mod])
    return Memory(registers, "", 1, displacement, segment or ("ss" if "rbp" in registers else "ds"), 16)


def _memory(code: Reader, mod: int, rm: int, rex: int, address_bits: int, segment: str) -> Memory:
    scaled, scale = "", 1
    base: str | None = REGISTERS[rm | (rex & 1) << 3]
    if rm == 4:
        sib = code.byte()
        index = sib >> 3 & 7 | (rex & 2) << 2
        scaled, scale = ("" if index == 4 else REGISTERS[index]), 1 << (sib >> 6)
        base = None if sib & 7 == 5 and mod == 0 else REGISTERS[sib & 7 | (rex & 1) << 3]
    elif rm == 5 and mod == 0:
        base = None
    displacement = code.number(4 if mod == 2 or (mod == 0 and base is None) else mod)
    default = "ss" if base in ("rsp", "rbp") else "ds"
    is_relative = base is None and rm == 5
    return Memory((base,) if base else (), scaled, scale, displacement, segment or default, address_bits, is_relative)


def _immediate_bytes(opcode: int, reg: int, operand: int, bits: int, prefixes: frozenset[int]) -> int:
    if opcode > 0xFF:
        return _immediate_bytes_0f(opcode, 4 if bits == 64 else operand)
    if opcode in BYTE or (opcode == 0xF6 and reg & 7 < 2):
        return 1
    if opcode in WORD_OR_DOUBLE or (opcode == 0xF7 and reg & 7 < 2):
        is_branch = opcode in (0xE8, 0xE9)
        return 4 if is_branch and bits == 64 else min(operand, 4)
    address = _address_bits(bits, 0x67 in prefixes) // 8
    others = {0xC2: 2, 0xCA: 2, 0xC8: 3, 0x9A: min(operand, 4) + 2, 0xEA: min(operand, 4) + 2}
    others |= dict.fromkeys(range(0xA0, 0xA4), address) | dict.fromkeys(range(0xB8, 0xC0), operand)
    return others.get(opcode, 0)


def _immediate_bytes_0f(opcode: int, operand: int) -> int:
    if opcode > 0xFFFF:
        return opcode >> 8 == 0x0F3A
    second = opcode & 0xFF
    if 0x80 <= second <= 0x8F:
        return min(operand, 4)
    return second in BYTE_0F
