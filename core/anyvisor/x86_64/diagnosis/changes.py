"""What of the pieces of a plan is not in memory as it was loaded."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Iterator

import attrs

from anyvisor.memory import PAGE_BYTES
from anyvisor.plan import Blob
from anyvisor.x86_64.diagnosis.code_reached import reached
from anyvisor.x86_64.diagnosis.faults import writes_memory
from anyvisor.x86_64.diagnosis.instruction import Instruction
from anyvisor.x86_64.diagnosis.scene import Scene
from anyvisor.x86_64.disassembly import MAX_INSTRUCTION_BYTES
from anyvisor.x86_64.paging_modes import LOW_32

FEW_BYTES = 16
"""As many changed bytes as are a damage, and not the work of the guest itself."""
SHOWN_BYTES = 8
STORES_OF_RAX = (0xA2, 0xA3)
"""Their immediate is the address."""


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


@attrs.frozen(slots=False)
class Entered:
    """The piece that a vCPU is entered in. `entry` is guest-physical, as all addresses here; `linear` is it as RIP."""

    scene: Scene
    blob: Blob
    entry: int
    linear: int

    @classmethod
    def of(cls, scene: Scene) -> Entered | None:
        """That of a guest; None where the plan has no piece there."""
        linear, entry = scene.entry, physical(scene, scene.entry)
        blob = None if entry is None else scene.blob(entry)
        return None if blob is None or entry is None or linear is None else cls(scene, blob, entry, linear)

    @property
    def moved_bytes(self) -> int:
        """How much higher linear addresses of it are."""
        return self.linear - self.entry

    @functools.cached_property
    def code(self) -> dict[int, Instruction]:
        """The instructions that the entry leads to, by their addresses, as they were loaded."""

        @functools.cache
        def page(offset: int) -> bytes:
            """A page with what an instruction may have on the next: the content may be in a file."""
            blob = self.blob
            return blob.read(offset, PAGE_BYTES + MAX_INSTRUCTION_BYTES) if 0 <= offset < blob.size_bytes else b""

        def read(address: int, size_bytes: int) -> bytes:
            offset = address - self.blob.guest_address
            return page(offset & -PAGE_BYTES)[offset % PAGE_BYTES :][:size_bytes]

        return reached(read, self.entry, self.scene.entry_bits)

    @functools.cached_property
    def variables(self) -> set[int]:
        """The bytes that this code writes to, as far as its instructions say themselves where that is."""
        found: set[int] = set()
        for at, each in self.code.items():
            if (start := self._stored_at(at, each)) is not None:
                found.update(range(start, start + (each.operand_bytes if each.opcode & 1 else 1)))
        return found

    def _stored_at(self, at: int, instruction: Instruction) -> int | None:
        memory = instruction.memory
        ds = self.scene.planned_sregs.get("ds")
        base = (ds.base if ds and self.scene.entry_bits < 64 else 0) - self.moved_bytes
        if instruction.opcode in STORES_OF_RAX:
            return base + instruction.immediate
        if memory is None or not writes_memory(instruction):
            return None
        if memory.registers == ("rip",):
            return at + memory.displacement
        is_absolute = not memory.registers and not memory.scaled and memory.segment == "ds"
        return base + memory.displacement if is_absolute else None

    @functools.cached_property
    def changed(self) -> list[int]:
        """The bytes of this code that have changed, but for its variables; none of a page where many have."""
        pages = sorted({at & -PAGE_BYTES for at in self.code})
        changed = [at for page in pages for at in few_changed(self.scene, self.blob, page, page + PAGE_BYTES)]
        executed = {at + offset for at, each in self.code.items() for offset in range(each.length)} if changed else ()
        return [at for at in changed if at in executed and at not in self.variables]


def physical(scene: Scene, address: int | None) -> int | None:
    """Where a linear address leads; of the entry by itself where the page tables do not say any more."""
    if address is None:
        return None
    place = scene.walk(address).guest_address
    return address & LOW_32 if place is None and address == scene.entry else place


def few_changed(scene: Scene, blob: Blob, start: int, end: int) -> list[int]:
    """The guest-physical addresses of a piece's changed bytes in a range; none if there are many."""
    changed = list(itertools.islice(_changed(scene, blob, start, end), FEW_BYTES + 1))
    return changed if len(changed) <= FEW_BYTES else []


def _changed(scene: Scene, blob: Blob, start: int, end: int) -> Iterator[int]:
    start, end = max(start, blob.guest_address), min(end, blob.guest_address + len(blob.content))
    planned = blob.read(start - blob.guest_address, max(end - start, 0))
    found = scene.guest_memory(start, len(planned))
    for at in range(0, len(found), PAGE_BYTES):
        one, other = planned[at : at + PAGE_BYTES], found[at : at + PAGE_BYTES]
        if one != other:
            yield from (
                start + at + index for index, pair in enumerate(zip(one, other, strict=True)) if len({*pair}) > 1
            )
