"""Page walks in each paging mode, and what ends them."""

import random
import struct

import attrs
import pytest

from anyvisor.errors import GuestMemoryError
from anyvisor.memory import GIB, KIB, MIB
from anyvisor.x86_64.control import Cr0, Cr4, Efer
from anyvisor.x86_64.page_walk import COLUMNS, Step, walk, walk_tables
from anyvisor.x86_64.paging import PageTables, walk_memory
from anyvisor.x86_64.paging_modes import ADDRESS_MASK, LONG_4, LONG_5, PAE, WITH_PSE, WITHOUT_PSE, PageEntry, paging_of
from anyvisor.x86_64.reset import reset_states
from anyvisor.x86_64.state import Sregs

RESET = next(state for state in reset_states() if isinstance(state, Sregs))
PROTECTED = attrs.evolve(RESET, cr0=Cr0(pe=True, pg=True), cr4=Cr4(pse=True), efer=Efer(0), cr3=0x1000)
LONG = attrs.evolve(PROTECTED, cr4=Cr4(pae=True), efer=Efer(lme=True, lma=True, nxe=True), cr3=0x9000)
TABLES = PageTables.identity(4 * MIB, root=0x9000)
NO_EXECUTE = 1 << 63


def boot_tables(address, size_bytes):
    """Reads memory that has the tables of a boot plan and nothing else."""
    offset, tables = address - TABLES.root, TABLES.to_bytes()
    if not 0 <= offset <= len(tables) - size_bytes:
        raise GuestMemoryError("outside")
    return tables[offset : offset + size_bytes]


def test_a_long_mode_walk_shows_each_entry_and_where_it_leads():
    found = walk(boot_tables, LONG, 0x345678)
    assert [each.table for each in found.steps] == ["PML4", "PDPT", "PD"]
    assert (found.guest_address, found.page_bytes) == (0x345678, 2 * MIB)
    assert found.describe().splitlines()[2] == "PD   0xb000[1]  0x200083  present|writable|page_size"


def test_an_entry_with_many_bits_set_is_told_in_lines_that_fit():
    entry = PageEntry((1 << 63) | (0x1FFFFF << 30) | 0x1FF)
    words = str(Step(3, 0xFFFFFF000, 511, entry)).splitlines()
    assert max(map(len, words)) <= COLUMNS
    assert "".join(line.split()[-1] for line in words) == PageEntry(entry & ~ADDRESS_MASK).words()
    assert {line.rindex("  ") for line in words} == {words[0].rindex("  ")}


def test_the_entry_that_is_not_present_is_named():
    missing = walk(boot_tables, LONG, 1 << 39)
    assert (missing.problem, missing.is_broken) == ("PML4 entry 1 is not present", False)
    assert walk(boot_tables, LONG, 4 * MIB).problem == "PD entry 2 is not present"


def test_a_table_outside_ram_is_told_with_what_led_there():
    found = walk(boot_tables, attrs.evolve(LONG, cr3=1 << 40), 0)
    assert (found.table_outside, found.steps, found.is_broken) == (1 << 40, (), True)
    assert found.problem == "CR3 leads to a table at 0x10000000000, where there is no RAM"


def test_an_address_that_is_not_canonical_leads_nowhere():
    assert "not canonical" in walk(boot_tables, LONG, 1 << 47).problem
    five = attrs.evolve(LONG, cr4=LONG.cr4.replace(la57=True))
    assert "not canonical" not in walk(boot_tables, five, 1 << 47).problem


def test_with_paging_off_an_address_is_itself():
    off = attrs.evolve(LONG, cr0=Cr0(pe=True), efer=Efer(0))
    assert walk(boot_tables, off, 0x1234).guest_address == 0x1234


def test_the_mode_is_what_the_control_registers_say():
    assert paging_of(RESET) is None
    assert paging_of(PROTECTED) is WITH_PSE
    assert paging_of(attrs.evolve(PROTECTED, cr4=Cr4(0))) is WITHOUT_PSE
    assert paging_of(attrs.evolve(PROTECTED, cr4=Cr4(pae=True), efer=Efer(nxe=True))) is PAE
    assert paging_of(LONG) is LONG_4
    assert paging_of(attrs.evolve(LONG, cr4=Cr4(pae=True, la57=True))) is LONG_5
    off = attrs.evolve(LONG, efer=Efer(lme=True, lma=True))
    assert paging_of(off) == attrs.evolve(LONG_4, has_no_execute=False)


@pytest.mark.parametrize("seed", range(40))
def test_random_tables_lead_where_the_other_walk_says(seed):
    source = random.Random(seed)
    memory = bytearray(64 * KIB)
    flags = (0, 1, 1, 1, 3, 0x83, 0x81, NO_EXECUTE | 1)
    for at in range(0, len(memory), 8):
        struct.pack_into("<Q", memory, at, source.randrange(20) << 12 | source.choice(flags))

    def read(address, size_bytes):
        if address + size_bytes > len(memory):
            raise GuestMemoryError("outside")
        return bytes(memory[address : address + size_bytes])

    for _ in range(50):
        address = source.choice((source.randrange(1 << 47), source.randrange(4 * GIB)))
        found = walk(read, attrs.evolve(LONG, cr3=0), address)
        try:
            expected = walk_memory(read, 0, address)
        except GuestMemoryError:
            assert found.table_outside is not None
            continue
        assert (found.guest_address, found.page_bytes) == (expected or (None, 0))


def memory_of(*words):
    """Reads memory that holds numbers of 4 or 8 bytes: `(address, size, number)`."""
    memory = bytearray(64 * KIB)
    for address, size, number in words:
        memory[address : address + size] = number.to_bytes(size, "little")
    return lambda address, size_bytes: bytes(memory[address : address + size_bytes])


def test_pae_has_a_top_table_of_four_entries():
    pae = attrs.evolve(PROTECTED, cr4=Cr4(pae=True), cr3=0x1020)  # 32 bytes on: any multiple of 32 will do
    read = memory_of((0x1038, 8, 0x2001), (0x2008, 8, 0x3003), (0x3010, 8, 0x5003))
    found = walk(read, pae, 0xC0202345)
    assert [(each.table, each.index) for each in found.steps] == [("PDPT", 3), ("PD", 1), ("PT", 2)]
    assert (found.guest_address, found.page_bytes) == (0x5345, 4 * KIB)


def test_32_bit_paging_has_tables_of_1024_entries_and_pages_of_4m():
    read = memory_of((0x1004, 4, 0x2003), (0x2FFC, 4, 0x7003), (0x1C00, 4, 0x00400083))
    small, large = walk(read, PROTECTED, 0x7FF123), walk(read, PROTECTED, 0xC0012345)
    assert (small.guest_address, small.page_bytes) == (0x7123, 4 * KIB)
    assert (large.guest_address, large.page_bytes) == (0x412345, 4 * MIB)


def test_pages_of_4m_keep_their_upper_address_bits_low_in_the_entry():
    read = memory_of((0x1000, 4, 0x0040_0083 | 5 << 13))
    assert walk(read, PROTECTED, 0x12345).guest_address == 5 << 32 | 0x41_2345


def test_without_pse_there_are_no_pages_of_4m():
    read = memory_of((0x1000, 4, 0x2083), (0x2000, 4, 0x5003))
    assert walk(read, attrs.evolve(PROTECTED, cr4=Cr4(0)), 0x123).guest_address == 0x5123


CPU = attrs.evolve(LONG_4, physical_bits=40, page_levels=2, has_no_execute=False)
"""A processor that has 40 bits of physical addresses, no 1 GiB pages and EFER.NXE off."""


@pytest.mark.parametrize(
    ("paging", "entries", "problem"),
    [
        (LONG_4, [0x2003, 0x3003, 0x4003, NO_EXECUTE | 0x5003], ""),
        (CPU, [0x2003, 0x3003, 0x4003, NO_EXECUTE | 0x5003], "the no-execute bit, and EFER.NXE is off"),
        (CPU, [0x2003 | 1 << 40], "an address of more than the 40 bits that CPUID has"),
        (LONG_4, [0x2083], "the page-size bit, which is reserved at this level"),
        (LONG_5, [0x2003, 0x3083], "the page-size bit, which is reserved at this level"),
        (CPU, [0x2003, 0x4000_0083], "the page-size bit, for a 1 GiB page"),
        (LONG_4, [0x2003, 0x4000_0083], ""),
        (LONG_4, [0x2003, 0x4020_0083], "reserved bits 0x200000"),
        (LONG_4, [0x2003, 0x3003, 0x4000_1083], ""),  # PAT
        (LONG_4, [0x2003, 0x3003, 0x4000_2083], "reserved bits 0x2000"),
        (PAE, [0x2001, 0x4000_0083], ""),
        (PAE, [0x2003], "reserved bits 0x2"),
        (PAE, [NO_EXECUTE | 0x2001], "reserved bits 0x8000000000000000"),
        (PAE, [1 << 52 | 0x2001], "reserved bits 0x10000000000000"),
        (WITH_PSE, [0x0020_0083], "reserved bits 0x200000"),
        (WITHOUT_PSE, [0x0020_2083, 0x5003], ""),
    ],
)
def test_reserved_bits_end_a_walk(paging, entries, problem):
    """Each read gives the next entry, of the table that the one before led to."""
    upcoming = iter(entries)
    found = walk_tables(lambda _, size_bytes: next(upcoming).to_bytes(size_bytes, "little"), paging, 0x1000, 0)
    assert problem in found.problem
    assert (found.guest_address is None, found.is_broken) == (bool(problem), bool(problem))
    assert len(found.steps) == len(entries)


def test_a_page_is_for_programs_if_every_entry_says_so_and_for_code_if_none_says_no():
    def found(*flags):
        entries = iter(flag | 1 for flag in flags)
        return walk_tables(lambda *_: next(entries).to_bytes(8, "little"), LONG_4, 0, 0)

    assert found(4, 4, 4, 4).is_user
    assert not found(4, 0, 4, 4).is_user
    assert found(0, 0, NO_EXECUTE, 0).is_no_execute
    assert not found(0, 0, 0, 0).is_no_execute
