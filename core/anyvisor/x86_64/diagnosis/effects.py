"""What plain instructions do to the registers of a processor whose way is followed: see `ahead`.

Each effect does what an instruction does if it knows it, and says whether it did. What none of them knows ends the way.
"""

from __future__ import annotations

import operator
from collections.abc import Callable

import attrs

from anyvisor.x86_64.control import Cr0, Efer
from anyvisor.x86_64.diagnosis.control_faults import KINDS, MOV_TO_CONTROL, RDMSR, WRMSR
from anyvisor.x86_64.diagnosis.faults import PUSHES, SEGMENTS, address_of, offset_of, writes_memory
from anyvisor.x86_64.diagnosis.instruction import REGISTERS, Instruction
from anyvisor.x86_64.diagnosis.segments import selector_base
from anyvisor.x86_64.diagnosis.way import Way
from anyvisor.x86_64.msr_index import Msr
from anyvisor.x86_64.paging_modes import LOW_32
from anyvisor.x86_64.state import DescriptorTable

COMPARES = frozenset((*range(0x38, 0x3E), 0x84, 0x85, 0xA8, 0xA9))
OUTPUTS = frozenset((0xE6, 0xE7, 0xEE, 0xEF))
FLAGS = frozenset((0xF5, 0xF8, 0xF9, 0xFA, 0xFB, 0xFC, 0xFD))
QUIET = COMPARES | OUTPUTS | FLAGS | {0x90, 0x0F09, 0x0F0D, 0x0F18, 0x0F1E, 0x0F1F}
"""Instructions that change no general-purpose register."""
FENCES, FIRST_FENCE = 0x0FAE, 5
"""Fences, and FXSAVE and its like, which name memory; others of this opcode change FS, GS or a register."""
BASES = {Msr.FS_BASE: "fs", Msr.GS_BASE: "gs"}
STORES = frozenset((0x88, 0x89, 0xC6, 0xC7))
"""Nor do these where they name memory."""
CLOBBERED = {
    **dict.fromkeys((0xE4, 0xE5, 0xEC, 0xED), ("rax",)),
    **dict.fromkeys((0x0F31, 0x0F33), ("rax", "rdx")),
    0x0FA2: ("rax", "rbx", "rcx", "rdx"),
}
"""What IN, RDTSC, RDPMC and CPUID leave in registers is not known."""
OPERAND_SIZE = 0x66
IMMEDIATE_BYTE, IMMEDIATE, INC_OR_DEC = 0x83, 0x81, 0xFF
IMMEDIATE_OF_8_BITS, INC_OR_DEC_OF_8_BITS, HIGH_BYTES = 0x80, 0xFE, 4
GROUP = ("add", "or", "adc", "sbb", "and", "sub", "xor", "cmp")
"""By the opcode's upper bits, or the ModRM byte's where there is an immediate (SDM Vol. 2, table A-6)."""
RESULTS: dict[str, Callable[[int, int], int]] = {
    "add": operator.add,
    "or": operator.or_,
    "and": operator.and_,
    "sub": operator.sub,
    "xor": operator.xor,
}
Effect = Callable[[Way, Instruction], bool]


def take_effect(way: Way, instruction: Instruction) -> bool:
    """Do what the instruction does; False where that is not looked at."""
    if instruction.memory and writes_memory(instruction):
        way.pushed.pop(address_of(way.scene, instruction.memory, way.rip), None)
    return any(effect(way, instruction) for effect in EFFECTS)


def _quiet(_: Way, instruction: Instruction) -> bool:
    """Instructions that change nothing here. What they write is of the time before the death, as memory is."""
    opcode, names_memory = instruction.opcode, instruction.memory is not None
    is_fence = opcode == FENCES and (names_memory or instruction.reg & 7 >= FIRST_FENCE)
    return opcode in QUIET or is_fence or (opcode in STORES and names_memory)


def _segment(way: Way, instruction: Instruction) -> bool:
    """MOV to a segment register: it counts for its base, and in 64-bit code those of ES, SS and DS do not."""
    name, sregs = dict(enumerate(SEGMENTS)).get(instruction.reg, ""), way.scene.sregs
    if instruction.opcode != 0x8E or name in ("", "cs") or sregs is None:
        return False
    if way.scene.bits == 64 and name in ("es", "ss", "ds"):
        return True
    selector = None if instruction.register is None else way.get(REGISTERS[instruction.register])
    base = None if selector is None else selector_base(way.scene, selector & 0xFFFF)
    if selector is None or base is None:
        return False
    way.control(**{name: attrs.evolve(getattr(sregs, name), selector=selector & 0xFFFF, base=base)})
    return True


def _tables(way: Way, instruction: Instruction) -> bool:
    """LGDT and LIDT."""
    name = {2: "gdt", 3: "idt"}.get(instruction.reg & 7)
    if instruction.opcode != 0x0F01 or name is None or instruction.memory is None or way.scene.sregs is None:
        return False
    size = 10 if way.scene.bits == 64 else 6
    data = way.scene.read(address_of(way.scene, instruction.memory, way.rip), size)
    if len(data) < size:
        return False
    way.control(**{name: DescriptorTable(int.from_bytes(data[2:], "little"), int.from_bytes(data[:2], "little"))})
    return True


def _control(way: Way, instruction: Instruction) -> bool:
    """MOV from and to a control register; one that protects, or ends that, is where the way is lost."""
    sregs, name = way.scene.sregs, f"cr{instruction.reg}"
    if instruction.opcode not in (0x0F20, MOV_TO_CONTROL) or instruction.register is None or sregs is None:
        return False
    register = REGISTERS[instruction.register]
    if instruction.opcode == 0x0F20:
        way.set(register, getattr(sregs, name, None))
        return True
    value = way.get(register)
    if value is None or name not in KINDS or (name == "cr0" and Cr0(value).pe != sregs.cr0.pe):
        return False
    way.control(**{name: KINDS[name](value)})
    return True


def _msrs(way: Way, instruction: Instruction) -> bool:
    """RDMSR and WRMSR: EFER and the bases of FS and GS are followed, and others do not count on the way."""
    sregs, rcx = way.scene.sregs, way.get("rcx")
    index = None if rcx is None else rcx & LOW_32
    if instruction.opcode not in (RDMSR, WRMSR) or sregs is None:
        return False
    if instruction.opcode == RDMSR:
        value = int(sregs.efer) if index == Msr.EFER else None
        way.set("rax", None if value is None else value & LOW_32)
        way.set("rdx", None if value is None else value >> 32)
        return True
    low, high = way.get("rax"), way.get("rdx")
    if index not in (Msr.EFER, *BASES):
        return index is not None
    if low is None or high is None:
        return False
    value = (high & LOW_32) << 32 | low & LOW_32
    name = BASES.get(Msr(index))
    way.control(**({name: attrs.evolve(getattr(sregs, name), base=value)} if name else {"efer": Efer(value)}))
    return True


def _moves(way: Way, instruction: Instruction) -> bool:
    """MOV to a register, and LEA."""
    opcode, mask = instruction.opcode, (1 << 8 * instruction.operand_bytes) - 1
    if instruction.operand_bytes < 4 and not 0xB8 <= opcode <= 0xBF:
        return False
    if 0xB8 <= opcode <= 0xBF or (opcode == 0xC7 and instruction.register is not None):
        kept = way.get(REGISTERS[instruction.register or 0]) if instruction.operand_bytes < 4 else 0
        value = None if kept is None else kept & ~mask | instruction.immediate & mask
        way.set(REGISTERS[instruction.register or 0], value)
    elif opcode == 0x89 and instruction.register is not None:
        way.set(REGISTERS[instruction.register], _masked(way.get(REGISTERS[instruction.reg]), mask))
    elif opcode == 0x8B:
        source = None if instruction.register is None else way.get(REGISTERS[instruction.register])
        way.set(REGISTERS[instruction.reg], _masked(source, mask))
    elif opcode == 0x8D and instruction.memory:
        known = not addressed_by(instruction) & way.unknown
        address = offset_of(way.scene, instruction.memory, way.rip) & mask if known else None
        way.set(REGISTERS[instruction.reg], address)
    else:
        return False
    return True


def addressed_by(instruction: Instruction) -> set[str]:
    """The registers that the address of its memory is made of."""
    memory = instruction.memory
    return {*memory.registers, memory.scaled} - {"rip", ""} if memory else set()


def _masked(value: int | None, mask: int) -> int | None:
    return None if value is None else value & mask


def _stack(way: Way, instruction: Instruction) -> bool:
    """Pushes, POP of a register, LEAVE; of whole words."""
    opcode = instruction.opcode
    if OPERAND_SIZE in instruction.prefixes:
        return False
    if opcode in PUSHES:
        is_immediate = opcode in (0x68, 0x6A)
        pushed = way.get(REGISTERS[instruction.register or 0]) if 0x50 <= opcode <= 0x57 else None
        way.push(instruction.immediate if is_immediate else pushed)
    elif 0x58 <= opcode <= 0x5F:
        way.set(REGISTERS[instruction.register or 0], way.pop())
    elif opcode == 0xC9:
        way.set("rsp", way.get("rbp"))
        way.set("rbp", way.pop())
    else:
        return False
    return True


def _clobbers(way: Way, instruction: Instruction) -> bool:
    """Instructions that leave something in a register that is not known."""
    opcode = instruction.opcode
    names = CLOBBERED.get(opcode, ())
    if opcode == 0x8C and instruction.register is not None:
        names = (REGISTERS[instruction.register],)
    for name in names:
        way.set(name, None)
    return opcode in CLOBBERED or opcode == 0x8C


def _bytes(way: Way, instruction: Instruction) -> bool:
    """MOV and arithmetic of 8 bits: worked out for AL to BL with an immediate."""
    opcode, number = instruction.opcode, instruction.register
    if 0xB0 <= opcode <= 0xB7:
        name = "mov"
    elif opcode < 0x38 and opcode & 7 == 4:
        name, number = GROUP[opcode >> 3], 0
    elif opcode == IMMEDIATE_OF_8_BITS:
        name = GROUP[instruction.reg & 7]
    elif opcode == INC_OR_DEC_OF_8_BITS or (opcode < 0x38 and instruction.has_modrm and not opcode & 1):
        name, number = "", instruction.reg if opcode & 2 and opcode < 0x38 else number
    else:
        return False
    if number is not None and name != "cmp":
        _set_byte(way, name, number, instruction.immediate & 0xFF)
    return True


def _set_byte(way: Way, name: str, number: int, other: int) -> None:
    """Change a register of 8 bits; of AH to BH, which without a REX prefix have the next numbers, nothing is known."""
    value = way.get(REGISTERS[number])
    low = other if name == "mov" else RESULTS[name](value or 0, other) if name in RESULTS else None
    if number < HIGH_BYTES:
        way.set(REGISTERS[number], None if low is None or value is None else value & ~0xFF | low & 0xFF)
    else:
        way.set(REGISTERS[number], None)
        way.set(REGISTERS[number & 3], None)


def _arithmetic(way: Way, instruction: Instruction) -> bool:
    """ADD, OR, AND, SUB, XOR and their like, INC and DEC; worked out where both sides are known."""
    opcode, reg = instruction.opcode, instruction.reg
    target, other = instruction.register, None
    if opcode in (IMMEDIATE_BYTE, IMMEDIATE):
        name, other = GROUP[reg & 7], instruction.immediate
    elif opcode == INC_OR_DEC and reg & 7 < 2:
        name, other = ("add", "sub")[reg & 7], 1
    elif opcode < 0x38 and instruction.has_modrm:
        name, target, other = _two_registers(way, instruction)
    elif opcode < 0x38 and opcode & 7 == 5:
        name, target, other = GROUP[opcode >> 3], 0, instruction.immediate
    else:
        return False
    if target is not None and name != "cmp":
        way.set(REGISTERS[target], _result(way, name, target, other, instruction.operand_bytes))
    return True


def _two_registers(way: Way, instruction: Instruction) -> tuple[str, int | None, int | None]:
    """The operation, the register that it changes, and the value of the other side."""
    name, target, source = GROUP[instruction.opcode >> 3], instruction.register, instruction.reg
    if instruction.opcode & 2:
        target, source = instruction.reg, -1 if instruction.register is None else instruction.register
    if source < 0:
        return name, target, None
    if target == source and name in ("xor", "sub"):  # it is zero, whatever was there
        way.set(REGISTERS[source], 0)
    return name, target, way.get(REGISTERS[source])


def _result(way: Way, name: str, target: int, other: int | None, operand_bytes: int) -> int | None:
    value = way.get(REGISTERS[target])
    if value is None or other is None or name not in RESULTS or operand_bytes < 4:
        return None
    return RESULTS[name](value, other) & (1 << 8 * operand_bytes) - 1


# fmt: off
EFFECTS: tuple[Effect, ...] = (
    _quiet, _segment, _tables, _control, _msrs, _moves, _stack, _clobbers, _bytes, _arithmetic
)
# fmt: on
"""The first that knows an instruction is right."""
