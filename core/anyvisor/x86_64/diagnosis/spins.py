"""A guest that spins: it turns in a loop of a few bytes.

Some facts about loops without exits. One ends by what it computes, by another processor that writes to memory, or by
the handler of an interrupt, of which there is none with RFLAGS.IF clear.
"""

from __future__ import annotations

from anyvisor.diagnosis.report import Cause
from anyvisor.x86_64.diagnosis.code_reached import BRANCHES, JUMPS
from anyvisor.x86_64.diagnosis.instruction import take_apart
from anyvisor.x86_64.diagnosis.scene import Scene
from anyvisor.x86_64.disassembly import MAX_INSTRUCTION_BYTES, disassemble

LOOP_BYTES = 64
"""The most code that counts as a small loop."""
SHOWN_INSTRUCTIONS = 12


def spinning(scene: Scene) -> Cause | None:
    """A guest that was watched: its RIP stays in a few bytes, and nothing leaves it."""
    if scene.regs is None or not scene.seen_at or scene.evidence.watched_exits != 0:
        return None
    first, last = min(scene.seen_at), max(scene.seen_at)
    loop = _loop(scene, first, last) if last - first < LOOP_BYTES else None
    if loop is None:
        return None
    start, end = loop
    decides = _decides(scene, start, end)
    interrupts = scene.regs.rflags.interrupt_enable
    others = len(scene.evidence.plan.vcpus) > 1
    possible = {"what it looks at or computes": decides, "an interrupt's handler": interrupts, "another vCPU": others}
    enders = " or ".join(words for words, can in possible.items() if can)
    what = f"a loop of {end - start} bytes at {scene.place(start)}, with interrupts {'on' if interrupts else 'off'}"
    looks = f"{len(scene.seen_at)} looks found RIP there, and nothing left the guest meanwhile"
    code = disassemble(scene.read(start, end - start), start, scene.bits)[:SHOWN_INSTRUCTIONS]
    return Cause(
        "spinning",
        f"vCPU {scene.evidence.vcpu} spins in {what}: {f'only {enders}' if enders else 'nothing'} can end it",
        (looks, *map(str, code)),
        "see what it waits for in memory" if enders else "much code jumps to itself when it gives up: see who called",
        weight=40 if interrupts else 80 if decides else 90,
    )


def _decides(scene: Scene, start: int, end: int) -> bool:
    """Whether a loop has a jump that depends on something."""
    code, at = scene.read(start, end - start), 0
    while found := take_apart(code[at:], scene.bits):
        at += found.length
        if found.opcode in BRANCHES:
            return True
    return False


def _loop(scene: Scene, first: int, last: int) -> tuple[int, int] | None:
    """Where the loop begins and ends that RIP was seen in from `first` to `last`.

    It ends with the jump back to `first` or before it. Where none is found it is what RIP was seen in; None for a
    single place, since an emulated processor may stop only where a block of code begins, and that may be a large one.
    """
    code = scene.read(first, LOOP_BYTES + MAX_INSTRUCTION_BYTES)
    at, end = first, last + 1
    while at - first < LOOP_BYTES and (found := take_apart(code[at - first :], scene.bits)):
        at += found.length
        if at > last and first - LOOP_BYTES < at + found.immediate <= first and found.opcode in BRANCHES | JUMPS:
            return at + found.immediate, at
        end = at if at - found.length == last else end
    return (first, end) if first < last else None
