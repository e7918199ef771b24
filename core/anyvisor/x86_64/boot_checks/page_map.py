"""The page tables of a plan, each read once: where an address leads, and which entries no table may have."""

from __future__ import annotations

import functools
import operator
from collections.abc import Iterator
from typing import NamedTuple

from anyvisor.errors import GuestMemoryError
from anyvisor.memory import PAGE_BYTES
from anyvisor.plan import BootPlan
from anyvisor.x86_64.page_walk import Walk, walk_tables
from anyvisor.x86_64.paging_modes import ADDRESS_MASK, LARGE, NAMES, PRESENT, Paging

MOST_TABLES = 4096
"""As many as are looked at: a map of 8 TiB in pages of 2 MiB."""


class Fault(NamedTuple):
    """An entry that no table may have: where it stands, what it holds, and what is wrong with it."""

    place: str
    entry: int
    problem: str
    in_ram: bool = True


class PageMap:
    """The tables that CR3 leads to, in guest memory as the plan has it; those of long mode, of 4 KiB each."""

    def __init__(self, plan: BootPlan, cr3: int, paging: Paging) -> None:
        self._plan = plan
        self._paging = paging
        self.root = cr3 & paging.root_mask
        self._table = functools.lru_cache(maxsize=2 * MOST_TABLES)(self._read_table)

    def walk(self, linear: int) -> Walk:
        """Where a linear address leads."""
        return walk_tables(self._read, self._paging, self.root, linear)

    @functools.cached_property
    def faults(self) -> list[Fault]:
        """Every entry that is present and may not be so, of each table once."""
        return list(self._faults())

    def _read_table(self, address: int) -> bytes:
        """The table there; GuestMemoryError outside RAM."""
        if not any(ram.contains(address, PAGE_BYTES) for ram in self._plan.ram):
            raise GuestMemoryError(f"page table at {address:#x}: it lies outside RAM")
        return self._plan.read(address, PAGE_BYTES)

    def _read(self, address: int, size_bytes: int) -> bytes:
        offset = address % PAGE_BYTES
        return self._table(address - offset)[offset : offset + size_bytes]

    def _faults(self) -> Iterator[Fault]:
        top = self._paging.levels
        waiting, seen = [(self.root, top, f"CR3 ({self.root:#x})", self.root)], {(self.root, top)}
        while waiting and len(seen) <= MOST_TABLES:
            at, level, leader, entry = waiting.pop()
            try:
                entries = self._paging.entries(self._table(at), level)
            except GuestMemoryError:
                yield Fault(leader, entry, f"leads to a {NAMES[level]} at {at:#x}, outside RAM", in_ram=False)
                continue
            if level == 2 and self._only_big_pages(entries):
                continue
            for index, each in enumerate(entries):
                if not each & PRESENT:
                    continue
                place = f"entry {index} of the {NAMES[level]} at {at:#x}"
                below = each & ADDRESS_MASK, level - 1
                if problem := self._paging.problem(level, each):
                    yield Fault(place, each, problem)
                elif not self._paging.is_page(level, each) and below not in seen:
                    seen.add(below)
                    waiting.append((*below, place, each))

    def _only_big_pages(self, entries: tuple[int, ...]) -> bool:
        """Whether a page directory has sound big pages in all its entries, told quickly: maps are made of these."""
        every, some = functools.reduce(operator.and_, entries), functools.reduce(operator.or_, entries)
        return bool(every & PRESENT and every & LARGE) and not some & self._paging.reserved(2, is_page=True)
