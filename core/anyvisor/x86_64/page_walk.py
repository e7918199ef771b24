"""A walk of page tables as the processor makes it, entry by entry, in any paging mode (see `paging_modes`).

Permissions are told and not judged.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator

import attrs

from anyvisor.errors import AnyvisorError
from anyvisor.memory import format_size
from anyvisor.x86_64.paging_modes import ADDRESS_MASK, LOW_32, NAMES, NO_EXECUTE, USER, PageEntry, Paging, paging_of
from anyvisor.x86_64.state import Sregs

Read = Callable[[int, int], bytes]
"""`read(guest_address, size_bytes) -> bytes`"""
COLUMNS = 76
"""How wide a line of a walk may be, with room for its indent."""


@attrs.frozen
class Step:
    """An entry on the way: the level and address of its table, its index there, what it holds."""

    level: int
    table_address: int
    index: int
    entry: PageEntry

    @property
    def table(self) -> str:
        """What its table is called."""
        return NAMES[self.level]

    @property
    def place(self) -> str:
        """Which entry it is, in words."""
        return f"{self.table} entry {self.index}"

    def __str__(self) -> str:
        bits = PageEntry(self.entry & ~ADDRESS_MASK).words() or "nothing set"
        start = f"{self.table:<4} {self.table_address:#x}[{self.index}]  {int(self.entry):#x}  "
        room = COLUMNS - len(start)
        lines = re.findall(rf".{{1,{room}}}$|.{{1,{room - 1}}}\|", bits)
        return start + f"\n{' ' * len(start)}".join(lines)


@attrs.frozen
class Walk:
    """Where a linear address leads: a guest-physical address, or None and the `problem` in words.

    `is_broken` says that the problem is a table's own fault, and not only that of an address that is not mapped;
    `table_outside` is the address of a table that is not in RAM, where that is it.
    """

    address: int
    guest_address: int | None
    steps: tuple[Step, ...] = ()
    page_bytes: int = 0
    problem: str = ""
    is_broken: bool = False
    table_outside: int | None = None

    @property
    def is_user(self) -> bool:
        """Whether programs may use the page: only if every entry on the way lets them."""
        return all(each.entry & USER for each in self.steps)

    @property
    def is_no_execute(self) -> bool:
        """Whether no code may run in the page: if any entry on the way says so."""
        return any(each.entry & NO_EXECUTE for each in self.steps)

    def describe(self) -> str:
        """The entries, a line each, and where they lead."""
        return "\n".join([*map(str, self.steps), self.end])

    @property
    def end(self) -> str:
        """Where it leads, in a line."""
        if self.guest_address is None:
            return f"leads nowhere: {self.problem}"
        size = f" in a page of {format_size(self.page_bytes)}" if self.page_bytes else " (paging is off)"
        return f"leads to guest-physical {self.guest_address:#x}{size}"


def walk(read: Read, sregs: Sregs, address: int) -> Walk:
    """Where a linear address leads by the tables that `sregs` lead to; `read` gives the guest's memory."""
    paging = paging_of(sregs)
    if paging is None:
        return Walk(address, address & LOW_32)
    return walk_tables(read, paging, sregs.cr3, address)


def walk_tables(read: Read, paging: Paging, cr3: int, address: int) -> Walk:
    """Where a linear address leads by the tables at `cr3`; no RAM is where `read` raises an AnyvisorError."""
    if not paging.is_canonical(address):
        words = f"the address is not canonical: {paging.name} has {paging.address_bits} bits"
        return Walk(address, None, problem=words)
    met: tuple[Step, ...] = ()
    try:
        for step in steps(read, paging, cr3, address):
            met = (*met, step)
    except AnyvisorError:
        return _outside(paging, cr3, address, met)
    return _end(paging, address, met)


def steps(read: Read, paging: Paging, cr3: int, address: int) -> Iterator[Step]:
    """The entries that the processor meets, up to that of a page, or one that it cannot go on from.

    What `read` raises for a table outside of RAM comes through.
    """
    table = cr3 & paging.root_mask
    for level in range(paging.levels, 0, -1):
        index = address // paging.covers_bytes(level) % paging.count(level)
        raw = read(table + paging.entry_bytes * index, paging.entry_bytes)
        entry = PageEntry(int.from_bytes(raw, "little"))
        yield Step(level, table, index, entry)
        if not entry.present or paging.is_page(level, entry) or paging.refused(level, entry):
            return
        table = entry & ADDRESS_MASK


def _outside(paging: Paging, cr3: int, address: int, met: tuple[Step, ...]) -> Walk:
    leader, table = (met[-1].place, met[-1].entry & ADDRESS_MASK) if met else ("CR3", cr3 & paging.root_mask)
    problem = f"{leader} leads to a table at {table:#x}, where there is no RAM"
    return Walk(address, None, met, problem=problem, is_broken=True, table_outside=table)


def _end(paging: Paging, address: int, met: tuple[Step, ...]) -> Walk:
    level, entry = met[-1].level, met[-1].entry
    if not entry.present:
        return Walk(address, None, met, problem=f"{met[-1].place} is not present")
    if problem := paging.problem(level, entry):
        return Walk(address, None, met, problem=f"{met[-1].place} {problem}", is_broken=True)
    page_bytes = paging.covers_bytes(level)
    return Walk(address, paging.page_address(level, entry) | address % page_bytes, met, page_bytes)
