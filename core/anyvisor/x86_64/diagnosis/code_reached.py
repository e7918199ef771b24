"""The code that a processor can get to from a place, whatever it finds there: all jumps are followed, none is judged.

Some facts about telling code from data. Nothing marks either, and a kernel's variables may lie between its functions.
But what relative jumps and calls lead to from the entry, both ways at each branch, is code for certain, as long as the
guest is what it was built to be. What is called through a pointer is not found in this way. Behind HLT there may be
nothing, and zeros are no code.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from anyvisor.x86_64.diagnosis.instruction import Instruction, take_apart
from anyvisor.x86_64.disassembly import MAX_INSTRUCTION_BYTES
from anyvisor.x86_64.paging_modes import LOW_64

MOST_INSTRUCTIONS = 2048
CALL, JUMPS, RETURNS = 0xE8, frozenset((0xE9, 0xEB)), frozenset((0xC2, 0xC3))
BRANCHES = frozenset((*range(0x70, 0x80), *range(0xE0, 0xE4), *range(0x0F80, 0x0F90)))
"""Relative jumps that may not be taken."""
RELATIVE = BRANCHES | JUMPS | {CALL}
INDIRECT, UNDEFINED, FAR_JUMP, HALT, ZEROS = 0xFF, 0x0F0B, 0xEA, 0xF4, 0x00
CALL_OF_INDIRECT, JUMPS_OF_INDIRECT = 2, (4, 5)
"""A far return is not among what ends a way: it is how kernels load CS, and goes on close behind most often."""

Read = Callable[[int, int], bytes]
"""`read(address, size_bytes) -> bytes`: as many as there are."""


def reached(
    read: Read, start: int, bits: int, *, calls: bool = True, most: int = MOST_INSTRUCTIONS
) -> dict[int, Instruction]:
    """The instructions by their addresses, from the one at `start` on; `calls` says whether those are entered."""
    found: dict[int, Instruction] = {}
    ahead = [start]
    while ahead and len(found) < most:
        at = ahead.pop()
        while at not in found and len(found) < most:
            instruction = take_apart(read(at, MAX_INSTRUCTION_BYTES), bits)
            if instruction is None or instruction.opcode == ZEROS:
                break
            found[at] = instruction
            if (goes := target(at, instruction)) is not None and (calls or instruction.opcode != CALL):
                ahead.append(goes)
            if ends(instruction):
                break
            at += instruction.length
    return found


def target(at: int, instruction: Instruction) -> int | None:
    """Where a relative jump or call at an address leads; None for another instruction."""
    return at + instruction.length + instruction.immediate & LOW_64 if instruction.opcode in RELATIVE else None


def ends(instruction: Instruction) -> bool:
    """Whether the processor never goes on behind it."""
    jumps_away = instruction.opcode == INDIRECT and instruction.reg & 7 in JUMPS_OF_INDIRECT
    return jumps_away or instruction.opcode in JUMPS | RETURNS | {UNDEFINED, FAR_JUMP, HALT}


def calls_before(read: Read, address: int, bits: int) -> Iterator[Instruction]:
    """The calls that may end where `address` is: it is a return address if there is one."""
    for length in range(2, 8):
        found = take_apart(read(address - length, length), bits) if address >= length else None
        if found and found.length == length and is_call(found):
            yield found


def is_call(instruction: Instruction) -> bool:
    """Whether it is a near call."""
    return instruction.opcode == CALL or (instruction.opcode == INDIRECT and instruction.reg & 7 == CALL_OF_INDIRECT)
