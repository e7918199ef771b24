"""Where a guest went from a state that is known, as far as its way is plain.

Some facts about being plain. AMD's processors reset a vCPU that shuts down, and what is left is its state at the exit
before. From there the code in memory can be read on, instruction by instruction, while each does nothing but move
numbers about, touch memory or devices, or jump to where it says. What changes a register in another way makes it
unknown, and an instruction whose fault would depend on an unknown register is passed over. A branch that depends on
flags ends the way, and so does an exception that has a handler. So what is found on it is likely, and no more.

Some facts about returns. What was pushed on the way is known. A return address from before is in memory still, unless
the guest has returned since and called something else. So it is taken for one only if the call in front of it leads to
the function that returns there.
"""

from __future__ import annotations

import attrs

from anyvisor.x86_64.diagnosis.code_reached import (
    CALL,
    CALL_OF_INDIRECT,
    INDIRECT,
    JUMPS,
    RETURNS,
    calls_before,
    is_call,
    reached,
)
from anyvisor.x86_64.diagnosis.control_faults import MOV_TO_CONTROL, WRMSR
from anyvisor.x86_64.diagnosis.effects import addressed_by, take_effect
from anyvisor.x86_64.diagnosis.exceptions import gate
from anyvisor.x86_64.diagnosis.fault import Fault
from anyvisor.x86_64.diagnosis.faults import POPS, PUSHES, STRING_READS, STRING_WRITES, fault_at
from anyvisor.x86_64.diagnosis.instruction import REGISTERS, Instruction, take_apart
from anyvisor.x86_64.diagnosis.scene import Scene
from anyvisor.x86_64.diagnosis.way import Way
from anyvisor.x86_64.disassembly import MAX_INSTRUCTION_BYTES

STEPS = 1000
"""As far as it is looked."""
ZEROS = bytes(16)
JUMP_OF_INDIRECT = 4
FUNCTION_INSTRUCTIONS = 512
"""As much of a function is looked at for the place that it returns from."""


@attrs.frozen
class End:
    """Where a way ends: the scene and the linear address there, and the exception that is raised, if one is seen.

    `is_empty` says that it leads to zeros, where no code is.
    """

    scene: Scene
    rip: int
    fault: Fault | None = None
    is_empty: bool = False

    @property
    def has_left_the_code(self) -> bool:
        """Whether there is nothing to execute."""
        return self.is_empty or (self.fault is not None and self.fault.address == self.fault.rip)


def look_ahead(scene: Scene) -> End | None:
    """Follow the way from the state of `scene`; None where that is not known."""
    if scene.rip is None or scene.sregs is None:
        return None
    way = Way(scene, scene.rip)
    for _ in range(STEPS):
        code = way.scene.read(way.rip, len(ZEROS))
        instruction = take_apart(code[:MAX_INSTRUCTION_BYTES], way.scene.bits)
        if code == ZEROS:
            return End(way.scene, way.rip, is_empty=True)
        needs = _needs(instruction) if instruction else set()
        if not needs & way.unknown and (fault := fault_at(way.scene, way.rip)):
            return End(way.scene, way.rip, None if _is_handled(way.scene, fault) else fault)
        at = way.rip
        if instruction is None or not _follow(way, instruction) or way.rip == at:
            return End(way.scene, at)
    return End(way.scene, way.rip)


def left_code_at(scene: Scene) -> int | None:
    """Where the guest came to that has nothing to execute; None if it has not."""
    if not scene.is_over:
        return None
    if scene.evidence.is_lost:
        return scene.ahead.rip if scene.ahead and scene.ahead.has_left_the_code else None
    if scene.rip is None:
        return None
    here, before = scene.read(scene.rip, len(ZEROS)), scene.read(max(scene.rip - len(ZEROS), 0), len(ZEROS))
    return scene.rip if not any(here) or before == ZEROS else None


def _is_handled(scene: Scene, fault: Fault) -> bool:
    """Whether the guest goes on behind the exception: it has a handler, and a stack for it."""
    return not fault.stack and not gate(scene, fault.vector).problem


def _needs(instruction: Instruction) -> set[str]:
    """The registers that decide whether the instruction faults."""
    needs = addressed_by(instruction)
    if instruction.register is not None and instruction.opcode in (0x8E, 0x0F00, 0xF6, 0xF7, MOV_TO_CONTROL):
        needs.add(REGISTERS[instruction.register])
    if instruction.opcode in PUSHES | POPS or instruction.opcode == INDIRECT:
        needs.add("rsp")
    needs |= {"rax", "rcx", "rdx"} if instruction.opcode == WRMSR else set()
    needs |= {"rsi"} if instruction.opcode in STRING_READS else set()
    return needs | ({"rdi"} if instruction.opcode in STRING_WRITES else set())


def _follow(way: Way, instruction: Instruction) -> bool:
    """Go on behind the instruction, with what it does; False where the way is not plain."""
    following = way.offset(way.rip) + instruction.length
    goes: int | None = following
    if instruction.opcode in JUMPS or instruction.opcode == CALL:
        goes = following + instruction.immediate
    elif instruction.opcode == INDIRECT and instruction.reg & 7 in (CALL_OF_INDIRECT, JUMP_OF_INDIRECT):
        goes = None if instruction.register is None else way.get(REGISTERS[instruction.register])
    elif instruction.opcode in RETURNS:
        goes = _return(way, instruction)
    elif not take_effect(way, instruction):
        return False
    if is_call(instruction):
        way.push(following)
    if goes is not None:
        way.go_to(goes)
    return goes is not None


def _return(way: Way, instruction: Instruction) -> int | None:
    """Where it returns to, None where that is not sure."""
    top = way.top
    pushed = top is not None and top in way.pushed
    goes = way.pop()
    way.move_stack(instruction.immediate)
    if top is None or pushed:
        return goes
    goes = way.scene.number(top, way.word_bytes)
    return goes if goes is not None and _is_called_from(way, goes) else None


def _is_called_from(way: Way, return_address: int) -> bool:
    """Whether a call in front of that address leads to the function that the way is in."""
    scene = way.scene
    start = scene.code_address(return_address)
    for each in calls_before(scene.read, start, scene.bits):
        most = min(FUNCTION_INSTRUCTIONS, way.looks_left) if each.opcode == CALL else 0
        function = reached(scene.read, start + each.immediate, scene.bits, calls=False, most=most)
        way.looks_left -= len(function)
        if way.rip in function:
            return True
    return False
