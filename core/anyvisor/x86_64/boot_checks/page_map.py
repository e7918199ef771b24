"""The page tables of long mode as the processor walks them, with the reason wherever a walk ends.

Some facts about reserved bits (SDM Vol. 3, 4.5; APM Vol. 2, 5.3). An address in an entry has as many bits as CPUID says
that physical addresses have; those above must be 0. So must the page-size bit in the two topmost levels, and in the
third where CPUID has no 1 GiB pages, the bits of a big page's address below its size, and the no-execute bit while
EFER.NXE is off. The processor faults when it meets one, present or not does not save it: only bit 0 does.
"""

from __future__ import annotations

import functools
import operator
import struct
from collections.abc import Iterator
from typing import NamedTuple

from anyvisor.memory import PAGE_BYTES
from anyvisor.plan import BootPlan
from anyvisor.x86_64.paging import ADDRESS_MASK, ENTRIES, LEVEL_BYTES, PageEntry

PRESENT, USER, LARGE, NO_EXECUTE = (
    each.mask for each in (PageEntry.present, PageEntry.user, PageEntry.page_size, PageEntry.no_execute)
)
PAT = 1 << 12
"""Of a big page's entry: no part of its address."""
MOST_TABLES = 4096
"""As many as are looked at: a map of 8 TiB in pages of 2 MiB."""
SIZES = {**LEVEL_BYTES, 5: LEVEL_BYTES[4] * ENTRIES}
NAMES = {5: "PML5", 4: "PML4", 3: "page-directory-pointer table", 2: "page directory", 1: "page table"}


class Walk(NamedTuple):
    """Where a linear address leads: `guest_address` is None where a walk ends early, and `reason` says why.

    `broken` when that is a table's own fault, and not only an address that is not mapped. `allowed` are the user and
    no-execute bits of the page.
    """

    guest_address: int | None
    reason: str = ""
    broken: bool = False
    page_bytes: int = PAGE_BYTES
    allowed: int = 0


class Fault(NamedTuple):
    """An entry that no table may have: where it stands, what it holds, and what is wrong with it."""

    place: str
    entry: int
    problem: str
    in_ram: bool = True


class PageMap:
    """The tables that CR3 leads to, in guest memory as the plan has it."""

    def __init__(
        self, plan: BootPlan, cr3: int, *, levels: int, address_bits: int, has_1g: bool, no_execute: bool
    ) -> None:
        self._plan = plan
        self.root = cr3 & ADDRESS_MASK
        self.levels = levels
        self.address_bits = address_bits
        self._has_1g = has_1g
        self._high = ADDRESS_MASK & -(1 << address_bits)
        self._never = self._high | (0 if no_execute else NO_EXECUTE)
        self.table = functools.lru_cache(maxsize=2 * MOST_TABLES)(self._table)

    def _table(self, address: int) -> tuple[int, ...] | None:
        """The entries of the table there; None outside RAM."""
        if not any(ram.contains(address, PAGE_BYTES) for ram in self._plan.ram):
            return None
        return struct.unpack(f"<{ENTRIES}Q", self._plan.read(address, PAGE_BYTES))

    def walk(self, linear: int) -> Walk:
        """Where a linear address leads."""
        bits = 9 * self.levels + 12
        if linear >> bits - 1 not in (0, (1 << 65 - bits) - 1):
            return Walk(None, f"is not canonical with {self.levels} levels of tables")
        at, user, no_execute = self.root, USER, 0
        for level in range(self.levels, 0, -1):
            entries = self.table(at)
            if entries is None:
                return Walk(None, f"its {NAMES[level]} would lie at {at:#x}, outside RAM", broken=True)
            index = linear // SIZES[level] % ENTRIES
            entry = entries[index]
            place = f"entry {index} of the {NAMES[level]} at {at:#x}"
            if not entry & PRESENT:
                return Walk(None, f"{place} is {entry:#x}, not present")
            if problem := self._problem(level, entry):
                return Walk(None, f"{place} {problem}", broken=True)
            user, no_execute = user & entry, no_execute | entry & NO_EXECUTE
            if level == 1 or entry & LARGE:
                return self._page(level, entry, linear, user | no_execute)
            at = entry & ADDRESS_MASK
        raise AssertionError("the lowest level ends every walk")

    @functools.cached_property
    def faults(self) -> list[Fault]:
        """Every entry that is present and may not be so, of each table once."""
        return list(self._faults())

    def _faults(self) -> Iterator[Fault]:
        waiting, seen = [(self.root, self.levels, f"CR3 ({self.root:#x})", self.root)], {(self.root, self.levels)}
        while waiting and len(seen) <= MOST_TABLES:
            at, level, leader, entry = waiting.pop()
            entries = self.table(at)
            if entries is None:
                yield Fault(leader, entry, f"leads to a {NAMES[level]} at {at:#x}, outside RAM", in_ram=False)
                continue
            if level == 2 and self._only_big_pages(entries):
                continue
            for index, each in enumerate(entries):
                if not each & PRESENT:
                    continue
                place = f"entry {index} of the {NAMES[level]} at {at:#x}"
                below = each & ADDRESS_MASK, level - 1
                if problem := self._problem(level, each):
                    yield Fault(place, each, problem)
                elif level > 1 and not each & LARGE and below not in seen:
                    seen.add(below)
                    waiting.append((*below, place, each))

    def _only_big_pages(self, entries: tuple[int, ...]) -> bool:
        """Whether a page directory has sound big pages in all its entries, told quickly: maps are made of these."""
        every, some = functools.reduce(operator.and_, entries), functools.reduce(operator.or_, entries)
        return bool(every & PRESENT and every & LARGE) and not some & (self._never | SIZES[2] - 2 * PAT)

    def _problem(self, level: int, entry: int) -> str:
        """Why the processor faults at an entry that is present; empty if it does not."""
        if entry & self._high:
            return f"is {entry:#x}, an address of more than the {self.address_bits} bits that CPUID has"
        if entry & self._never:
            return f"is {entry:#x}, with the no-execute bit, and EFER.NXE is off"
        if not entry & LARGE or level == 1:
            return ""
        if level > 3:
            return f"is {entry:#x}, with the page-size bit, which is reserved at this level"
        if level == 3 and not self._has_1g:
            return f"is {entry:#x}, a 1 GiB page, which this processor's CPUID has not (PDPE1GB)"
        low = entry & ADDRESS_MASK & (SIZES[level] - 1) & ~PAT
        return f"is {entry:#x}, with reserved bits {low:#x} below the address of its big page" if low else ""

    def _page(self, level: int, entry: int, linear: int, allowed: int) -> Walk:
        size = SIZES[level]
        return Walk((entry & ADDRESS_MASK & -size) | linear % size, page_bytes=size, allowed=allowed)
