"""The cause that is a damaged jump: it leads to where no code is, and there the guest has died.

Some facts about jumps that have changed. A kernel changes some of its own: where it has better code for this processor,
and where a feature is switched on. But none leads to what is no code, and from there to memory that nobody filled. So
where one that can be got to from the entry does, and the guest went there, that is the reason, however long it has run,
and whatever else has changed.
"""

from __future__ import annotations

from collections.abc import Iterator

from anyvisor.diagnosis.report import Cause
from anyvisor.x86_64.diagnosis.changes import (
    ZEROS,
    Change,
    changed_in,
    code_damaged,
    left_code_at,
    physical,
    planned_code,
)
from anyvisor.x86_64.diagnosis.code_reached import RELATIVE, ends, target
from anyvisor.x86_64.diagnosis.instruction import take_apart
from anyvisor.x86_64.diagnosis.scene import Scene
from anyvisor.x86_64.disassembly import MAX_INSTRUCTION_BYTES

MISLED = 94
SOON_BYTES = 512
"""As much of what is no code may be executed before zeros."""


def misled(scene: Scene) -> Iterator[Cause]:
    """A changed jump of the guest's code leads to where it died, and no code is there."""
    died_at, entry = left_code_at(scene), physical(scene, scene.entry)
    blob = None if entry is None else scene.blob(entry)
    if died_at is None or blob is None or entry is None or scene.entry is None:
        return
    code = planned_code(blob, entry, scene.entry_bits)
    changed = {at for page in changed_in(scene, blob, code) for at in page}
    for at, instruction in code.items():
        place = next((each for each in range(at, at + instruction.length) if each in changed), None)
        if instruction.opcode not in RELATIVE or place is None:
            continue
        now = take_apart(scene.guest_memory(at, MAX_INSTRUCTION_BYTES), scene.entry_bits)
        goes = target(at, now) if now else None
        moved = scene.entry - entry
        if goes is not None and goes not in code and _leads_to(scene, goes + moved, died_at):
            words = f"the jump leads to {scene.place(goes + moved)} now, where no code is, and there the guest went"
            yield code_damaged(Change.at(scene, blob, place), MISLED, words)
            return


def _leads_to(scene: Scene, goes: int, died_at: int) -> bool:
    """Whether a jump to there ends where the guest died: at once, or in zeros that begin there or soon."""
    if not scene.read(goes, 1):
        return goes == died_at
    at = goes
    while at <= min(goes + SOON_BYTES, died_at):
        code = scene.read(at, len(ZEROS))
        if code == ZEROS:
            return True
        instruction = take_apart(code[:MAX_INSTRUCTION_BYTES], scene.entry_bits)
        if instruction is None or ends(instruction):
            return False
        at += instruction.length
    return False


CAUSES = (misled,)
