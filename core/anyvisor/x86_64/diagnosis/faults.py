"""Which exception the instruction at RIP raises, as far as registers and memory tell.

Some facts about guessing. A hypervisor that reports a triple fault says nothing of the exception that began it. But the
registers are still those of the instruction that could not go on, and what it would do can be seen: is it there at all,
does its mode have it, are the memory and the selectors that it names what they must be? Where nothing is wrong there
is no answer. That the vector has no handler is another matter: see `exceptions`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from anyvisor.x86_64.diagnosis.control_faults import MOV_TO_CONTROL, RDMSR, WRMSR, refused_write
from anyvisor.x86_64.diagnosis.exceptions import BP, DB, DE, GP, NM, NP, PF, SS, UD
from anyvisor.x86_64.diagnosis.fault import FETCH, READ, WRITE, Fault
from anyvisor.x86_64.diagnosis.instruction import (
    INVALID_64,
    REGISTERS,
    VEX,
    Instruction,
    Memory,
    take_apart,
)
from anyvisor.x86_64.diagnosis.scene import Scene
from anyvisor.x86_64.diagnosis.segments import kind_problem, selector_problem
from anyvisor.x86_64.disassembly import MAX_INSTRUCTION_BYTES
from anyvisor.x86_64.modes import REAL
from anyvisor.x86_64.paging_modes import LOW_32, LOW_64, paging_of

PUSHES = frozenset((*range(0x50, 0x58), 0x68, 0x6A, 0xE8, 0x9C, 0x0FA0, 0x0FA8))
POPS = frozenset((*range(0x58, 0x60), 0xC2, 0xC3, 0xCA, 0xCB, 0xCF, 0x8F, 0x9D, 0x0FA1, 0x0FA9))
STRING_READS = frozenset((0xA4, 0xA5, 0xA6, 0xA7, 0xAC, 0xAD, 0x6E, 0x6F))
STRING_WRITES = frozenset((0xA4, 0xA5, 0xAA, 0xAB, 0x6C, 0x6D))
NO_ACCESS = frozenset((0x8D, 0x0F1F, 0x0F0D, 0x0F18))
"""LEA, NOP and prefetches name memory that they do not touch."""
WRITES = frozenset((
    *range(0x86, 0x8A), 0x8C, 0xC0, 0xC1, 0xC6, 0xC7, *range(0xD0, 0xD4), 0x0F11, 0x0F29, 0x0F7F,
    *range(0x0F90, 0x0FA0),
))  # fmt: skip
COMPARE = 7
"""What the ModRM byte of arithmetic with an immediate says where nothing is written."""
SEGMENTS = ("es", "cs", "ss", "ds", "fs", "gs")
"""By the ModRM byte of a MOV."""
PRIVILEGED = {
    0xF4: "HLT", 0x0F06: "CLTS", 0x0F08: "INVD", 0x0F09: "WBINVD", WRMSR: "WRMSR", RDMSR: "RDMSR",
    MOV_TO_CONTROL: "MOV to a control register", 0x0F20: "MOV from a control register",
}  # fmt: skip
UNDEFINED = {0x0F0B: "UD2", 0x0FB9: "UD1", 0x0FFF: "UD0"}


def fault_at(scene: Scene, rip: int) -> Fault | None:
    """The exception that the instruction at that linear address raises with the registers of `scene`, if any."""
    if scene.regs is None or scene.sregs is None:
        return None
    if fault := _fetch(scene, rip):
        return fault
    code = scene.read(rip, MAX_INSTRUCTION_BYTES)
    instruction = take_apart(code, scene.bits)
    if instruction is None:
        return _vex(scene, rip, code) if code and code[0] in VEX else None
    found = (fault for look in LOOKS for fault in look(scene, rip, instruction))
    return next(found, None)


def _fetch(scene: Scene, rip: int) -> Fault | None:
    """Whether there is an instruction at all."""
    paging = paging_of(scene.sregs) if scene.sregs else None
    if paging and not paging.is_canonical(rip):
        return Fault(GP, rip, f"RIP {rip:#x} is not a canonical address", rip, FETCH)
    walk = scene.walk(rip)
    if walk.guest_address is None:
        return Fault(PF, rip, f"the code at RIP {scene.place(rip)} is not mapped: {walk.problem}", rip, FETCH)
    return None


def _vex(scene: Scene, rip: int, code: bytes) -> Fault | None:
    if scene.sregs and not scene.sregs.cr4.osxsave:
        return Fault(UD, rip, f"the AVX instruction ({code[:4].hex(' ')}...) needs CR4.OSXSAVE, which is clear")
    return None


def _undefined(scene: Scene, rip: int, instruction: Instruction) -> Iterator[Fault]:
    """Opcodes that the mode does not have."""
    opcode = instruction.opcode
    if name := UNDEFINED.get(opcode):
        yield Fault(UD, rip, f"the instruction is {name}, which is undefined on purpose: a BUG() or an assertion")
    elif scene.bits == 64 and opcode in INVALID_64:
        yield Fault(UD, rip, f"opcode {opcode:#04x} does not exist in 64-bit mode")
    elif 0xF0 in instruction.prefixes and instruction.has_modrm and instruction.memory is None:
        yield Fault(UD, rip, "the instruction has a LOCK prefix and names no memory")


def _sse(scene: Scene, rip: int, instruction: Instruction) -> Iterator[Fault]:
    """SSE and x87 instructions, which must be switched on."""
    assert scene.sregs
    second, cr0, cr4 = instruction.opcode & 0xFF, scene.sregs.cr0, scene.sregs.cr4
    is_sse = instruction.opcode >> 8 == 0x0F and (0x10 <= second <= 0x17 or 0x28 <= second <= 0x2F or second >> 4 == 5)
    is_x87 = 0xD8 <= instruction.opcode <= 0xDF
    if is_sse and (cr0.em or not cr4.osfxsr):
        yield Fault(UD, rip, f"the SSE instruction needs CR4.OSFXSR set and CR0.EM clear; CR4 is {int(cr4):#x}")
    elif (is_sse or is_x87) and (cr0.ts or (is_x87 and cr0.em)):
        yield Fault(NM, rip, f"the floating-point instruction needs CR0.TS and CR0.EM clear; CR0 is {int(cr0):#x}")


def _interrupts(scene: Scene, rip: int, instruction: Instruction) -> Iterator[Fault]:
    """Instructions that raise an exception by nature."""
    if instruction.opcode == 0xCC:
        yield Fault(BP, rip, "the instruction is INT3, a breakpoint")
    elif instruction.opcode == 0xF1:
        yield Fault(DB, rip, "the instruction is INT1")
    elif instruction.opcode == 0xCD:
        vector = instruction.immediate & 0xFF
        yield Fault(vector, rip, f"the instruction is INT {vector:#x}")
    elif (name := PRIVILEGED.get(instruction.opcode)) and scene.sregs and scene.sregs.ss.dpl and scene.mode != REAL:
        yield Fault(GP, rip, f"{name} is for the kernel only, and the privilege level is {scene.sregs.ss.dpl}")


def _memory(scene: Scene, rip: int, instruction: Instruction) -> Iterator[Fault]:
    """The memory operand."""
    if instruction.memory is None or instruction.opcode in NO_ACCESS:
        return
    address = address_of(scene, instruction.memory, rip)
    access = WRITE if writes_memory(instruction) else READ
    yield from unmapped(scene, rip, address, access, "the instruction names")


def writes_memory(instruction: Instruction) -> bool:
    """Whether it changes the memory that it names: a move, or arithmetic with memory as its first operand."""
    opcode, reg = instruction.opcode, instruction.reg & 7
    arithmetic = (opcode < 0x38 and opcode & 7 < 2) or (opcode in (0x80, 0x81, 0x83) and reg != COMPARE)
    return (
        opcode in WRITES
        or arithmetic
        or (opcode in (0xFE, 0xFF) and reg < 2)
        or (opcode in (0xF6, 0xF7) and reg in (2, 3))
    )


def _strings(scene: Scene, rip: int, instruction: Instruction) -> Iterator[Fault]:
    """The memory of string instructions, by RSI and RDI."""
    assert scene.regs and scene.sregs
    if instruction.opcode in STRING_READS:
        address = scene.linear(scene.regs.rsi, scene.sregs.ds)
        yield from unmapped(scene, rip, address, READ, "the string instruction takes from RSI")
    if instruction.opcode in STRING_WRITES:
        address = scene.linear(scene.regs.rdi, scene.sregs.es)
        yield from unmapped(scene, rip, address, WRITE, "the string instruction writes to RDI")


def _stack(scene: Scene, rip: int, instruction: Instruction) -> Iterator[Fault]:
    """The stack of a push, call, pop or return."""
    size = max(scene.bits // 8, 2)
    opcode, indirect = instruction.opcode, instruction.opcode == 0xFF and instruction.reg & 7 in (2, 3, 6)
    if scene.rsp is None:
        return
    if opcode in PUSHES or indirect:
        address = scene.rsp - size & LOW_64
        yield from unmapped(scene, rip, address, WRITE, "the instruction pushes to", stack=True)
    elif opcode in POPS:
        yield from unmapped(scene, rip, scene.rsp, READ, "the instruction pops from", stack=True)


def _selectors(scene: Scene, rip: int, instruction: Instruction) -> Iterator[Fault]:
    """Selectors that are loaded."""
    if scene.mode == REAL:
        return
    name, selector = _loaded(scene, rip, instruction)
    if selector is None or (selector & ~3 == 0 and name not in ("CS", "SS", "TR")):
        return
    if selector & ~3 == 0 and name == "SS" and scene.bits == 64:
        return
    if problem := selector_problem(scene, selector):
        vector = (SS if name == "SS" else NP) if "not present" in problem else GP
        yield Fault(vector, rip, f"the instruction loads {name}, and the selector {problem}", selector=selector)
    elif problem := kind_problem(scene, name, selector):
        yield Fault(GP, rip, f"the instruction loads {name}: its selector {problem}", selector=selector)


def _loaded(scene: Scene, rip: int, instruction: Instruction) -> tuple[str, int | None]:
    """The segment register that an instruction loads, and the selector."""
    opcode, size = instruction.opcode, scene.bits // 8
    if opcode == 0x8E and instruction.reg < 6:
        return SEGMENTS[instruction.reg].upper(), _word(scene, rip, instruction)
    if opcode == 0x0F00 and instruction.reg & 7 in (2, 3):
        return ("LDTR", "TR")[instruction.reg & 7 == 3], _word(scene, rip, instruction)
    if opcode == 0xEA:
        return "CS", instruction.immediate >> 8 * min(instruction.operand_bytes, 4) & 0xFFFF
    if opcode in (0xCA, 0xCB, 0xCF) and scene.rsp is not None:
        width = instruction.operand_bytes if size < 8 or instruction.operand_bytes == 8 else 4
        return "CS", _low_word(scene.number(scene.rsp + width, 2))
    if opcode == 0xFF and instruction.reg & 7 == 5 and instruction.memory:
        address = address_of(scene, instruction.memory, rip) + min(instruction.operand_bytes, 8)
        return "CS", scene.number(address, 2)
    return "", None


def _low_word(number: int | None) -> int | None:
    return None if number is None else number & 0xFFFF


def _word(scene: Scene, rip: int, instruction: Instruction) -> int | None:
    """The 16 bits of the register or memory operand."""
    if instruction.register is not None:
        return int(getattr(scene.regs, REGISTERS[instruction.register])) & 0xFFFF
    return scene.number(address_of(scene, instruction.memory, rip), 2) if instruction.memory else None


def _division(scene: Scene, rip: int, instruction: Instruction) -> Iterator[Fault]:
    """A division by zero."""
    if instruction.opcode not in (0xF6, 0xF7) or instruction.reg & 7 < 6:
        return
    size = 1 if instruction.opcode == 0xF6 else instruction.operand_bytes
    if instruction.memory:
        divisor = scene.number(address_of(scene, instruction.memory, rip), size)
    elif size == 1:  # AH, CH, DH and BH are too odd to be looked at
        return
    else:
        divisor = int(getattr(scene.regs, REGISTERS[instruction.register or 0])) & (1 << 8 * size) - 1
    if divisor == 0:
        yield Fault(DE, rip, "the instruction divides by zero")


LOOKS: tuple[Callable[[Scene, int, Instruction], Iterator[Fault]], ...] = (
    _undefined, _sse, _interrupts, _stack, _memory, _strings, _selectors, _division, refused_write,
)  # fmt: skip
"""What is looked at, in the processor's order as far as it matters."""


def unmapped(scene: Scene, rip: int, address: int, access: str, what: str, *, stack: bool = False) -> Iterator[Fault]:
    """The fault of an access to memory that is not there."""
    paging = paging_of(scene.sregs) if scene.sregs else None
    if paging and not paging.is_canonical(address):
        yield Fault(SS if stack else GP, rip, f"{what} {address:#x}, which is not canonical", address, access, stack)
        return
    walk = scene.walk(address)
    if walk.guest_address is None:
        yield Fault(PF, rip, f"{what} {address:#x}, which is not mapped: {walk.problem}", address, access, stack)


def address_of(scene: Scene, memory: Memory, rip: int) -> int:
    """The linear address of a memory operand."""
    assert scene.sregs
    offset, segment = offset_of(scene, memory, rip), getattr(scene.sregs, memory.segment)
    if scene.bits == 64:
        return offset + (segment.base if memory.segment in ("fs", "gs") else 0) & LOW_64
    return int(segment.base + offset & LOW_32)


def offset_of(scene: Scene, memory: Memory, rip: int) -> int:
    """Where a memory operand is in its segment. RIP-relative ones count from the next instruction's address."""
    total = memory.displacement
    for name in memory.registers:
        total += rip if name == "rip" else int(getattr(scene.regs, name))
    if memory.scaled:
        total += int(getattr(scene.regs, memory.scaled)) * memory.scale
    return total & (1 << memory.address_bits) - 1
