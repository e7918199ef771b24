"""A walk of the guest's page tables, entry by entry, as its processor makes it.

Some facts about the formats (SDM Vol. 3, 4.3 to 4.5). Outside long mode there are two: 32-bit paging with tables of
1024 entries of four bytes, and PAE paging with 512 of eight and a top table of only four. Which one counts follows from
CR0.PG, CR4.PAE, EFER.LMA and CR4.LA57. Permissions are told and not judged.
"""

from __future__ import annotations

import attrs

from anyvisor.errors import AnyvisorError
from anyvisor.memory import PAGE_BYTES, format_size
from anyvisor.x86_64.paging import ADDRESS_MASK, PageEntry, Read
from anyvisor.x86_64.state import Sregs

LOW_32 = (1 << 32) - 1
PDPT_MASK = LOW_32 & ~0x1F
"""The bits of CR3 that hold the address of PAE's top table, which has only 32 bytes."""
NAMES = {5: "PML5", 4: "PML4", 3: "PDPT", 2: "PD", 1: "PT"}
"""What a table is called, by its level."""


@attrs.frozen
class Format:
    """A paging format: how many levels, how many bits of an address pick an entry (the top's too), an entry's size."""

    name: str
    levels: int
    index_bits: int
    entry_bytes: int
    top_bits: int
    address_bits: int


LONG4 = Format("4-level paging", 4, 9, 8, 9, 48)
LONG5 = Format("5-level paging", 5, 9, 8, 9, 57)
PAE = Format("PAE paging", 3, 9, 8, 2, 32)
LEGACY = Format("32-bit paging", 2, 10, 4, 10, 32)


@attrs.frozen
class Step:
    """An entry on the way: its table's name and address, its index there, what it holds and what it covers."""

    table: str
    table_address: int
    index: int
    entry: PageEntry
    covers_bytes: int

    def __str__(self) -> str:
        words = self.entry.replace(present=self.entry.present) & ~ADDRESS_MASK
        bits = PageEntry(words).words() or "nothing set"
        return f"{self.table:<4} {self.table_address:#x}[{self.index}]  {int(self.entry):#018x}  {bits}"


@attrs.frozen
class Walk:
    """Where a linear address leads: a guest-physical address, or None and the `problem` in words."""

    address: int
    guest_address: int | None
    steps: tuple[Step, ...] = ()
    page_bytes: int = 0
    problem: str = ""
    table_outside: int | None = None
    """The address of a table that is not in RAM, where that is the problem."""

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


def paging_format(sregs: Sregs) -> Format | None:
    """The format that counts; None while paging is off."""
    if not sregs.cr0.pg:
        return None
    if sregs.efer.lma:
        return LONG5 if sregs.cr4.la57 else LONG4
    return PAE if sregs.cr4.pae else LEGACY


def is_canonical(address: int, address_bits: int) -> bool:
    """Whether the upper bits are copies of the highest one that counts; those of 32 bits all are."""
    upper = address >> address_bits - 1
    return address_bits == 32 or upper in (0, (1 << 65 - address_bits) - 1)


def walk(read: Read, sregs: Sregs, address: int) -> Walk:
    """Walk the tables that `sregs` lead to; `read` gives the guest's memory."""
    form = paging_format(sregs)
    if form is None:
        return Walk(address, address & LOW_32)
    if not is_canonical(address, form.address_bits):
        return Walk(address, None, problem=f"the address is not canonical: {form.name} has {form.address_bits} bits")
    return _walk(read, form, sregs.cr3, address)


def _walk(read: Read, form: Format, cr3: int, address: int) -> Walk:
    steps: list[Step] = []
    table = cr3 & (PDPT_MASK if form is PAE else LOW_32 & ADDRESS_MASK if form is LEGACY else ADDRESS_MASK)
    for level in range(form.levels, 0, -1):
        shift = 12 + form.index_bits * (level - 1)
        width = form.top_bits if level == form.levels else form.index_bits
        index = address >> shift & (1 << width) - 1
        name = "CR3" if not steps else f"{steps[-1].table} entry {steps[-1].index}"
        try:
            raw = read(table + form.entry_bytes * index, form.entry_bytes)
        except AnyvisorError:
            problem = f"{name} leads to a table at {table:#x}, where there is no RAM"
            return Walk(address, None, tuple(steps), problem=problem, table_outside=table)
        entry = PageEntry(int.from_bytes(raw, "little"))
        steps.append(Step(NAMES[level], table, index, entry, 1 << shift))
        if not entry.present:
            return Walk(address, None, tuple(steps), problem=f"{NAMES[level]} entry {index} is not present")
        table = int(entry) & ADDRESS_MASK
        if level == 1 or _is_page(form, level, entry):
            return _page(tuple(steps), address, table, 1 << shift)
        if entry.page_size and level > 3:
            return Walk(address, None, tuple(steps), problem=f"{NAMES[level]} entry {index} has its page-size bit set")
    raise AssertionError("the lowest level ends every walk")


def _is_page(form: Format, level: int, entry: PageEntry) -> bool:
    """Whether an entry above the lowest table is a page's; CR4.PSE is taken to be set."""
    return entry.page_size and level <= (3 if form.levels > 3 else 2)


def _page(steps: tuple[Step, ...], address: int, start: int, page_bytes: int) -> Walk:
    """The end of a walk. A big page's entry has its PAT bit at 12, then zeros up to the page's address."""
    start &= ~(PAGE_BYTES if page_bytes > PAGE_BYTES else 0)
    if start % page_bytes and steps[0].table != "PD":  # 32-bit paging keeps upper address bits there
        problem = f"{steps[-1].table} entry {steps[-1].index} has reserved bits set in its address"
        return Walk(address, None, steps, problem=problem)
    return Walk(address, start & -page_bytes | address % page_bytes, steps, page_bytes)
