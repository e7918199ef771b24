"""Causes that are a damage: code in memory that is not what was loaded there.

Some facts about code that changes. A kernel writes to its own memory from its first instructions on: to its data, and
later to its code too, where it has better instructions for this processor. So a difference is a damage only if it is
small, and where the guest has just been: before RIP, at RIP, or on the straight way from its entry on. One in what
looks like code elsewhere is worth a word, since a kernel's variables may lie beside its code.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import attrs

from anyvisor.diagnosis.report import Cause
from anyvisor.memory import PAGE_BYTES
from anyvisor.plan import Blob
from anyvisor.x86_64.diagnosis.instruction import take_apart
from anyvisor.x86_64.diagnosis.scene import Scene
from anyvisor.x86_64.disassembly import MAX_INSTRUCTION_BYTES
from anyvisor.x86_64.paging_modes import LOW_32

NEAR_BYTES = 16
"""A change this near to RIP is in the instruction, or in the one before."""
AHEAD_BYTES = 64
"""How far behind a RIP that is not the last one the guest may have got."""
STRAIGHT_BYTES = 512
"""How far the way from the entry is followed."""
INDIRECT = 0xFF
STOPS = frozenset((0xE9, 0xEB, 0xC2, 0xC3, 0x0F0B))
"""What ends it: jumps, returns, UD2. Calls come back, and a far return is how kernels load CS."""
FEW_BYTES = 16
"""As many changed bytes as are a damage, and not the work of the guest itself."""
DENSE = 10
"""Of the 16 bytes around one of code, as many at least are not zero."""
AT_RIP, ELSEWHERE, LATE = 95, 80, 60
"""How strongly a change speaks: where the guest died, somewhere in its code, and of a guest that has run for long."""


@attrs.frozen
class Change:
    """A changed byte: the piece, the byte's guest-physical address, the planned bytes from it on, and those found."""

    blob: Blob
    guest_address: int
    planned: bytes
    found: bytes


def damaged_code(scene: Scene) -> Iterator[Cause]:
    """Few bytes of the code are not those that were loaded: at RIP, at the entry, or, early on, anywhere in it."""
    if scene.rip is None or scene.evidence.exit is None:
        return
    for address in (scene.rip, scene.entry):
        place = _physical(scene, address)
        found = _near(scene, place, _reach(scene, place, is_entry=address == scene.entry))
        if found:
            yield _damaged(found, AT_RIP if scene.evidence.is_early else LATE)
            return
    if scene.evidence.is_early and (found := _anywhere(scene, _physical(scene, scene.entry))):
        yield _damaged(found, ELSEWHERE)


def _physical(scene: Scene, address: int | None) -> int | None:
    """Where a linear address leads; of the entry by itself where the page tables do not say any more."""
    if address is None:
        return None
    place = scene.walk(address).guest_address
    return address & LOW_32 if place is None and address == scene.entry else place


def _reach(scene: Scene, place: int | None, *, is_entry: bool) -> int:
    """How many bytes from a place on the guest has executed, or was about to."""
    if place is None or (scene.evidence.is_lost and not is_entry):
        return AHEAD_BYTES
    died_at = _physical(scene, scene.rip)
    if is_entry and (scene.evidence.is_lost or place != died_at):
        return _straight(scene, place)
    found = take_apart(scene.guest_memory(place, MAX_INSTRUCTION_BYTES), scene.bits)
    return found.length if found else MAX_INSTRUCTION_BYTES


def _straight(scene: Scene, entry: int) -> int:
    """The length of the code that was loaded at the entry, up to where the way leads elsewhere."""
    blob, length = scene.blob(entry), 0
    while blob and length < STRAIGHT_BYTES:
        found = take_apart(blob.read(entry + length - blob.guest_address, MAX_INSTRUCTION_BYTES), scene.bits)
        if found is None:
            break
        length += found.length
        if found.opcode in STOPS or (found.opcode == INDIRECT and found.reg & 7 in (4, 5)):
            break
    return length


def _near(scene: Scene, place: int | None, ahead: int) -> Change | None:
    """The first changed byte near a place, of a few on its page and the next."""
    blob = None if place is None else scene.blob(place)
    if blob is None or place is None:
        return None
    start = place & -PAGE_BYTES
    changed = list(itertools.islice(_changed(scene, blob, start, start + 2 * PAGE_BYTES), FEW_BYTES + 1))
    near = [at for at in changed if -NEAR_BYTES <= at - place < ahead]
    return _change(scene, blob, near[0]) if near and len(changed) <= FEW_BYTES else None


def _anywhere(scene: Scene, entry: int | None) -> Change | None:
    """The first changed byte of a few in all of the piece that the guest was entered in, if it is in code."""
    blob = None if entry is None else scene.blob(entry)
    if blob is None:
        return None
    every = _changed(scene, blob, blob.guest_address, blob.region.end)
    changed = list(itertools.islice(every, FEW_BYTES + 1))
    if not changed or len(changed) > FEW_BYTES:
        return None
    offset = changed[0] - blob.guest_address
    around = blob.read(max(offset - 8, 0), 16)
    return _change(scene, blob, changed[0]) if len(around) - around.count(0) >= DENSE else None


def _changed(scene: Scene, blob: Blob, start: int, end: int) -> Iterator[int]:
    """The guest-physical addresses of a piece's bytes that are not as they were loaded."""
    start, end = max(start, blob.guest_address), min(end, blob.guest_address + len(blob.content))
    planned = blob.read(start - blob.guest_address, max(end - start, 0))
    found = scene.guest_memory(start, len(planned))
    for at in range(0, len(found), PAGE_BYTES):
        one, other = planned[at : at + PAGE_BYTES], found[at : at + PAGE_BYTES]
        if one != other:
            yield from (
                start + at + index for index, pair in enumerate(zip(one, other, strict=True)) if len({*pair}) > 1
            )


def _change(scene: Scene, blob: Blob, address: int) -> Change:
    return Change(blob, address, blob.read(address - blob.guest_address, 8), scene.guest_memory(address, 8))


def _damaged(change: Change, weight: int) -> Cause:
    blob, address = change.blob, change.guest_address
    place = f"{address:#x} ({blob.name}+{address - blob.guest_address:#x})"
    return Cause(
        name="code-damaged",
        summary=f"the code at guest-physical {place} is not what was loaded there",
        because=(f"loaded: {change.planned.hex(' ')}", f"found:  {change.found.hex(' ')}"),
        remedy="find out who writes there: a device's DMA, the host, or the guest's own store through a bad pointer; "
        "little else around it has changed",
        weight=weight,
    )


CAUSES = (damaged_code,)
