import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from anyvisor.errors import GuestMemoryError, PlanError
from anyvisor.memory import GIB, MIB, TIB, GuestMemory, Region
from anyvisor.plan import BootPlan
from anyvisor.x86_64.cpuid import Cpuid, CpuidEntry
from anyvisor.x86_64.features import Feature
from anyvisor.x86_64.layout import Layout
from anyvisor.x86_64.paging import PageTables, Translation, boot_page_tables, walk_memory
from work import work

PLAIN = Cpuid((CpuidEntry(0x80000001),))
WITH_1GIB = PLAIN.with_(Feature.PDPE1GB)
page_sizes = pytest.mark.parametrize("page_bytes", [2 * MIB, GIB])


def reader(tables):
    """Reads the tables where they lie; anything else is an error, so that a walk cannot go astray unseen."""
    data = tables.to_bytes()

    def read(address, size_bytes):
        assert tables.region.contains(address, size_bytes), f"{address:#x} is outside of {tables.region}"
        return data[address - tables.root :][:size_bytes]

    return read


def memory_of(**entries_at):
    """A read function over a few entries, zeros elsewhere."""
    words = {int(name[1:], 16): value for name, value in entries_at.items()}
    return lambda address, size_bytes: struct.pack("<Q", words.get(address, 0))


# -- what is written -----------------------------------------------------------------------------------------


def test_two_mib_tables_in_memory():
    words = struct.unpack("<1536Q", PageTables.identity(GIB, page_bytes=2 * MIB, root=0x9000).to_bytes())
    assert words[:512] == (0xA003,) + (0,) * 511
    assert words[512:1024] == (0xB003,) + (0,) * 511
    assert words[1024:] == tuple(i << 21 | 0x83 for i in range(512))


def test_one_gib_tables_in_memory():
    words = struct.unpack("<1024Q", PageTables.identity(3 * GIB, page_bytes=GIB, root=0x9000).to_bytes())
    assert words[:512] == (0xA003,) + (0,) * 511
    assert words[512:] == (0x83, 0x4000_0083, 0x8000_0083) + (0,) * 509


@pytest.mark.parametrize(
    ("end", "page_bytes", "tables"),
    [(1, 2 * MIB, 3), (GIB, 2 * MIB, 3), (GIB + 1, 2 * MIB, 4), (4 * GIB, 2 * MIB, 6), (TIB, 2 * MIB, 1027),
     (1, GIB, 2), (512 * GIB, GIB, 2), (512 * GIB + 1, GIB, 3), (128 * TIB, GIB, 257)],
)  # fmt: skip
def test_the_size_is_known_without_writing_them(end, page_bytes, tables):
    made = PageTables.identity(end, page_bytes=page_bytes)
    assert made.size_bytes == tables * 4096 == len(made.to_bytes())


@given(
    end=st.integers(1, 1100 * GIB),
    page_bytes=st.just(GIB),
    root=st.integers(0, 2**30).map(lambda page: page * 4096),
    address=st.integers(0, 2**64 - 1) | st.integers(0, 1100 * GIB),
)
def test_every_address_leads_to_itself_or_nowhere(end, page_bytes, root, address):
    check_walk(PageTables.identity(end, page_bytes=page_bytes, root=root), address)


@given(end=st.integers(1, 6 * GIB), address=st.integers(0, 7 * GIB))
def test_every_address_leads_to_itself_or_nowhere_in_small_pages_too(end, address):
    check_walk(PageTables.identity(end, page_bytes=2 * MIB), address)


def check_walk(tables, address):
    inside = address < tables.end_address
    expected = Translation(address, tables.page_bytes) if inside else None
    assert walk_memory(reader(tables), tables.root, address) == expected
    assert tables.walk(address) == expected


@page_sizes
def test_the_last_byte_is_mapped_and_the_next_is_not(page_bytes):
    tables = PageTables.identity(4 * GIB + 1, page_bytes=page_bytes)
    end = 4 * GIB + page_bytes
    assert tables.end_address == end
    assert walk_memory(reader(tables), tables.root, end - 1) == (end - 1, page_bytes)
    assert walk_memory(reader(tables), tables.root, end) is None
    assert tables.walk(-1) is None


def test_moved_tables_hold_their_new_addresses():
    tables = PageTables.identity(4 * GIB).at(0x7FFE_0000)
    assert tables.root == 0x7FFE_0000
    assert walk_memory(reader(tables), tables.root, 0xFEE0_0020) == (0xFEE0_0020, 2 * MIB)


def test_the_highest_canonical_address_can_be_mapped():
    tables = PageTables.identity(128 * TIB, page_bytes=GIB)
    top = 128 * TIB - 1
    assert walk_memory(reader(tables), tables.root, top) == (top, GIB)


def test_a_tebibyte_of_small_pages_is_written_in_no_time():
    made = []
    entries = TIB // (2 * MIB)
    assert work(lambda: made.append(PageTables.identity(TIB, page_bytes=2 * MIB).to_bytes())) < entries // 10
    data = made[0]
    assert struct.unpack("<Q", data[-8:])[0] == TIB - 2 * MIB | 0x83


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        ({"end_address": 0}, "cannot map up to 0x0"),
        ({"end_address": -GIB}, "cannot map up to -0x40000000"),
        ({"end_address": 128 * TIB + 1}, "give a multiple of 2M, at most 128T"),
        ({"end_address": GIB, "page_bytes": 4096}, "4096 bytes are no page size here; use 2M or 1G pages"),
        ({"end_address": GIB, "root": 0x9001}, "cannot lie at 0x9001; give the address of a 4 KiB page"),
        ({"end_address": GIB, "root": -4096}, "cannot lie at -0x1000"),
        ({"end_address": GIB, "root": (1 << 52) - 8192}, "cannot lie at 0xfffffffffe000"),
    ],
)
def test_tables_that_cannot_be_are_refused(arguments, why):
    with pytest.raises(PlanError, match=why):
        PageTables.identity(**arguments)


# -- where they go -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [MIB, 128 * MIB, 3 * GIB, 3 * GIB + 4096, 16 * GIB, 20 * GIB])
@pytest.mark.parametrize("cpuid", [PLAIN, WITH_1GIB])
def test_small_tables_lie_in_low_memory_and_map_ram_and_the_gap(size, cpuid):
    layout = Layout.for_memory(size)
    tables = boot_page_tables(layout, cpuid)
    assert tables.root == 0x9000
    assert layout.page_tables.contains(tables.root, tables.size_bytes)
    assert tables.page_bytes == (GIB if cpuid is WITH_1GIB else 2 * MIB)
    for address in (0, layout.ram[-1].end - 1, 0xFEE0_0030, 4 * GIB - 1):
        assert walk_memory(reader(tables), tables.root, address) == (address, tables.page_bytes)


@pytest.mark.parametrize("size", [21 * GIB, 64 * GIB, TIB])
def test_big_tables_lie_at_the_end_of_ram_below_the_gap(size):
    layout = Layout.for_memory(size)
    tables = boot_page_tables(layout, PLAIN)
    assert tables.region.end == 3 * GIB
    assert walk_memory(reader(tables), tables.root, layout.ram[-1].end - 1) == (
        layout.ram[-1].end - 1,
        2 * MIB,
    )
    BootPlan("x86_64", layout.ram, (layout.mmio_gap,), (tables.blob(),))


@pytest.mark.parametrize("low", [2 * MIB, 5 * MIB])  # too little altogether, and only if the kernel moved up
def test_tables_that_fit_nowhere_are_refused(low):
    layout = Layout((Region(0, low, "RAM"), Region(4 * GIB, TIB, "high RAM")))
    with pytest.raises(
        PlanError,
        match=r"page tables of 4128K .* fit neither in page tables 0x9000-0x1ffff nor above 0x100000",
    ):
        boot_page_tables(layout, PLAIN)


def test_the_blob_is_the_tables_at_their_root():
    tables = PageTables.identity(4 * GIB)
    assert tables.blob().region == tables.region == Region(0x9000, 6 * 4096, "page tables")
    assert tables.blob().content == tables.to_bytes()


# -- walking the tables of others ----------------------------------------------------------------------------


def test_all_three_sizes_of_page_are_walked_to():
    read = memory_of(_1000=0x2007, _2000=0x3007, _2008=0x8000_0087, _3000=0x4007, _3008=0x40_0087, _4008=0x5007)
    assert walk_memory(read, 0x1000, 0x1ABC) == (0x5ABC, 4096)
    assert walk_memory(read, 0x1000, 0x20_0ABC + 0x1000) == (0x40_1ABC, 2 * MIB)
    assert walk_memory(read, 0x1000, GIB + 0x1234_5678) == (0x9234_5678, GIB)
    assert walk_memory(read, 0x1000, 0x2ABC) is None


def test_a_kernels_upper_half_is_walked_to():
    read = memory_of(_1FF8=0x2003, _2FF0=0x3003, _3040=0x100_01E3)
    assert walk_memory(read, 0x1000, 0xFFFF_FFFF_8100_0123) == (0x100_0123, 2 * MIB)


def test_five_levels_are_walked_when_there_are_five():
    read = memory_of(_1088=0x2003, _2000=0x3003, _3000=0x83)
    assert walk_memory(read, 0x1000, 17 << 48 | 5, levels=5) == (5, GIB)
    assert walk_memory(read, 0x1000, 17 << 48 | 5) is None


def test_bits_beside_the_address_do_not_lead_astray():
    pcid, no_execute, pat = 0xFFF, 1 << 63, 1 << 12
    read = memory_of(_1000=0x2063 | no_execute, _2000=0x4000_0083 | no_execute | pat | 0x7FF << 52)
    assert walk_memory(read, 0x1000 | pcid | 1 << 63, 0x42) == (0x4000_0042, GIB)


@pytest.mark.parametrize(
    "entries",
    [
        {"_1000": 0x2002},                                     # the top entry is not present
        {"_1000": 0x83},                                       # page size is reserved there
        {"_1000": 0x2003, "_2000": 0x4020_0083},               # a 1 GiB page not on its boundary
        {"_1000": 0x2003, "_2000": 0x3003, "_3000": 0x2083},   # a 2 MiB page not on its boundary
        {"_1000": 0x2003, "_2000": 0x3003, "_3000": 0x4003},   # no entry in the last table
    ],
)  # fmt: skip
def test_what_the_processor_would_fault_on_leads_nowhere(entries):
    assert walk_memory(memory_of(**entries), 0x1000, 0x42) is None


@pytest.mark.parametrize("address", [1 << 47, (1 << 48) - 1, 1 << 63, (1 << 64) - (1 << 47) - 1, 1 << 64, -1])
def test_addresses_that_are_not_canonical_lead_nowhere(address):
    def read(address, size_bytes):
        raise AssertionError("no table has an entry for it")

    assert walk_memory(read, 0x1000, address) is None


def test_tables_in_guest_memory_are_walked_and_what_is_outside_is_reported():
    with GuestMemory([Region(0, MIB)]) as memory:
        tables = PageTables.identity(4 * GIB)
        memory.write(tables.root, tables.to_bytes())
        assert walk_memory(memory.read, tables.root, 0xC000_0000) == (0xC000_0000, 2 * MIB)
        memory.write(tables.root, struct.pack("<Q", 0x7FFF_F003))
        with pytest.raises(GuestMemoryError, match="at 0x7ffff018 is outside"):
            walk_memory(memory.read, tables.root, 0xC000_0000)
