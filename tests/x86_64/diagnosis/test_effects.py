"""What is known of registers behind an instruction is what a processor has there: the emulated one is the judge."""

import random

import attrs
import pytest
from dead_guests import CODE, REGS, STACK, dead

from anyvisor.x86_64.control import Rflags
from anyvisor.x86_64.diagnosis.effects import take_effect
from anyvisor.x86_64.diagnosis.instruction import REGISTERS, take_apart
from anyvisor.x86_64.diagnosis.scene import Scene
from anyvisor.x86_64.diagnosis.way import Way

unicorn = pytest.importorskip("unicorn")
from unicorn import x86_const  # noqa: E402

TRIES = 4000
ENOUGH = 2000
HLT = b"\xf4"
VALUES = (0, 1, 0x7F, 0x80, 0xFFFFFFFF, 1 << 31, (1 << 64) - 1, 0x1122334455667788)
OPCODES = (
    *(op for op in range(0x38) if op & 7 < 6 and op not in (0x26, 0x2E, 0x36)),
    *range(0x50, 0x60), 0x68, 0x6A, 0x80, 0x81, 0x83, 0x89, 0x8B, 0x8D, *range(0xB0, 0xC0), 0xC7, 0xC9, 0xFE, 0xFF,
)  # fmt: skip


def instructions(seed):
    """Instructions of 64-bit code with registers, immediates and operand sizes of all kinds."""
    chosen = random.Random(seed)
    for _ in range(TRIES):
        prefix = chosen.choice((b"", b"", b"\x48", b"\x41", b"\x44", b"\x4c", b"\x66"))
        modrm = (
            0x80 | chosen.randrange(64) if (opcode := chosen.choice(OPCODES)) == 0x8D else 0xC0 | chosen.randrange(64)
        )
        yield prefix + bytes([opcode, modrm]) + chosen.randbytes(8), chosen


@pytest.fixture(scope="module")
def processor():
    engine = unicorn.Uc(unicorn.UC_ARCH_X86, unicorn.UC_MODE_64)
    engine.mem_map(0, 4 << 20)
    return engine


def executed(processor, place, code, before):
    """The registers behind the code; None where it raises an exception. Each has a place of its own."""
    for name, value in before.items():
        processor.reg_write(getattr(x86_const, f"UC_X86_REG_{name.upper()}"), value)
    processor.mem_write(place, code + HLT)
    try:
        processor.emu_start(place, 0, count=1)
    except unicorn.UcError:
        return None
    return {name: processor.reg_read(getattr(x86_const, f"UC_X86_REG_{name.upper()}")) for name in REGISTERS}


def test_what_is_known_is_so(processor):
    judged, scene = 0, Scene(dead(b""))
    for number, (code, chosen) in enumerate(instructions(seed=6)):
        before = {name: chosen.choice(VALUES) for name in REGISTERS} | {"rsp": STACK, "rbp": STACK - 16}
        way = Way(scene.changed(attrs.evolve(REGS, **before, rflags=Rflags(2))), CODE)
        instruction = take_apart(code, 64)
        if instruction is None or not take_effect(way, instruction):
            continue
        after = executed(processor, CODE + 32 * number, code[: instruction.length], before)
        known = {name: way.get(name) for name in REGISTERS if name not in way.unknown}
        if after:
            assert known == {name: after[name] for name in known}, (code[: instruction.length].hex(" "), before)
            judged += 1
    assert judged > ENOUGH


def test_what_was_pushed_is_what_is_popped():
    way = Way(Scene(dead(b"")), CODE)
    for word in (1, None, (1 << 64) - 1, -1):
        way.push(word)
    assert [way.pop() for _ in range(4)] == [(1 << 64) - 1, (1 << 64) - 1, None, 1]
    assert way.top == STACK
    assert way.pop() is None  # from before
