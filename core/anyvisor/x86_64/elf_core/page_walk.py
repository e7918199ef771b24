"""The virtual addresses that a processor's page tables map, as runs, whatever its paging mode.

Some facts about the paging modes (SDM Vol. 3, 4.1.1). Without CR0.PG a linear address is a physical one. With it, there
are tables of 512 entries of 8 bytes: in long mode four levels of them, or five with CR4.LA57; outside of long mode,
with CR4.PAE, three, the highest of which has four entries. Without PAE there are two levels of 1024 entries of 4 bytes,
and with CR4.PSE pages of 4 MiB, whose physical address has eight more bits in an odd place (PSE-36, SDM Vol. 3, 4.3).

Tables are a guest's, so they may say anything: lie outside of RAM, lead back to themselves, map one page a billion
times. Linux does that itself: its espfix stacks are 65536 times in the address space, and so is KASAN's shadow of what
has none. So what a table maps is found once and kept, by table and level; of the entries that lead to one table the
first few count; and there are limits to the tables that are read and to the runs that are found.
"""

from __future__ import annotations

import struct
from collections import Counter
from collections.abc import Iterable
from typing import NamedTuple

import attrs

from anyvisor.errors import GuestMemoryError
from anyvisor.memory import GIB, MIB, PAGE_BYTES
from anyvisor.x86_64.paging import ADDRESS_MASK, LEVEL_BYTES, PageEntry, Read
from anyvisor.x86_64.state import Sregs

MAX_USES = 4
"""Of one table by the entries above it."""
MAX_RUNS = 250_000
MAX_TABLES = 65_536
"""256 MiB of them."""
OFTEN_USED = f"addresses by which a page table is reached more than {MAX_USES} times are left out, from there on"
TOO_MUCH = "the page tables map more than was looked at"
PRESENT, LARGE = PageEntry.present.mask, PageEntry.page_size.mask
PAT = 1 << 12
"""Of the entry of a big page."""


class Run(NamedTuple):
    """Linear addresses from `start` on that lead to as many physical ones from `target` on."""

    start: int
    target: int
    size_bytes: int

    @property
    def end(self) -> int:
        """The first address after the run."""
        return self.start + self.size_bytes


@attrs.frozen(eq=False)
class Paging:
    """How the tables of a paging mode look.

    `entry_bytes` are the sizes of memory that an entry stands for, by level, the top first, and `pages` those of them
    that can be pages; `large` is the bit of an entry that says so. The top table has `top_entries`, and `root_mask`
    picks its address from CR3.
    """

    format: str
    entry_bytes: tuple[int, ...]
    pages: frozenset[int]
    top_entries: int
    root_mask: int = ADDRESS_MASK
    large: int = LARGE

    @property
    def size_bytes(self) -> int:
        """How many linear addresses there are."""
        return self.top_entries * self.entry_bytes[0]


def _of_levels(*levels: int) -> tuple[int, ...]:
    return tuple(LEVEL_BYTES.get(level, 512 * LEVEL_BYTES[4]) for level in levels)


LONG_4 = Paging("Q", _of_levels(4, 3, 2, 1), frozenset({PAGE_BYTES, 2 * MIB, GIB}), 512)
LONG_5 = attrs.evolve(LONG_4, entry_bytes=_of_levels(5, 4, 3, 2, 1))
PAE = Paging("Q", _of_levels(3, 2, 1), frozenset({PAGE_BYTES, 2 * MIB}), 4, root_mask=0xFFFFFFE0)
WITH_PSE = Paging("I", (4 * MIB, PAGE_BYTES), frozenset({PAGE_BYTES, 4 * MIB}), 1024, root_mask=0xFFFFF000)
WITHOUT_PSE = attrs.evolve(WITH_PSE, large=0)


def paging_of(sregs: Sregs) -> Paging | None:
    """The paging mode that the control registers choose; None without paging."""
    if not sregs.cr0.pg:
        return None
    if sregs.efer.lma:
        return LONG_5 if sregs.cr4.la57 else LONG_4
    if sregs.cr4.pae:
        return PAE
    return WITH_PSE if sregs.cr4.pse else WITHOUT_PSE


class PageWalk:
    """Finds all that page tables map. One for all the processors of a machine: their tables are mostly the same.

    `read` gives the guest's memory; a table for which it raises GuestMemoryError maps nothing. `left_out` says, a
    sentence each, which limits were reached.
    """

    def __init__(self, read: Read, *, max_runs: int = MAX_RUNS, max_tables: int = MAX_TABLES):
        self.left_out: set[str] = set()
        self._read = read
        self._max_runs = max_runs
        self._tables_left = max_tables
        self._known: dict[tuple[Paging, int, int], list[Run]] = {}
        self._uses: Counter[tuple[Paging, int, int]] = Counter()

    def runs(self, paging: Paging, cr3: int) -> list[Run]:
        """What the tables at `cr3` map, in order. Of what is too much, it is the lower half's that is missing."""
        half = paging.top_entries // 2
        self._uses.clear()
        found = self._table(paging, cr3 & paging.root_mask, 0, [*range(half, paging.top_entries), *range(half)])
        return sorted(_canonical(paging, run) for run in found)

    def _table(self, paging: Paging, table: int, level: int, order: Iterable[int]) -> list[Run]:
        """What a table maps, as if the first address that it stands for were 0."""
        runs: list[Run] = []
        entries = self._entries(paging, table, level)
        for index in order if entries else ():
            if entries[index] & PRESENT:
                _append(runs, index * paging.entry_bytes[level], self._entry(paging, entries[index], level))
                if len(runs) > self._max_runs:
                    self.left_out.add(TOO_MUCH)
                    return runs[: self._max_runs]
        return runs

    def _entry(self, paging: Paging, entry: int, level: int) -> list[Run]:
        """What an entry maps, from 0 on."""
        size_bytes = paging.entry_bytes[level]
        if level == len(paging.entry_bytes) - 1:
            return [Run(0, entry & ADDRESS_MASK, size_bytes)]
        if entry & paging.large:
            return _big_page(entry, size_bytes) if size_bytes in paging.pages else []
        key = paging, entry & ADDRESS_MASK, level + 1
        self._uses[key] += 1
        if self._uses[key] > MAX_USES:
            self.left_out.add(OFTEN_USED)
            return []
        if key not in self._known:
            self._known[key] = self._table(*key, range(PAGE_BYTES // struct.calcsize(paging.format)))
        return self._known[key]

    def _entries(self, paging: Paging, table: int, level: int) -> tuple[int, ...]:
        count = paging.top_entries if level == 0 else PAGE_BYTES // struct.calcsize(paging.format)
        if not self._tables_left:
            self.left_out.add(TOO_MUCH)
            return ()
        self._tables_left -= 1
        layout = struct.Struct(f"<{count}{paging.format}")
        try:
            return layout.unpack(self._read(table, layout.size))
        except GuestMemoryError:
            return ()


def _append(runs: list[Run], offset: int, more: list[Run]) -> None:
    """Add runs, moved by `offset`; one that goes on where the last ended becomes a part of it."""
    for start, target, size_bytes in more:
        moved = start + offset
        if runs:
            last_start, last_target, last_bytes = runs[-1]
            if last_start + last_bytes == moved and last_target + last_bytes == target:
                runs[-1] = Run(last_start, last_target, last_bytes + size_bytes)
                continue
        runs.append(Run(moved, target, size_bytes))


def _big_page(entry: int, size_bytes: int) -> list[Run]:
    """The page; none when a bit is set that is reserved."""
    target = entry & ADDRESS_MASK & ~PAT
    if size_bytes == 4 * MIB:
        target = entry & 0xFFE0_0000 | (entry & 0x1F_E000) << 19
    return [] if target % size_bytes else [Run(0, target, size_bytes)]


def _canonical(paging: Paging, run: Run) -> Run:
    """The run where it is in 64 bits: in long mode the highest bit of its addresses is repeated upwards."""
    if paging.size_bytes > 4 * GIB and run.start >= paging.size_bytes // 2:
        return run._replace(start=run.start + (1 << 64) - paging.size_bytes)
    return run
