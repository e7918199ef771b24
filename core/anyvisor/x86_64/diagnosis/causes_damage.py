"""Causes that are a damage: code in memory that is not what was loaded there.

Some facts about code that changes. A kernel writes to its own memory from its first instructions on: to its data, and
later to its code too, where it has better instructions for this processor. So a difference is a damage only if it is
small, and where the guest has just been, before RIP and at RIP, or in code that its entry leads to. One in what
looks like code elsewhere is worth a word, since a kernel's variables may lie beside its code. Later on, what a kernel
has changed of its code is not what it dies of; an instruction is that has been changed and now raises an exception.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from anyvisor.diagnosis.report import Cause
from anyvisor.memory import PAGE_BYTES
from anyvisor.plan import Blob
from anyvisor.x86_64.diagnosis.changes import (
    Change,
    changed_in,
    code_damaged,
    few_changed,
    left_code_at,
    own_variables,
    physical,
    planned_code,
)
from anyvisor.x86_64.diagnosis.faults import fault_at
from anyvisor.x86_64.diagnosis.instruction import Instruction, take_apart
from anyvisor.x86_64.diagnosis.scene import Scene
from anyvisor.x86_64.disassembly import MAX_INSTRUCTION_BYTES

NEAR_BYTES = 16
"""A change this near to RIP is in the instruction, or in the one before."""
AHEAD_BYTES = 64
"""How far behind a RIP that is not the last one the guest may have got."""
DENSE = 10
"""Of the 16 bytes around one of code, as many at least are not zero."""
AT_RIP, ELSEWHERE, LATE = 95, 80, 60
"""How strongly a change speaks: where the guest died, somewhere in its code, and of a guest that has run for long."""


def damaged_code(scene: Scene) -> Iterator[Cause]:
    """Few bytes of the code are not those that were loaded: at RIP, at the entry, or, early on, anywhere in it."""
    if scene.rip is None or (scene.evidence.exit is None and left_code_at(scene) is None):
        return
    entry = physical(scene, scene.entry)
    blob = None if entry is None else scene.blob(entry)
    code = planned_code(blob, entry, scene.entry_bits) if blob and entry is not None else {}
    own = own_variables(code)
    found = _near(scene, physical(scene, scene.rip), own) or (_reached(scene, blob, code, own) if blob else None)
    if found:
        yield code_damaged(found, AT_RIP if scene.evidence.is_early or _explains(scene, found) else LATE)
    elif blob and scene.evidence.is_early and (found := _anywhere(scene, blob, own)):
        yield code_damaged(found, ELSEWHERE)


def _near(scene: Scene, place: int | None, own: set[int]) -> Change | None:
    """The first changed byte near a place, of a few on its page and the next."""
    blob = None if place is None else scene.blob(place)
    if blob is None or place is None:
        return None
    start = place & -PAGE_BYTES
    changed = few_changed(scene, blob, start, start + 2 * PAGE_BYTES)
    near = (at for at in changed if -NEAR_BYTES <= at - place < _ahead(scene, place) and at not in own)
    return next((Change.at(scene, blob, at) for at in near), None)


def _explains(scene: Scene, change: Change) -> bool:
    """Whether the instruction at RIP has changed, and raises an exception that it would not raise as it was loaded."""
    place = None if scene.evidence.is_lost else physical(scene, scene.rip)
    if place is None or scene.rip is None or not 0 <= change.guest_address - place < _ahead(scene, place):
        return False
    before = scene.as_loaded(place, MAX_INSTRUCTION_BYTES)
    return fault_at(scene, scene.rip) is not None and fault_at(before, scene.rip) is None


def _ahead(scene: Scene, place: int) -> int:
    """How many bytes from a place on the guest has executed, or was about to."""
    if scene.evidence.is_lost:
        return AHEAD_BYTES
    found = take_apart(scene.guest_memory(place, MAX_INSTRUCTION_BYTES), scene.bits)
    return found.length if found else MAX_INSTRUCTION_BYTES


def _reached(scene: Scene, blob: Blob, code: Mapping[int, Instruction], own: set[int]) -> Change | None:
    """The first changed byte, of a few on its page, in an instruction that the entry leads to."""
    executed = {at + offset for at, each in code.items() for offset in range(each.length)} - own
    changed = (at for page in changed_in(scene, blob, code) for at in page)
    return next((Change.at(scene, blob, at) for at in changed if at in executed), None)


def _anywhere(scene: Scene, blob: Blob, own: set[int]) -> Change | None:
    """The first changed byte of a few in all of the piece that the guest was entered in, if it is in code."""
    changed = [at for at in few_changed(scene, blob, blob.guest_address, blob.region.end) if at not in own]
    if not changed:
        return None
    around = blob.read(max(changed[0] - blob.guest_address - 8, 0), 16)
    return Change.at(scene, blob, changed[0]) if len(around) - around.count(0) >= DENSE else None


CAUSES = (damaged_code,)
