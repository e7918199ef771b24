"""Page walks in each format; in long mode judged by the walk that boots kernels."""

import random
import struct

import attrs
import pytest
from dead_guests import RAM, SREGS, UNMAPPED, plan, reader

from anyvisor.errors import GuestMemoryError
from anyvisor.memory import GIB, KIB, MIB
from anyvisor.x86_64.control import Cr0, Cr4, Efer
from anyvisor.x86_64.diagnosis.page_walk import walk
from anyvisor.x86_64.paging import walk_memory

PROTECTED = attrs.evolve(SREGS, cr0=Cr0(pe=True, pg=True), cr4=Cr4(0), efer=Efer(0), cr3=0x1000)


def test_a_long_mode_walk_shows_each_entry_and_where_it_leads():
    found = walk(reader(plan(b"")), SREGS, 0x345678)
    assert [each.table for each in found.steps] == ["PML4", "PDPT", "PD"]
    assert (found.guest_address, found.page_bytes) == (0x345678, 2 * MIB)
    assert found.describe().splitlines()[2] == "PD   0xb000[1]  0x0000000000200083  present|writable|page_size"


def test_the_entry_that_is_not_present_is_named():
    assert walk(reader(plan(b"")), SREGS, UNMAPPED).problem == "PML4 entry 1 is not present"
    assert walk(reader(plan(b"")), SREGS, RAM.end).problem == "PD entry 2 is not present"


def test_a_table_outside_ram_is_told_with_what_led_there():
    found = walk(reader(plan(b"")), attrs.evolve(SREGS, cr3=1 << 40), 0)
    assert (found.table_outside, found.steps) == (1 << 40, ())
    assert found.problem == "CR3 leads to a table at 0x10000000000, where there is no RAM"


def test_an_address_that_is_not_canonical_leads_nowhere():
    assert "not canonical" in walk(reader(plan(b"")), SREGS, 1 << 47).problem
    five = attrs.evolve(SREGS, cr4=SREGS.cr4.replace(la57=True))
    assert "not canonical" not in walk(reader(plan(b"")), five, 1 << 47).problem


def test_with_paging_off_an_address_is_itself():
    off = attrs.evolve(SREGS, cr0=Cr0(pe=True), efer=Efer(0))
    assert walk(reader(plan(b"")), off, 0x1234).guest_address == 0x1234


@pytest.mark.parametrize("seed", range(40))
def test_random_tables_lead_where_the_other_walk_says(seed):
    source = random.Random(seed)
    memory = bytearray(64 * KIB)
    flags = (0, 1, 1, 1, 3, 0x83, 0x81, 1 << 63 | 1)
    for at in range(0, len(memory), 8):
        struct.pack_into("<Q", memory, at, source.randrange(20) << 12 | source.choice(flags))

    def read(address, size_bytes):
        if address + size_bytes > len(memory):
            raise GuestMemoryError("outside")
        return bytes(memory[address : address + size_bytes])

    for _ in range(50):
        address = source.choice((source.randrange(1 << 47), source.randrange(4 * GIB)))
        found = walk(read, attrs.evolve(SREGS, cr3=0), address)
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
