"""The virtual addresses that a processor's page tables map, as runs, whatever its paging mode.

Some facts about what tables map. They are a guest's, so they may say anything: lie outside of RAM, lead back to
themselves, map one page a billion times. Linux does that itself: its espfix stacks are 65536 times in the address
space, and so is KASAN's shadow of what has none. So what a table maps is found once and kept, by table and level; of
the entries that lead to one table the first few count; and there are limits to the tables that are read, to the runs
that are found, and to the work in all: a page of tables costs a guest nothing, and whoever reads it some milliseconds.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from anyvisor.errors import GuestMemoryError
from anyvisor.x86_64.page_walk import Read
from anyvisor.x86_64.paging_modes import ADDRESS_MASK, PRESENT, Paging

MAX_USES = 4
"""Of one table by the entries above it."""
MAX_RUNS = 250_000
MAX_TABLES = 65_536
"""256 MiB of them."""
MAX_WORK = 1_000_000
"""Entries that are looked at, and runs that are taken over from one table to the next: a few seconds."""
OFTEN_USED = f"addresses by which a page table is reached more than {MAX_USES} times are left out, from there on"
TOO_MUCH = "the page tables map more than was looked at"


class Run(NamedTuple):
    """Linear addresses from `start` on that lead to as many physical ones from `target` on."""

    start: int
    target: int
    size_bytes: int

    @property
    def end(self) -> int:
        """The first address after the run."""
        return self.start + self.size_bytes


class Mappings:
    """Finds all that page tables map. One for all the processors of a machine: their tables are mostly the same.

    `read` gives the guest's memory; a table for which it raises GuestMemoryError maps nothing. `left_out` says, a
    sentence each, which limits were reached.
    """

    def __init__(self, read: Read, *, max_runs: int = MAX_RUNS, max_tables: int = MAX_TABLES, max_work: int = MAX_WORK):
        self.left_out: set[str] = set()
        self._read = read
        self._max_runs = max_runs
        self._tables_left = max_tables
        self._work_left = max_work
        self._known: dict[tuple[Paging, int, int], list[Run]] = {}
        self._uses: Counter[tuple[Paging, int, int]] = Counter()

    def runs(self, paging: Paging, cr3: int) -> list[Run]:
        """What the tables at `cr3` map, in order. Of what is too much, it is the lower half's that is missing."""
        half = paging.top_entries // 2
        self._uses.clear()
        order = [*range(half, paging.top_entries), *range(half)]
        found = self._table(paging, cr3 & paging.root_mask, paging.levels, order)
        return sorted(_canonical(paging, run) for run in found)

    def _table(self, paging: Paging, table: int, level: int, order: Iterable[int]) -> list[Run]:
        """What a table maps, as if the first address that it stands for were 0."""
        runs: list[Run] = []
        covers_bytes = paging.covers_bytes(level)
        entries = self._entries(paging, table, level)
        for index in order if entries else ():
            if entries[index] & PRESENT:
                found = self._entry(paging, level, entries[index])
                _append(runs, index * covers_bytes, found)
                self._work_left -= 1 + len(found)
                if len(runs) > self._max_runs or self._work_left < 0:
                    self.left_out.add(TOO_MUCH)
                    return runs[: self._max_runs]
        return runs

    def _entry(self, paging: Paging, level: int, entry: int) -> Sequence[Run]:
        """What an entry that is present maps, from 0 on."""
        if paging.refused(level, entry):
            return ()
        if paging.is_page(level, entry):
            return (Run(0, paging.page_address(level, entry), paging.covers_bytes(level)),)
        key = paging, entry & ADDRESS_MASK, level - 1
        self._uses[key] += 1
        if self._uses[key] > MAX_USES:
            self.left_out.add(OFTEN_USED)
            return ()
        if key not in self._known:
            self._known[key] = self._table(*key, range(paging.count(level - 1)))
        return self._known[key]

    def _entries(self, paging: Paging, table: int, level: int) -> tuple[int, ...]:
        if not self._tables_left or self._work_left < 0:
            self.left_out.add(TOO_MUCH)
            return ()
        self._tables_left -= 1
        try:
            return paging.entries(self._read(table, paging.table_bytes(level)), level)
        except GuestMemoryError:
            return ()


def _append(runs: list[Run], offset: int, more: Iterable[Run]) -> None:
    """Add runs, moved by `offset`; one that goes on where the last ended becomes a part of it."""
    for start, target, size_bytes in more:
        moved = start + offset
        if runs:
            last_start, last_target, last_bytes = runs[-1]
            if last_start + last_bytes == moved and last_target + last_bytes == target:
                runs[-1] = Run(last_start, last_target, last_bytes + size_bytes)
                continue
        runs.append(Run(moved, target, size_bytes))


def _canonical(paging: Paging, run: Run) -> Run:
    """The run where it is in 64 bits: in long mode the highest bit of its addresses is repeated upwards."""
    if paging.address_bits > 32 and run.start >> paging.address_bits - 1:
        return run._replace(start=run.start + (1 << 64) - (1 << paging.address_bits))
    return run
