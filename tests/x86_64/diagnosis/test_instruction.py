"""Instructions taken apart, judged by capstone on random bytes and by hand on a few."""

import random

import capstone
import pytest
from capstone import x86

from anyvisor.x86_64.diagnosis.instruction import Memory, take_apart

MODES = {64: capstone.CS_MODE_64, 32: capstone.CS_MODE_32, 16: capstone.CS_MODE_16}
EACH = 12_000
TOLERATED = {"ud0", "ud1", "extrq", "vpshab"}
"""The makers of processors do not agree on how long the first two are; the others are AMD's own."""


def random_code(bits, seed):
    source = random.Random(seed)
    starts = [b"", b"", b"\x0f", b"\x66", b"\x67", b"\x48", b"\x41", b"\xf3", b"\x0f\x3a"]
    for _ in range(EACH):
        yield (source.choice(starts) + source.randbytes(15))[:15]


@pytest.mark.parametrize("bits", MODES)
def test_lengths_are_those_that_capstone_sees(bits):
    judge = capstone.Cs(capstone.CS_ARCH_X86, MODES[bits])
    compared = 0
    for code in random_code(bits, bits):
        seen, own = next(judge.disasm_lite(code, 0, 1), None), take_apart(code, bits)
        if seen is None or own is None or seen[2] in TOLERATED:
            continue
        if 0x0F80 <= own.opcode <= 0x0F8F and 0x66 in own.prefixes:  # capstone knows AMD's way for some of these
            continue
        assert own.length == seen[1], (code.hex(), seen)
        compared += 1
    assert compared > EACH / 2


@pytest.mark.parametrize("bits", MODES)
def test_memory_operands_are_those_that_capstone_sees(bits):
    judge = capstone.Cs(capstone.CS_ARCH_X86, MODES[bits])
    judge.detail = True
    compared = 0
    for code in random_code(bits, bits + 1):
        seen, own = next(judge.disasm(code, 0, 1), None), take_apart(code, bits)
        if seen is None or own is None or own.memory is None or seen.mnemonic in TOLERATED:
            continue
        operands = [each.mem for each in seen.operands if each.type == x86.X86_OP_MEM]
        if operands:
            assert named(own.memory, own.length) == told(seen, operands[0], own.memory), (code.hex(), str(seen))
            compared += 1
    assert compared > EACH / 6


def named(memory, length):
    """Registers, index and scale, and displacement cut to the address's size."""
    registers = tuple(sorted(memory.registers))
    displacement = memory.displacement - (length if memory.registers == ("rip",) else 0)
    mask = (1 << memory.address_bits) - 1
    return registers, memory.scaled, memory.scale if memory.scaled else 1, displacement & mask


def told(seen, operand, memory):
    def full(register):
        name = seen.reg_name(register) if register else ""
        wide = {"ax", "bx", "cx", "dx", "si", "di", "bp", "sp", "ip"}
        name = "r" + name.removeprefix("e").removeprefix("r") if name.lstrip("er") in wide else name.removesuffix("d")
        return "" if name in ("riz", "eiz", "rriz") else name

    base, index = full(operand.base), full(operand.index)
    mask = (1 << memory.address_bits) - 1
    if memory.address_bits == 16:
        return tuple(sorted(filter(None, (base, index)))), "", 1, operand.disp & mask
    return tuple(filter(None, [base])), index, operand.scale if index else 1, operand.disp & mask


BY_HAND = {
    "90": (1, None),
    "0f 0b": (2, None),
    "48 89 03": (3, Memory(("rbx",))),
    "48 8b 44 24 08": (5, Memory(("rsp",), displacement=8, segment="ss")),
    "64 48 8b 04 25 28 00 00 00": (9, Memory(displacement=0x28, segment="fs")),
    "48 8d 05 01 00 00 00": (7, Memory(("rip",), displacement=8)),
    "c4 e2 79 18 00": (None, None),
    "48": (None, None),
}


@pytest.mark.parametrize("code", BY_HAND)
def test_a_few_instructions_of_64_bit_code(code):
    length, memory = BY_HAND[code]
    found = take_apart(bytes.fromhex(code), 64)
    assert (found and found.length) == length
    assert (found and found.memory) == memory
