"""Where a guest went from a state that is known, as far as its way is plain.

Some facts about being plain. AMD's processors reset a vCPU that shuts down, and what is left is its state at the exit
before. From there the code in memory can be read on, instruction by instruction, while each does nothing but move
numbers about, touch memory or devices, or jump to where it says. What changes a register in another way makes it
unknown, and an instruction whose fault would depend on an unknown register is passed over. A branch that depends on
flags ends the way. So what is found on it is likely, and no more.
"""

from __future__ import annotations

from typing import Any

import attrs

from anyvisor.x86_64.diagnosis.faults import POPS, PUSHES, STRING_READS, STRING_WRITES, Fault, address_of, fault_at
from anyvisor.x86_64.diagnosis.instruction import REGISTERS, Instruction, take_apart
from anyvisor.x86_64.diagnosis.scene import Scene
from anyvisor.x86_64.disassembly import MAX_INSTRUCTION_BYTES
from anyvisor.x86_64.state import DescriptorTable, Sregs

STEPS = 200
"""As far as it is looked."""
COMPARES = frozenset((*range(0x38, 0x3E), 0x84, 0x85, 0xA8, 0xA9))
OUTPUTS = frozenset((0xE6, 0xE7, 0xEE, 0xEF))
FLAGS = frozenset((0xF5, 0xF8, 0xF9, 0xFA, 0xFB, 0xFC, 0xFD))
QUIET = COMPARES | OUTPUTS | FLAGS | {0x8E, 0x90, 0x0F09, 0x0F0D, 0x0F18, 0x0F1E, 0x0F1F, 0x0F30, 0x0FAE}
"""Instructions that change no general-purpose register."""
STORES = frozenset((0x81, 0x83, 0x88, 0x89, 0xC6, 0xC7))
"""Nor do these where they name memory."""
FULL = (1 << 64) - 1


@attrs.define
class Way:
    """How far the way has been followed: the scene there, and the registers that are not known."""

    scene: Scene
    rip: int
    unknown: set[str]

    def set(self, name: str, value: int | None) -> None:
        """A register has that value from here on; None for one that is not known."""
        if value is None or self.scene.regs is None:
            self.unknown.add(name)
            return
        self.unknown.discard(name)
        fields: dict[str, Any] = {name: value & FULL}
        self.scene = self.scene.changed(attrs.evolve(self.scene.regs, **fields))

    def get(self, name: str) -> int | None:
        """The value of a register, None where it is not known."""
        return None if name in self.unknown else int(getattr(self.scene.regs, name))


@attrs.frozen
class End:
    """Where a way ends: the scene and the linear address there, and the exception that is raised, if one is seen."""

    scene: Scene
    rip: int
    fault: Fault | None = None


def look_ahead(scene: Scene) -> End | None:
    """Follow the way from the state of `scene`; None where that is not known."""
    if scene.rip is None or scene.sregs is None:
        return None
    way = Way(scene, scene.rip, set())
    for _ in range(STEPS):
        instruction = take_apart(way.scene.read(way.rip, MAX_INSTRUCTION_BYTES), way.scene.bits)
        needs = _needs(instruction) if instruction else set()
        if not needs & way.unknown and (fault := fault_at(way.scene, way.rip)):
            return End(way.scene, way.rip, fault)
        at = way.rip
        if instruction is None or not _follow(way, instruction):
            return End(way.scene, at)
    return End(way.scene, way.rip)


def _needs(instruction: Instruction) -> set[str]:
    """The registers that decide whether the instruction faults."""
    needs: set[str] = set()
    if instruction.memory:
        needs |= {*instruction.memory.registers, instruction.memory.scaled} - {"rip", ""}
    if instruction.register is not None and instruction.opcode in (0x8E, 0x0F00, 0xF6, 0xF7):
        needs.add(REGISTERS[instruction.register])
    if instruction.opcode in PUSHES | POPS or instruction.opcode == 0xFF:
        needs.add("rsp")
    needs |= {"rsi"} if instruction.opcode in STRING_READS else set()
    return needs | ({"rdi"} if instruction.opcode in STRING_WRITES else set())


def _follow(way: Way, instruction: Instruction) -> bool:
    """Go on behind the instruction, with what it does; False where the way is not plain."""
    following = way.rip + instruction.length
    if instruction.opcode in (0xE9, 0xEB, 0xE8):
        if instruction.opcode == 0xE8:
            _move_stack(way, -1)
        way.rip = following + instruction.immediate & FULL
        return True
    if instruction.opcode == 0xFF and instruction.reg & 7 in (2, 4):  # a call or jump to where a register says
        target = None if instruction.register is None else way.get(REGISTERS[instruction.register])
        if instruction.reg & 7 == 2:
            _move_stack(way, -1)
        way.rip = target or 0
        return target is not None
    is_plain = _tables(way, instruction) or _moves(way, instruction) or _others(way, instruction)
    way.rip = following
    return is_plain


def _move_stack(way: Way, words: int) -> None:
    rsp = way.get("rsp")
    way.set("rsp", None if rsp is None else rsp + words * max(way.scene.bits // 8, 2))


def _tables(way: Way, instruction: Instruction) -> bool:
    """LGDT and LIDT."""
    name = {2: "gdt", 3: "idt"}.get(instruction.reg & 7)
    if instruction.opcode != 0x0F01 or name is None or instruction.memory is None or way.scene.sregs is None:
        return False
    size = 10 if way.scene.bits == 64 else 6
    data = way.scene.read(address_of(way.scene, instruction.memory, way.rip), size)
    if len(data) < size:
        return False
    table = DescriptorTable(int.from_bytes(data[2:], "little"), int.from_bytes(data[:2], "little"))
    fields: dict[str, Any] = {name: table}
    sregs: Sregs = attrs.evolve(way.scene.sregs, **fields)
    way.scene = way.scene.changed(sregs)
    return True


def _moves(way: Way, instruction: Instruction) -> bool:
    """MOV to a register, LEA, and XOR of a register with itself."""
    opcode, mask = instruction.opcode, (1 << 8 * instruction.operand_bytes) - 1
    if instruction.operand_bytes < 4 and not 0xB8 <= opcode <= 0xBF:
        return False
    if 0xB8 <= opcode <= 0xBF or (opcode == 0xC7 and instruction.register is not None):
        way.set(REGISTERS[instruction.register or 0], instruction.immediate & mask)
    elif opcode == 0x89 and instruction.register is not None:
        way.set(REGISTERS[instruction.register], _masked(way.get(REGISTERS[instruction.reg]), mask))
    elif opcode == 0x8B:
        source = REGISTERS[instruction.register] if instruction.register is not None else ""
        way.set(REGISTERS[instruction.reg], _masked(way.get(source), mask) if source else None)
    elif opcode == 0x8D and instruction.memory:
        known = not _needs(instruction) & way.unknown
        way.set(
            REGISTERS[instruction.reg], address_of(way.scene, instruction.memory, way.rip) & mask if known else None
        )
    elif opcode in (0x31, 0x33) and instruction.register == instruction.reg:
        way.set(REGISTERS[instruction.reg], 0)
    else:
        return False
    return True


def _masked(value: int | None, mask: int) -> int | None:
    return None if value is None else value & mask


def _others(way: Way, instruction: Instruction) -> bool:
    """Instructions that change nothing here, the stack pointer, or a register to what is not known."""
    opcode = instruction.opcode
    if opcode in QUIET or (opcode in STORES and instruction.memory):
        return True
    if opcode in PUSHES:
        _move_stack(way, -1)
    elif 0x58 <= opcode <= 0x5F:
        _move_stack(way, 1)
        way.set(REGISTERS[instruction.register or 0], None)
    elif 0xB0 <= opcode <= 0xB7:
        way.set(REGISTERS[(instruction.register or 0) & 3], None)
        way.set(REGISTERS[instruction.register or 0], None)
    elif opcode in (0xE4, 0xE5, 0xEC, 0xED):
        way.set("rax", None)
    elif opcode in (0x83, 0x81, 0x8C) and instruction.register is not None:
        way.set(REGISTERS[instruction.register], None)
    elif opcode in (0xFE, 0xFF) and instruction.reg & 7 < 2:  # INC and DEC; of 8 bits, AH to BH may be parts of others
        for number in () if instruction.register is None else {instruction.register, instruction.register & 3}:
            way.set(REGISTERS[number], None)
    elif opcode < 0x38 and instruction.has_modrm:
        _arithmetic(way, instruction)
    else:
        return False
    return True


def _arithmetic(way: Way, instruction: Instruction) -> None:
    """ADD, OR, AND, SUB, XOR and their like: the result is not worked out."""
    if instruction.opcode & 2:
        way.set(REGISTERS[instruction.reg], None)
    elif instruction.register is not None:
        way.set(REGISTERS[instruction.register], None)
