"""Much memory of which little is used: what of it the host holds, and how it is written to a file with holes.

Some facts about memory that was never touched. The host has no page for it until somebody reads it, and then it has:
an entry of a page table for a private mapping, a whole page of RAM for a shared one (a memfd). So whoever looks through
all of a guest's RAM asks first what is there. For a private mapping /proc/self/pagemap has a word for each page, whose
two highest bits say that the page is in RAM or swapped out; a memfd is a file with holes, which `lseek` finds. Where
neither can be asked everything is looked at, which is slower and not wrong.
"""

from __future__ import annotations

import errno
import itertools
import mmap
import os
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import BinaryIO

from anyvisor.memory import KIB, PAGE_BYTES, RamRegion

PAGEMAP = Path("/proc/self/pagemap")
ENTRY_BYTES = 8
HELD = re.compile(rb"[\x40-\xff]+")
"""The highest bytes of neighbouring entries with bit 62 (swapped out) or 63 (in RAM)."""
CHUNK_BYTES = 64 * KIB
"""How much is looked at in one go; it fits into a processor's cache."""
ENTRIES = 512 * KIB
"""How many words of the page map are read in one go."""
ZEROS = bytes(CHUNK_BYTES)

Extent = tuple[int, int]
"""The offset of the first byte, and of that after the last."""


def touched(ram: RamRegion) -> list[Extent]:
    """The parts of a region that may hold something, as offsets in it and in their order; the rest is zeros."""
    size_bytes = ram.region.size_bytes
    try:
        return _data_of_file(ram.fd, size_bytes) if ram.fd >= 0 else _held(ram.host_address, size_bytes)
    except (OSError, AttributeError):  # not Linux, or no /proc
        return [(0, size_bytes)]


def _data_of_file(fd: int, size_bytes: int) -> list[Extent]:
    found: list[Extent] = []
    end = 0
    while end < size_bytes:
        try:
            start = os.lseek(fd, end, os.SEEK_DATA)
        except OSError as error:
            if error.errno == errno.ENXIO:  # no data from there on
                break
            raise
        end = os.lseek(fd, start, os.SEEK_HOLE)
        found.append((start, end))
    return found


def _held(host_address: int, size_bytes: int) -> list[Extent]:
    """What of a private mapping is in RAM or swapped out."""
    page = mmap.PAGESIZE
    first, count = host_address // page, size_bytes // page
    found: list[Extent] = []
    with PAGEMAP.open("rb", buffering=0) as file:
        for start in range(0, count, ENTRIES):
            wanted_bytes = min(ENTRIES, count - start) * ENTRY_BYTES
            file.seek((first + start) * ENTRY_BYTES)
            entries = file.read(wanted_bytes)
            if len(entries) < wanted_bytes:
                raise OSError(errno.EIO, "incomplete", PAGEMAP)
            runs = HELD.finditer(entries[ENTRY_BYTES - 1 :: ENTRY_BYTES])
            found += (((start + run.start()) * page, (start + run.end()) * page) for run in runs)
    return found


def write_sparse(file: BinaryIO, offset: int, view: memoryview, extents: Iterable[Extent]) -> int:
    """Write the extents of `view`, which goes to `offset`, without pages of zeros; how many bytes that were."""
    total_bytes = 0
    for extent in extents:
        for start, data in _not_zero(view, extent):
            file.seek(offset + start)
            file.write(data)
            total_bytes += len(data)
    return total_bytes


def _not_zero(view: memoryview, extent: Extent) -> Iterator[tuple[int, bytes]]:
    """Runs of pages that are not all zeros, with their offsets."""
    for start in range(*extent, CHUNK_BYTES):
        chunk = bytes(view[start : min(start + CHUNK_BYTES, extent[1])])
        if chunk == ZEROS[: len(chunk)]:
            continue
        pages = (chunk[at : at + PAGE_BYTES] for at in range(0, len(chunk), PAGE_BYTES))
        at = 0
        for is_used, run in itertools.groupby(pages, key=lambda page: page != ZEROS[: len(page)]):
            data = b"".join(run)
            if is_used:
                yield start + at, data
            at += len(data)
