"""The segments of a core file: which of its bytes are which memory, by physical and by virtual address.

Some facts about how cores are read. A PT_LOAD header says that bytes of the file are the memory at a virtual address
(p_vaddr, which gdb goes by) and at a physical one (p_paddr, which `crash` and drgn go by), and any number of headers
may speak of the same bytes. So RAM is in the file once, and there is a header for each run of virtual addresses that
the page tables map, and one for each region of RAM. The last have to have a virtual address as well. Without paging it
is the physical one; else it is in a window where hardly any processor has addresses, so that no address that a guest
uses leads there, and gdb can still read physical memory: `x/4x 0x4000000000000000 + address` on x86_64, and
`x/4x 0xffffffffULL + address` on i386 (only as far as the first region goes, in a 32-bit file).
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence

import attrs

from anyvisor.errors import GuestMemoryError
from anyvisor.memory import Region
from anyvisor.states import VcpuState
from anyvisor.x86_64.elf_core.mapped_runs import Mappings, Run
from anyvisor.x86_64.page_walk import Read
from anyvisor.x86_64.paging_modes import paging_of
from anyvisor.x86_64.state import Sregs

MAX_SEGMENTS = 60_000
"""An ELF file has at most 65534, unless its header resorts to a trick."""
TOO_MANY = f"the page tables map more than {MAX_SEGMENTS} runs of addresses: the smallest are left out"


@attrs.frozen
class Segment:
    """A PT_LOAD header: `size_bytes` of the file, from `file_offset` on, are at both addresses."""

    virtual_address: int
    physical_address: int
    file_offset: int
    size_bytes: int


@attrs.frozen
class Piece:
    """A region of RAM: its bytes, and where they are in the file, counted from the first byte of RAM there."""

    region: Region
    view: memoryview
    file_offset: int


def pieces(regions: Iterable[tuple[Region, memoryview]]) -> list[Piece]:
    """RAM in the order of its addresses, one region behind the other in the file."""
    ordered = sorted(regions, key=lambda each: each[0].start)
    offsets = itertools.accumulate((region.size_bytes for region, _ in ordered), initial=0)
    return [Piece(region, view, offset) for (region, view), offset in zip(ordered, offsets, strict=False)]


def reader(ram: Sequence[Piece]) -> Read:
    """Reads guest memory; GuestMemoryError outside of one region."""

    def read(guest_address: int, size_bytes: int) -> bytes:
        for piece in ram:
            if piece.region.contains(guest_address, size_bytes):
                offset = guest_address - piece.region.start
                return bytes(piece.view[offset : offset + size_bytes])
        raise GuestMemoryError(f"no RAM at {guest_address:#x}")

    return read


def load_segments(
    ram: Sequence[Piece], vcpus: Iterable[Mapping[type[VcpuState], VcpuState]], physical_window: int
) -> tuple[list[Segment], tuple[str, ...]]:
    """The headers, those of physical memory first, and what is left out, a sentence each.

    Physical memory is at virtual addresses from `physical_window` on, unless no vCPU has its paging on. Where two
    vCPUs have different memory at a virtual address, it is the first one's that counts.
    """
    registers = [sregs for states in vcpus if isinstance(sregs := states.get(Sregs), Sregs)]
    walk = Mappings(reader(ram))
    mapped: list[Run] = []
    for cr3, paging in dict.fromkeys((sregs.cr3, paging_of(sregs)) for sregs in registers):
        if paging:
            mapped = sorted([*mapped, *without(walk.runs(paging, cr3), mapped)])
    virtual = [segment for run in mapped for segment in _in_ram(run, ram)]
    window = physical_window if any(sregs.cr0.pg for sregs in registers) else 0
    physical = [_segment(piece, piece.region.start + window, piece.region) for piece in ram]
    too_many = (TOO_MANY,) if len(virtual) > MAX_SEGMENTS else ()
    return [*physical, *_biggest(virtual)], (*sorted(walk.left_out), *too_many)


def _biggest(found: list[Segment]) -> list[Segment]:
    """As many segments as there may be, in their order; of those of one size the upper ones."""
    if len(found) <= MAX_SEGMENTS:
        return found
    ordered = sorted(found, key=lambda each: (each.size_bytes, each.virtual_address))
    return sorted(ordered[-MAX_SEGMENTS:], key=lambda each: each.virtual_address)


def without(runs: Iterable[Run], others: Sequence[Run]) -> Iterator[Run]:
    """What of `runs` is at no address of `others`; both are in order, and neither has an address twice."""
    upcoming = iter(others)
    other = next(upcoming, None)
    for run in runs:
        start = run.start
        while other and other.start < run.end:
            if start < other.start:
                yield _part(run, start, other.start)
            start = max(start, min(other.end, run.end))
            if other.end > run.end:
                break
            other = next(upcoming, None)
        if start < run.end:
            yield _part(run, start, run.end)


def _part(run: Run, start: int, end: int) -> Run:
    return Run(start, run.target + start - run.start, end - start)


def _in_ram(run: Run, ram: Iterable[Piece]) -> Iterator[Segment]:
    """A run as far as it leads to RAM, and not to devices or nowhere."""
    for piece in ram:
        start = max(run.target, piece.region.start)
        end = min(run.target + run.size_bytes, piece.region.end)
        if start < end:
            yield _segment(piece, run.start + start - run.target, Region(start, end - start))


def _segment(piece: Piece, virtual_address: int, region: Region) -> Segment:
    offset = piece.file_offset + region.start - piece.region.start
    return Segment(virtual_address, region.start, offset, region.size_bytes)
