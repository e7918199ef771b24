import pytest
from hypothesis import given
from hypothesis import strategies as st

from anyvisor.errors import PlanError
from anyvisor.memory import MIB
from anyvisor.x86_64.mpentries import (
    Bus,
    InterruptFlags,
    InterruptKind,
    IoApic,
    IoInterrupt,
    LocalInterrupt,
    Processor,
)
from anyvisor.x86_64.mptable import MpTable, find_pointer

GOOD = MpTable.for_cpus(2)

byte = st.integers(0, 255)
word = st.integers(0, 2**32 - 1)
interrupt = (
    st.sampled_from(InterruptKind),
    st.integers(0, 2**16 - 1).map(InterruptFlags),
    byte,
    byte,
    byte,
    byte,
)
letters = st.text(st.characters(max_codepoint=255))
entries = st.one_of(
    st.builds(Processor, byte, byte, st.booleans(), st.booleans(), word, word),
    st.builds(Bus, byte, letters.filter(lambda text: len(text) <= 6)),
    st.builds(IoApic, byte, byte, st.booleans(), word),
    st.builds(IoInterrupt, *interrupt),
    st.builds(LocalInterrupt, *interrupt),
)
tables = st.builds(
    MpTable,
    st.lists(entries, max_size=40).map(tuple),
    st.text(st.characters(max_codepoint=255), max_size=8),
    st.text(st.characters(max_codepoint=255), max_size=12),
    word,
    st.sampled_from([1, 4]),
)


def reader(memory):
    return lambda address, size: bytes(memory[address : address + size])


def with_checksum(data, offset):
    data = bytearray(data)
    data[offset] = 0
    data[offset] = -sum(data) % 256
    return bytes(data)


@given(tables)
def test_a_table_survives_memory_and_back(table):
    assert MpTable.decode(table.pointer_bytes(0x9E000), table.to_bytes() + b"after") == table


@given(tables, st.integers(0, 0x2000), byte)
def test_a_changed_byte_is_an_error_or_no_change(table, offset, value):
    good = table.to_bytes()
    bad = bytearray(good)
    bad[offset % len(good)] = value
    if bad == good:
        assert MpTable.decode(table.pointer_bytes(0x9E000), bytes(bad)) == table
    else:
        with pytest.raises(PlanError, match="offset 0x"):
            MpTable.decode(table.pointer_bytes(0x9E000), bytes(bad))


@given(st.binary(max_size=24), st.binary(max_size=200))
def test_any_bytes_are_a_table_or_a_plan_error(pointer, table):
    pointer, table = pointer.ljust(16, b"\0"), table.ljust(48, b"\0")
    size = len(table).to_bytes(2, "little")
    pointer = with_checksum(b"_MP_" + pointer[4:8] + b"\x01\x04" + bytes(6), 10)
    table = with_checksum(b"PCMP" + size + b"\x04\x00" + table[8:], 7)
    try:
        read = MpTable.decode(pointer, table)
    except PlanError:
        return
    assert read.size_bytes == len(table)


def broken(offset, *values):
    """The good table with other bytes and a right checksum."""
    table = bytearray(GOOD.to_bytes())
    table[offset : offset + len(values)] = bytes(values)
    return with_checksum(table, 7)


@pytest.mark.parametrize(
    ("table", "why"),
    [
        (b"", "ends at offset 0x0, in its header of 44 bytes"),
        (GOOD.to_bytes()[:43], "ends at offset 0x2b"),
        (GOOD.to_bytes()[:-1], "length at offset 0x4 is 308, not 44 to the 307 bytes there are"),
        (broken(4, 43, 0), "length at offset 0x4 is 43"),
        (broken(0, ord("X")), "signature at offset 0x0 is b'XCMP', not b'PCMP'"),
        (
            GOOD.to_bytes()[:7] + b"\0" + GOOD.to_bytes()[8:],
            "MP table: checksum at offset 0x7 is 0x00, not 0x",
        ),
        (broken(44, 5), "entry at offset 0x2c has the unknown type 5"),
        (broken(44, 255), "entry at offset 0x2c has the unknown type 255"),
        (broken(308 - 8, 0), "Processor entry at offset 0x12c"),
        (broken(308 - 7, 9), "LocalInterrupt entry at offset 0x12c: 9 is not a valid InterruptKind"),
        (broken(6, 2), "revision 2 does not exist"),
    ],
)
def test_broken_tables_are_refused_with_the_offset(table, why):
    with pytest.raises(PlanError, match=why):
        MpTable.decode(GOOD.pointer_bytes(0x9E000), table)


@pytest.mark.parametrize(
    ("pointer", "why"),
    [
        (b"_MP_", "MP pointer ends at offset 0x4; it has 16 bytes"),
        (b"_PM_" + bytes(12), "signature at offset 0x0 is b'_PM_', not b'_MP_'"),
        (
            GOOD.pointer_bytes(0x9E000)[:10] + b"\0" + bytes(5),
            "MP pointer: checksum at offset 0xa is 0x00, not 0x",
        ),
        (b"_MP_\0\xe0\x09\0\x02\x04" + bytes(6), "length 2 and revision 4 at offset 0x8"),
        (b"_MP_\0\xe0\x09\0\x01\x03" + bytes(6), "length 1 and revision 3 at offset 0x8"),
        (
            with_checksum(b"_MP_\0\0\0\0\x01\x04\0\x05" + bytes(4), 10),
            "names default configuration 5 at offset 0xb",
        ),
    ],
)
def test_broken_pointers_are_refused_with_the_offset(pointer, why):
    with pytest.raises(PlanError, match=why):
        MpTable.decode(pointer, GOOD.to_bytes())


def test_an_entry_count_of_zero_is_taken_as_some_writers_mean_it():
    assert MpTable.decode(GOOD.pointer_bytes(0x9E000), broken(34, 0, 0)) == GOOD


def test_a_length_that_lies_does_not_make_it_read_on_forever():
    memory = bytearray(MIB)
    memory[0x9E000 : 0x9E000 + 44] = broken(4, 255, 255)[:44]
    memory[0x9FC00:0x9FC10] = GOOD.pointer_bytes(0x9E000)
    sizes = []

    def read(address, size):
        sizes.append(size)
        return bytes(memory[address : address + size])

    with pytest.raises(PlanError, match="checksum"):
        MpTable.from_memory(read, 0x9FC00)
    assert max(sizes) == 65535


@pytest.mark.parametrize("place", [0x10, 0x9FC00, 0x9FFF0, 0xF0000, 0xFFFF0])
def test_a_pointer_is_found_where_linux_looks(place):
    memory = bytearray(MIB)
    memory[place : place + 16] = GOOD.pointer_bytes(0x80000)
    memory[0x80000 : 0x80000 + GOOD.size_bytes] = GOOD.to_bytes()
    assert find_pointer(reader(memory)) == place
    assert MpTable.from_memory(reader(memory), place) == GOOD


@pytest.mark.parametrize("place", [0x400, 0x80000, 0x9FC08, 0xE0000, 0xEFFF0])
def test_a_pointer_elsewhere_is_not_found(place):
    memory = bytearray(MIB)
    memory[place : place + 16] = GOOD.pointer_bytes(0x80000)
    assert find_pointer(reader(memory)) is None


def test_the_ebda_is_where_the_bios_data_area_says():
    memory = bytearray(MIB)
    memory[0x90000:0x90010] = GOOD.pointer_bytes(0x80000)
    assert find_pointer(reader(memory)) is None
    memory[0x40E:0x410] = b"\x00\x90"
    assert find_pointer(reader(memory)) == 0x90000


def test_an_ebda_at_the_very_end_does_not_lead_beyond_the_first_mebibyte():
    memory = bytearray(MIB)
    memory[0x40E:0x410] = b"\xff\xff"

    def read(address, size):
        assert address + size <= MIB
        return reader(memory)(address, size)

    assert find_pointer(read) is None


def test_what_only_looks_like_a_pointer_is_passed_over():
    memory = bytearray(MIB)
    memory[0xF0000:0xF0010] = GOOD.pointer_bytes(0x80000)[:15] + b"\x01"
    memory[0xF1230:0xF1240] = GOOD.pointer_bytes(0x80000)
    assert find_pointer(reader(memory)) == 0xF1230
