"""Page tables: how a processor in long mode finds memory, and the identity map a kernel is entered with.

Some facts about four-level paging (SDM Vol. 3, 4.5; APM Vol. 2, 5.3). CR3 holds the address of the top table.
Each table is a page of 512 entries of eight bytes; nine bits of the linear address pick one at each level,
and the last level's entry says which page of memory it is: 4 KiB in the lowest table, 2 MiB or 1 GiB if an
entry further up has its page-size bit set. 1 GiB pages exist only where CPUID says so (0x80000001 EDX bit
26). Linear addresses have 48 bits of which the highest is repeated upwards, so an identity map ends at 128
TiB.

The map covers RAM below and above 4 GiB and the MMIO gap between, so that a kernel can reach devices and
everything it was given before it builds its own tables. Whether an access is cached is not decided here but
by the MTRRs.
"""

from __future__ import annotations

import sys
from array import array
from typing import NamedTuple

import attrs

from anyvisor.errors import PlanError
from anyvisor.memory import GIB, MIB, PAGE_BYTES, TIB, Region, align_down, align_up, format_size
from anyvisor.plan import Blob
from anyvisor.x86_64.cpuid import Cpuid
from anyvisor.x86_64.features import Feature
from anyvisor.x86_64.layout import PAGE_TABLES, Layout
from anyvisor.x86_64.page_walk import Read, steps
from anyvisor.x86_64.paging_modes import ADDRESS_MASK, LONG_4, LONG_5, PageEntry

ENTRIES = 512
"""How many entries a table has."""
CANONICAL_END = 128 * TIB
"""Where the lower half of the linear addresses ends."""
TABLE = PageEntry(present=True, writable=True)
PAGE = PageEntry(present=True, writable=True, page_size=True)


class Translation(NamedTuple):
    """Where a linear address leads: the guest-physical address, and the size of the page that says so."""

    guest_address: int
    page_bytes: int


@attrs.frozen
class PageTables:
    """Tables that map every address below `end_address` to itself, writable, for the kernel only.

    They lie at `root` and after it: the top table, the tables of 1 GiB entries, then those of 2 MiB entries.
    Make them with `identity`, move them with `at`. PlanError for what tables cannot say.
    """

    end_address: int
    page_bytes: int
    root: int = PAGE_TABLES

    def __attrs_post_init__(self) -> None:
        if self.page_bytes not in (2 * MIB, GIB):
            raise PlanError(f"page tables: {self.page_bytes} bytes are no page size here; use 2M or 1G pages")
        if not 0 < self.end_address <= CANONICAL_END or self.end_address % self.page_bytes:
            most = f"a multiple of {format_size(self.page_bytes)}, at most 128T"
            raise PlanError(f"page tables cannot map up to {self.end_address:#x}; give {most}")
        if self.root % PAGE_BYTES or not 0 <= self.root <= ADDRESS_MASK - self.size_bytes:
            raise PlanError(f"page tables cannot lie at {self.root:#x}; give the address of a 4 KiB page")

    @classmethod
    def identity(cls, end_address: int, *, page_bytes: int = 2 * MIB, root: int = PAGE_TABLES) -> PageTables:
        """Tables for 0 up to `end_address`, rounded up to a whole page of 2 MiB or 1 GiB."""
        return cls(align_up(end_address, page_bytes), page_bytes, root)

    def at(self, guest_address: int) -> PageTables:
        """The same tables at another address, a multiple of 4096."""
        return attrs.evolve(self, root=guest_address)

    @property
    def size_bytes(self) -> int:
        """How much memory the tables take up."""
        return PAGE_BYTES * sum(self._table_counts)

    @property
    def region(self) -> Region:
        """Where the tables lie."""
        return Region(self.root, self.size_bytes, "page tables")

    def to_bytes(self) -> bytes:
        """The tables as they lie in memory from `root` on. They hold absolute addresses."""
        tables = bytearray()
        next_table = self.root
        for count, below in zip(self._table_counts, self._table_counts[1:], strict=False):
            next_table += count * PAGE_BYTES
            tables += _entries(next_table | TABLE, PAGE_BYTES, below)
        return bytes(tables + _entries(PAGE, self.page_bytes, self.end_address // self.page_bytes))

    def blob(self) -> Blob:
        """The tables as a piece of a boot plan."""
        return Blob("page tables", self.root, self.to_bytes())

    def walk(self, address: int) -> Translation | None:
        """Where a linear address leads; None where nothing is mapped."""
        return Translation(address, self.page_bytes) if 0 <= address < self.end_address else None

    @property
    def _table_counts(self) -> tuple[int, ...]:
        """How many tables there are of each level, the top first."""
        spans = (LONG_4.covers_bytes(level) for level in range(LONG_4.levels, 0, -1))
        return tuple(-(-self.end_address // (span * ENTRIES)) for span in spans if span >= self.page_bytes)


def boot_page_tables(layout: Layout, cpuid: Cpuid) -> PageTables:
    """An identity map of all RAM and of the MMIO gap, with the biggest pages that `cpuid` has.

    It lies at `layout.page_tables` if it fits, else at the end of RAM below the MMIO gap. PlanError when
    neither has room for it.
    """
    end = max(layout.mmio_gap.end, *(ram.end for ram in layout.ram))
    page_bytes = GIB if cpuid.has(Feature.PDPE1GB) else 2 * MIB
    tables = PageTables.identity(end, page_bytes=page_bytes, root=layout.page_tables.start)
    if tables.size_bytes <= layout.page_tables.size_bytes:
        return tables
    start = align_down(layout.low_ram_end - tables.size_bytes, PAGE_BYTES)
    if start < layout.kernel:
        raise PlanError(
            f"page tables of {format_size(tables.size_bytes)} (for addresses up to {end:#x}) fit neither in"
            f" {layout.page_tables} nor above {layout.kernel:#x} in {layout.ram[0]}; give more memory"
        )
    return tables.at(start)


def walk_memory(read: Read, cr3: int, address: int, *, levels: int = 4) -> Translation | None:
    """Where a linear address leads in tables of any make, as the processor would walk them from `cr3`.

    `read` gives the guest's memory; what it raises for a table outside comes through. `levels` is 5 with
    CR4.LA57. None for an address that is not mapped: it is not canonical, or an entry is not present or has
    reserved bits set in its address. Permissions are not looked at.
    """
    paging = LONG_5 if levels == 5 else LONG_4
    if not paging.is_canonical(address):
        return None
    *_, last = steps(read, paging, cr3, address)
    if not last.entry.present or paging.refused(last.level, last.entry):
        return None
    page_bytes = paging.covers_bytes(last.level)
    return Translation(paging.page_address(last.level, last.entry) | address % page_bytes, page_bytes)


def _entries(first: int, step: int, count: int) -> bytes:
    """`count` entries from `first` on, each `step` more than the one before, then zeros to a whole table."""
    entries = array("Q", range(first, first + step * count, step))
    if sys.byteorder == "big":
        entries.byteswap()
    data = entries.tobytes()
    return data + bytes(-len(data) % PAGE_BYTES)
