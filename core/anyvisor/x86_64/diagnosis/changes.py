"""What of the pieces of a plan is not in memory as it was loaded."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Iterable, Iterator, Mapping

import attrs

from anyvisor.diagnosis.report import Cause
from anyvisor.memory import PAGE_BYTES
from anyvisor.plan import Blob
from anyvisor.x86_64.diagnosis.causes_memory import has_died
from anyvisor.x86_64.diagnosis.code_reached import reached
from anyvisor.x86_64.diagnosis.faults import WRITES
from anyvisor.x86_64.diagnosis.instruction import Instruction
from anyvisor.x86_64.diagnosis.scene import Scene
from anyvisor.x86_64.disassembly import MAX_INSTRUCTION_BYTES
from anyvisor.x86_64.paging_modes import LOW_32

FEW_BYTES = 16
"""As many changed bytes as are a damage, and not the work of the guest itself."""
SHOWN_BYTES = 8
ZEROS = bytes(16)
COMPARE = 7


@attrs.frozen
class Change:
    """A changed byte: the piece, the byte's guest-physical address, the planned bytes from it on, and those found."""

    blob: Blob
    guest_address: int
    planned: bytes
    found: bytes

    @classmethod
    def at(cls, scene: Scene, blob: Blob, address: int) -> Change:
        """The change of a piece at a guest-physical address."""
        planned = blob.read(address - blob.guest_address, SHOWN_BYTES)
        return cls(blob, address, planned, scene.guest_memory(address, SHOWN_BYTES))


def planned_code(blob: Blob, entry: int, bits: int) -> dict[int, Instruction]:
    """The instructions of a piece that its entry leads to, by their guest-physical addresses, as they were loaded."""

    @functools.cache
    def page(offset: int) -> bytes:
        """A page of it with what an instruction may have on the next: its content may be in a file."""
        return blob.read(offset, PAGE_BYTES + MAX_INSTRUCTION_BYTES) if 0 <= offset < blob.size_bytes else b""

    def read(address: int, size_bytes: int) -> bytes:
        offset = address - blob.guest_address
        return page(offset & -PAGE_BYTES)[offset % PAGE_BYTES :][:size_bytes]

    return reached(read, entry, bits)


def changed_in(scene: Scene, blob: Blob, code: Iterable[int]) -> Iterator[list[int]]:
    """The addresses of changed bytes on the pages of that code, a list for each; none of a page with many."""
    for page in sorted({at & -PAGE_BYTES for at in code}):
        yield few_changed(scene, blob, page, page + PAGE_BYTES)


def few_changed(scene: Scene, blob: Blob, start: int, end: int) -> list[int]:
    """The addresses of a piece's changed bytes in a range; none if there are many."""
    changed = list(itertools.islice(changed_places(scene, blob, start, end), FEW_BYTES + 1))
    return changed if len(changed) <= FEW_BYTES else []


def own_variables(code: Mapping[int, Instruction]) -> set[int]:
    """The addresses that instructions of this code write to, as far as they say themselves where that is."""
    found: set[int] = set()
    for at, each in code.items():
        if each.memory and each.memory.registers == ("rip",) and _stores(each):
            start = at + each.memory.displacement
            found.update(range(start, start + (1 if not each.opcode & 1 else each.operand_bytes)))
    return found


def _stores(instruction: Instruction) -> bool:
    """Whether it changes the memory that it names: a move, or arithmetic."""
    opcode, reg = instruction.opcode, instruction.reg & 7
    arithmetic = (opcode < 0x38 and opcode & 7 < 2) or (opcode in (0x80, 0x81, 0x83) and reg != COMPARE)
    return opcode in WRITES or arithmetic or (opcode in (0xFE, 0xFF) and reg < 2)


def physical(scene: Scene, address: int | None) -> int | None:
    """Where a linear address leads; of the entry by itself where the page tables do not say any more."""
    if address is None:
        return None
    place = scene.walk(address).guest_address
    return address & LOW_32 if place is None and address == scene.entry else place


def left_code_at(scene: Scene) -> int | None:
    """Where the guest came to that has nothing to execute; None if it has not."""
    if not (has_died(scene.evidence.exit) or scene.evidence.rips):
        return None
    if scene.evidence.is_lost:
        return scene.ahead.rip if scene.ahead and scene.ahead.has_left_the_code else None
    if scene.rip is None:
        return None
    here, before = scene.read(scene.rip, len(ZEROS)), scene.read(max(scene.rip - len(ZEROS), 0), len(ZEROS))
    return scene.rip if not any(here) or before == ZEROS else None


def changed_places(scene: Scene, blob: Blob, start: int, end: int) -> Iterator[int]:
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


def code_damaged(change: Change, weight: int, *because: str) -> Cause:
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
