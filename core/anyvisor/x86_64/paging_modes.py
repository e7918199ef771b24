"""How page tables look in each paging mode: which bits are an address, what makes an entry a page, what is reserved.

Some facts about the paging modes (SDM Vol. 3, 4.1.1 and 4.3 to 4.5; APM Vol. 2, 5.2 and 5.3). Without CR0.PG a linear
address is a physical one. With it there are tables of 512 entries of 8 bytes: in long mode four levels of them, or five
with CR4.LA57; outside of long mode, with CR4.PAE, three, the highest of which has four entries. Without PAE there are
two levels of 1024 entries of 4 bytes. An entry above the lowest level can be a page itself, of 2 MiB, or of 1 GiB where
CPUID says so; without PAE of 4 MiB with CR4.PSE, else the bit for that says nothing. The physical address of such a 4
MiB page has eight more bits in an odd place, 13 to 20 (PSE-36).

Some facts about reserved bits. Addresses have as many bits as CPUID says, and those above must be 0. So must the
page-size bit where there are no pages, the bits of a big page's address below its size but for the lowest, which is its
PAT bit, the no-execute bit while EFER.NXE is off, and some more in the top table of PAE. A processor faults when it
meets one in an entry that is present.
"""

from __future__ import annotations

import functools
import struct

import attrs

from anyvisor.bits import Bits, bit
from anyvisor.memory import PAGE_BYTES
from anyvisor.x86_64.state import Sregs

MOST_ADDRESS_BITS = 52
"""As many bits as an entry has room for of a physical address."""
ADDRESS_MASK = ((1 << MOST_ADDRESS_BITS) - 1) & ~(PAGE_BYTES - 1)
"""The bits of an entry (and of CR3) that hold an address."""
LOW_32 = (1 << 32) - 1
LOW_64 = (1 << 64) - 1
NAMES = {5: "PML5", 4: "PML4", 3: "PDPT", 2: "PD", 1: "PT"}
"""What a table is called, by its level; 1 is the lowest."""
PAT = 1 << 12
"""Of a big page's entry: no part of its address."""
PSE_RESERVED = 1 << 21
"""Of the entry of a page of 4 MiB."""
PDPTE_RESERVED = 0b110 | 0b1111 << 5 | 0xFFF << 52
"""Of an entry of PAE's top table."""


class PageEntry(Bits):
    """An entry of a table of any level (SDM Vol. 3, 4.5.4); the address is in bits 12 to 51."""

    present = bit(0)
    writable = bit(1)
    user = bit(2)
    write_through = bit(3)
    cache_disabled = bit(4)
    accessed = bit(5)
    dirty = bit(6)
    page_size = bit(7)
    global_page = bit(8)
    no_execute = bit(63)


PRESENT, USER, LARGE, NO_EXECUTE = (
    each.mask for each in (PageEntry.present, PageEntry.user, PageEntry.page_size, PageEntry.no_execute)
)


@attrs.frozen(cache_hash=True)
class Paging:
    """A paging mode. Levels count from 1, the tables of 4 KiB pages, up to `levels`, the top one, which CR3 leads to.

    Linear addresses have `address_bits`, physical ones `physical_bits`. The top table has `top_entries`; `root_mask`
    picks its address from CR3. `page_levels` is the highest level whose entries can be pages.
    """

    name: str
    levels: int
    address_bits: int
    page_levels: int
    entry_bytes: int = 8
    top_entries: int = 512
    root_mask: int = ADDRESS_MASK
    physical_bits: int = MOST_ADDRESS_BITS
    has_no_execute: bool = True

    def covers_bytes(self, level: int) -> int:
        """How many linear addresses an entry of that level stands for."""
        return PAGE_BYTES << (9 if self.entry_bytes == 8 else 10) * (level - 1)

    def count(self, level: int) -> int:
        """How many entries a table of that level has."""
        return self.top_entries if level == self.levels else PAGE_BYTES // self.entry_bytes

    def table_bytes(self, level: int) -> int:
        """How big a table of that level is."""
        return self.count(level) * self.entry_bytes

    def entries(self, table: bytes, level: int) -> tuple[int, ...]:
        """The entries of a table, from its bytes."""
        return struct.unpack(f"<{self.count(level)}{'Q' if self.entry_bytes == 8 else 'I'}", table)

    def is_canonical(self, address: int) -> bool:
        """Whether the upper bits of a linear address are copies of the highest that counts; 32 bits have none."""
        return self.address_bits == 32 or address >> self.address_bits - 1 in (0, (1 << 65 - self.address_bits) - 1)

    def is_page(self, level: int, entry: int) -> bool:
        """Whether an entry that is present is that of a page, and not of another table."""
        return level == 1 or (level <= self.page_levels and bool(entry & LARGE))

    def page_address(self, level: int, entry: int) -> int:
        """Where the page begins that an entry is of."""
        if self.entry_bytes == 4 and level == 2:
            return entry & 0xFFC0_0000 | (entry & 0x1F_E000) << 19
        return entry & ADDRESS_MASK & -PAGE_BYTES << 9 * (level - 1)

    def reserved(self, level: int, *, is_page: bool) -> int:
        """The bits that an entry of that level must not have set when it is present."""
        return _reserved(self, level, is_page)

    def refused(self, level: int, entry: int) -> int:
        """The reserved bits that an entry has set: at a present one with any the processor faults."""
        return entry & _reserved(self, level, self.is_page(level, entry))

    def problem(self, level: int, entry: int) -> str:
        """Why a processor faults at an entry that is present, as a part of a sentence; empty if it does not."""
        wrong = self.refused(level, entry)
        return f"is {entry:#x}, with {self._words(level, wrong)}" if wrong else ""

    def _words(self, level: int, wrong: int) -> str:
        if wrong & _beyond(self.physical_bits):
            return f"an address of more than the {self.physical_bits} bits that CPUID has"
        if wrong & NO_EXECUTE and not self.has_no_execute:
            return "the no-execute bit, and EFER.NXE is off"
        if wrong & LARGE and self.levels > level == 3:
            return "the page-size bit, for a 1 GiB page, which this processor's CPUID has not (PDPE1GB)"
        if wrong & LARGE:
            return "the page-size bit, which is reserved at this level"
        return f"reserved bits {wrong:#x}"


def _beyond(physical_bits: int) -> int:
    return ADDRESS_MASK & -(1 << physical_bits)


@functools.lru_cache(maxsize=256)
def _reserved(paging: Paging, level: int, is_page: bool) -> int:
    if paging.entry_bytes == 4:
        return PSE_RESERVED if is_page and level == 2 else 0
    bits = _beyond(paging.physical_bits) | (0 if paging.has_no_execute else NO_EXECUTE)
    if is_page:
        return bits | (ADDRESS_MASK & paging.covers_bytes(level) - 1 & ~PAT)
    return bits | (PDPTE_RESERVED if paging.levels == level == 3 else LARGE)


LONG_4 = Paging("4-level paging", 4, 48, page_levels=3)
LONG_5 = Paging("5-level paging", 5, 57, page_levels=3)
PAE = Paging("PAE paging", 3, 32, page_levels=2, top_entries=4, root_mask=LOW_32 & ~0x1F)
WITHOUT_PSE = Paging(
    "32-bit paging", 2, 32, page_levels=1, entry_bytes=4, top_entries=1024, root_mask=LOW_32 & ADDRESS_MASK
)
WITH_PSE = attrs.evolve(WITHOUT_PSE, page_levels=2)
_WITHOUT_NO_EXECUTE = {each: attrs.evolve(each, has_no_execute=False) for each in (LONG_4, LONG_5, PAE)}


def paging_of(sregs: Sregs) -> Paging | None:
    """The paging mode that CR0, CR4 and EFER choose; None without paging. What CPUID decides is taken to be there."""
    if not sregs.cr0.pg:
        return None
    if not sregs.efer.lma and not sregs.cr4.pae:
        return WITH_PSE if sregs.cr4.pse else WITHOUT_PSE
    mode = PAE if not sregs.efer.lma else LONG_5 if sregs.cr4.la57 else LONG_4
    return mode if sregs.efer.nxe else _WITHOUT_NO_EXECUTE[mode]
