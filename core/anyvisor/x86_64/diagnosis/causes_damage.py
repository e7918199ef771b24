"""Causes that are a damage: code in memory that is not what was loaded there.

Some facts about code that changes. A kernel writes to its own memory from its first instructions on: to its data, and
later to its code too, where it has better instructions for this processor. So a difference is a damage only if it is
small, and where the guest has just been, before RIP and at RIP, or in code that its entry leads to. One in what
looks like code elsewhere is worth a word, since a kernel's variables may lie beside its code. Later on, what a kernel
has changed of its code is not what it dies of; an instruction is that has been changed and now raises an exception.

Nor does a kernel change a jump so that it leads to what is no code, and from there to memory that nobody filled. Where
one does that can be got to from the entry, and the guest went there, that is the reason, however long it has run, and
whatever else has changed.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator

from anyvisor.diagnosis.report import Cause
from anyvisor.memory import PAGE_BYTES
from anyvisor.x86_64.diagnosis.ahead import ZEROS, left_code_at
from anyvisor.x86_64.diagnosis.changes import Change, Entered, few_changed, physical
from anyvisor.x86_64.diagnosis.code_reached import RELATIVE, ends, target
from anyvisor.x86_64.diagnosis.faults import fault_at
from anyvisor.x86_64.diagnosis.instruction import take_apart
from anyvisor.x86_64.diagnosis.scene import Scene
from anyvisor.x86_64.disassembly import MAX_INSTRUCTION_BYTES

NEAR_BYTES = 16
"""A change this near to RIP is in the instruction, or in the one before."""
AHEAD_BYTES = 64
"""How far behind a RIP that is not the last one the guest may have got."""
DENSE = 10
"""Of the 16 bytes around one of code, as many at least are not zero."""
AT_RIP, MISLED, ELSEWHERE, LATE = 95, 94, 80, 60
"""How strongly a change speaks: where the guest died, of a jump to there, somewhere in its code, and of a guest that
has run for long.
"""
MOST_JUMPS = 8
"""As many changed jumps are looked at; one that misleads a guest is not among many."""
SOON_BYTES = 512
"""As much of what is no code may be executed before zeros."""


def damaged_code(scene: Scene) -> Iterator[Cause]:
    """Few bytes of the code are not those that were loaded: at RIP, at the entry, or, early on, anywhere in it."""
    if scene.rip is None or (scene.evidence.exit is None and left_code_at(scene) is None):
        return
    found = _near(scene, physical(scene, scene.rip)) or _first_of(scene.entered)
    if found:
        yield _cause(found, AT_RIP if scene.evidence.is_early or _explains(scene, found) else LATE)
    elif scene.entered and scene.evidence.is_early and (found := _anywhere(scene.entered)):
        yield _cause(found, ELSEWHERE)


def _near(scene: Scene, place: int | None) -> Change | None:
    """The first changed byte near a place, of a few on its page and the next."""
    blob = None if place is None else scene.blob(place)
    if blob is None or place is None:
        return None
    start, own = place & -PAGE_BYTES, scene.entered.variables if scene.entered else ()
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


def _first_of(entered: Entered | None) -> Change | None:
    """The first changed byte in an instruction that the entry leads to."""
    return Change.at(entered.scene, entered.blob, entered.changed[0]) if entered and entered.changed else None


def _anywhere(entered: Entered) -> Change | None:
    """The first changed byte of a few in all of the piece, if it is in code."""
    scene, blob = entered.scene, entered.blob
    found = few_changed(scene, blob, blob.guest_address, blob.region.end)
    changed = [at for at in found if at not in entered.variables]
    if not changed:
        return None
    around = blob.read(max(changed[0] - blob.guest_address - 8, 0), 16)
    return Change.at(scene, blob, changed[0]) if len(around) - around.count(0) >= DENSE else None


# -- jumps -------------------------------------------------------------------------------------------------------------


def misled(scene: Scene) -> Iterator[Cause]:
    """A changed jump of the guest's code leads to where it died, and no code is there."""
    died_at, entered = left_code_at(scene), scene.entered
    if died_at is None or entered is None:
        return
    for place, goes in itertools.islice(_changed_jumps(entered), MOST_JUMPS):
        linear = goes + entered.moved_bytes
        if goes not in entered.code and _leads_to(scene, linear, died_at):
            words = f"the jump leads to {scene.place(linear)} now, where no code is, and there the guest went"
            yield _cause(Change.at(scene, entered.blob, place), MISLED, words)
            return


def _changed_jumps(entered: Entered) -> Iterator[tuple[int, int]]:
    """The first changed byte of each relative jump that has changed, and where it leads now."""
    changed = {*entered.changed}
    for at, loaded in entered.code.items():
        place = next((each for each in range(at, at + loaded.length) if each in changed), None)
        if loaded.opcode not in RELATIVE or place is None:
            continue
        now = take_apart(entered.scene.guest_memory(at, MAX_INSTRUCTION_BYTES), entered.scene.entry_bits)
        goes = target(at, now) if now else None
        if goes is not None:
            yield place, goes


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


def _cause(change: Change, weight: int, *because: str) -> Cause:
    """The cause that a change is; `because` is what else speaks for it."""
    blob, address = change.blob, change.guest_address
    place = f"{address:#x} ({blob.name}+{address - blob.guest_address:#x})"
    return Cause(
        name="code-damaged",
        summary=f"the code at guest-physical {place} is not what was loaded there",
        because=(f"loaded: {change.planned.hex(' ')}", f"found:  {change.found.hex(' ')}", *because),
        remedy="find out who writes there: a device's DMA, the host, or the guest's own store through a bad pointer"
        + "; little else around it has changed" * (not because),
        weight=weight,
    )


CAUSES = (damaged_code, misled)
