import pytest
from hypothesis import given
from hypothesis import strategies as st

from anyvisor.errors import PlanError
from anyvisor.identity import Identity
from anyvisor.memory import MIB, Region
from anyvisor.plan import BootPlan
from anyvisor.topology import Topology
from anyvisor.x86_64.layout import Layout
from anyvisor.x86_64.smbios import (
    EntryPoint32,
    EntryPoint64,
    ProcessorInformation,
    RawStructure,
    SmbiosTables,
    SystemInformation,
    find_entry,
    smbios_tables,
)
from work import work

LAYOUT = Layout.for_memory(64 * MIB)
TABLES = smbios_tables(Identity(product="Anvil", serial="7"), Topology(cores=2), LAYOUT.ram)


def reader(memory):
    return lambda address, size: bytes(memory[address : address + size])


def test_tables_survive_bytes_and_back():
    assert SmbiosTables.decode(TABLES.to_bytes()) == TABLES
    assert SmbiosTables.decode(TABLES.to_bytes(), TABLES.entry_point(0xF0020).to_bytes()) == TABLES
    assert SmbiosTables.from_dump(TABLES.to_dump()) == TABLES


def test_a_plan_finds_its_own_tables_where_linux_looks():
    placed = TABLES.at(LAYOUT.smbios)
    plan = BootPlan("x86_64", LAYOUT.ram, blobs=placed.blobs)
    assert find_entry(plan.read) == placed.pointer == 0xF0000
    found = SmbiosTables.from_memory(plan.read, placed.pointer)
    assert found == TABLES
    assert found.entry == EntryPoint64(0xF0020, TABLES.size_bytes)
    assert [(blob.name, blob.guest_address) for blob in placed.blobs] == [
        ("SMBIOS entry point", 0xF0000),
        ("SMBIOS tables", 0xF0020),
    ]


@pytest.mark.parametrize(
    ("region", "why"),
    [
        (Region(0xF0000, 0x100, "SMBIOS"), r"of \d+ bytes, 1 processor sockets .* 256 bytes of SMBIOS 0xf0000-0xf00ff"),
        (Region(0xF0000, TABLES.size_bytes + 31, "SMBIOS"), "do not fit"),
        (Region(0xF0008, 0x8000, "SMBIOS"), "at 0xf0008: an OS looks for it only at multiples of 16 in BIOS 0xf0000"),
        (Region(0xE0000, 0x8000, "SMBIOS"), "at 0xe0000: an OS looks for it only"),
        (Region(0xFFFF0, 0x8000, "SMBIOS"), "at 0xffff0: an OS looks for it only"),
        (Region(0x100000, 0x8000, "SMBIOS"), "at 0x100000: an OS looks for it only"),
    ],
)
def test_a_place_that_is_too_small_or_never_searched_is_refused(region, why):
    with pytest.raises(PlanError, match=why):
        TABLES.at(region)


def test_tables_that_just_fit_are_placed():
    TABLES.at(Region(0xF0000, TABLES.size_bytes + 32, "SMBIOS"))


def test_too_many_sockets_are_an_error_that_says_the_way_out():
    tables = smbios_tables(Identity(), Topology(sockets=4096), LAYOUT.ram)
    with pytest.raises(PlanError, match=r"4096 processor sockets .* have fewer sockets of more cores each"):
        tables.at(LAYOUT.smbios)
    smbios_tables(Identity(), Topology(sockets=512), LAYOUT.ram).at(LAYOUT.smbios)


def test_unknown_types_are_kept_byte_for_byte():
    oem = RawStructure(221, 0xDD00, b"\x02\x01\xff", ("vendor", "thing"))
    tables = SmbiosTables((oem, *TABLES.structures))
    found = SmbiosTables.decode(tables.to_bytes())
    assert found.structures[0] == oem
    assert found.to_bytes() == tables.to_bytes()


def test_what_follows_the_last_structure_is_left_aside():
    assert SmbiosTables.decode(TABLES.to_bytes() + b"rubbish") == TABLES


def test_the_entry_point_limits_what_is_read():
    first = TABLES.structures[0].to_bytes()
    entry = EntryPoint64(0, len(first))
    assert SmbiosTables.decode(TABLES.to_bytes(), entry).structures == TABLES.structures[:1]
    counted = EntryPoint32(0, len(TABLES.to_bytes()), count=2, max_bytes=0)
    found = SmbiosTables.decode(TABLES.to_bytes(), counted)
    assert found.structures == TABLES.structures[:2]
    assert found.version == (2, 8)


def test_structures_are_found_by_class():
    assert [each.product for each in TABLES.of(SystemInformation)] == ["Anvil"]
    assert [each.cores for each in TABLES.of(ProcessorInformation)] == [2]


@given(st.integers(0, 10_000), st.integers(0, 255))
def test_a_changed_byte_never_gives_other_bytes_back(offset, value):
    table = bytearray(TABLES.to_bytes())
    table[offset % len(table)] = value
    try:
        again = SmbiosTables.decode(bytes(table)).to_bytes()
    except PlanError:
        return
    assert again == bytes(table[: len(again)])


def test_a_break_in_the_middle_is_named_by_its_offset():
    offset = len(TABLES.structures[0].to_bytes())
    table = bytearray(TABLES.to_bytes())
    table[offset + 1] = 2
    with pytest.raises(PlanError, match=f"at offset {offset:#x}: its length 2"):
        SmbiosTables.decode(bytes(table))


@pytest.mark.parametrize(
    ("dump", "why"),
    [
        (b"", "offset 0x0 has b''"),
        (TABLES.to_dump()[:32], "its table is at 0x20, and it has 32 bytes"),
        (TABLES.entry_point(0xF0020).to_bytes() + TABLES.to_bytes(), "its table is at 0xf0020, and it has"),
        (TABLES.to_dump()[:-1], "type 127 at offset .* its strings have no end"),
    ],
)
def test_a_dump_that_is_none_is_refused(dump, why):
    with pytest.raises(PlanError, match=why):
        SmbiosTables.from_dump(dump)


def test_a_length_that_lies_is_not_read():
    memory = bytearray(MIB)
    memory[0xF0000:0xF0018] = EntryPoint64(0xF0020, 0xFFFFFFFF).to_bytes()
    with pytest.raises(PlanError, match="a table of 4294967295 bytes; 16777216 are read"):
        SmbiosTables.from_memory(reader(memory), 0xF0000)


def test_an_entry_point_at_the_very_end_is_read_no_further_than_it_is_long():
    memory = bytearray(MIB)
    memory[0xFFFE0:0xFFFF8] = EntryPoint64(0xF0000, TABLES.size_bytes).to_bytes()
    memory[0xF0000 : 0xF0000 + TABLES.size_bytes] = TABLES.to_bytes()

    def read(address, size):
        assert address + size <= 0xFFFF8
        return reader(memory)(address, size)

    assert SmbiosTables.from_memory(read, 0xFFFE0) == TABLES


def test_the_files_of_linux_are_read(tmp_path):
    (tmp_path / "smbios_entry_point").write_bytes(TABLES.entry_point(0xF0020).to_bytes())
    (tmp_path / "DMI").write_bytes(TABLES.to_bytes())
    assert SmbiosTables.from_sysfs(tmp_path) == TABLES
    with pytest.raises(FileNotFoundError):
        SmbiosTables.from_sysfs(tmp_path / "absent")


def test_a_description_names_the_entry_point_and_every_structure():
    text = SmbiosTables.from_dump(TABLES.to_dump()).describe()
    assert text.startswith(f"SMBIOS 3.3.0, up to {TABLES.size_bytes} bytes of structures at 0x20\n")
    for each in TABLES.structures:
        assert each.describe() in text


def work_to_decode(count):
    table = RawStructure(1, 0, bytes(23), ("a", "b")).to_bytes() * count
    return work(lambda: SmbiosTables.decode(table))


def test_ten_times_the_structures_take_about_ten_times_the_work():
    assert work_to_decode(300) < 12 * work_to_decode(30)
