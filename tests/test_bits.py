import enum

import pytest
from hypothesis import given
from hypothesis import strategies as st

from anyvisor.bits import Bits, bit, field


class Mode(enum.IntEnum):
    FIXED = 0
    NMI = 4


class Entry(Bits):
    vector = field(0, 8)
    mode = field(8, 3, Mode)
    masked = bit(16)


class WiderEntry(Entry):
    destination = field(56, 8)


def test_fields_are_read_by_name_with_their_type():
    entry = Entry(0x1_04_31)
    assert (entry.vector, entry.mode, entry.masked) == (0x31, Mode.NMI, True)
    assert isinstance(entry.mode, Mode)
    assert entry.masked is True


def test_fields_are_written_by_name():
    assert Entry(vector=0x31, mode=Mode.NMI, masked=True) == 0x10431
    assert Entry(0x10431, masked=False) == 0x431
    assert Entry(0x10431).replace(vector=0, mode=Mode.FIXED) == 0x10000


def test_replacing_keeps_the_class_and_bits_without_a_name():
    assert type(Entry(1).replace(masked=True)) is Entry
    assert Entry(0x8000_0000).replace(vector=1) == 0x8000_0001


def test_a_value_is_the_number_itself():
    entry = Entry(0x10431)
    assert entry == 0x10431
    assert entry.to_bytes(4, "little") == b"\x31\x04\x01\x00"
    assert {0x10431: "found"}[entry] == "found"


@pytest.mark.parametrize("wrong", [{"vector": 256}, {"vector": -1}, {"masked": 2}, {"mode": 8}])
def test_values_that_do_not_fit_are_refused_by_name(wrong):
    with pytest.raises(ValueError, match=rf"{next(iter(wrong))}=.* does not fit in \d bit"):
        Entry(**wrong)


def test_unknown_fields_are_refused_naming_those_there_are():
    with pytest.raises(TypeError, match="Entry has no field 'vectro'; it has vector, mode, masked"):
        Entry(vectro=1)


def test_subclasses_add_fields_and_leave_their_parent_as_it_was():
    assert WiderEntry(vector=1, destination=0xFF) == 0xFF00_0000_0000_0001
    assert list(WiderEntry.fields) == ["vector", "mode", "masked", "destination"]
    assert list(Entry.fields) == ["vector", "mode", "masked"]


def test_the_words_name_what_is_set_and_show_what_has_no_name():
    class Flags(Bits):
        pe = bit(0)
        level = field(4, 2)
        pg = bit(31)

    assert Flags(pe=True, pg=True).words() == "pe|pg"
    assert Flags(level=3).words() == "level=3"
    assert Flags(0x8000_0102).words() == "pg|0x102"
    assert repr(Flags(pe=True)) == "Flags(0x1: pe)"
    assert repr(Flags()) == "Flags(0)"


def test_a_field_of_the_class_knows_its_place():
    assert (Entry.mode.low, Entry.mode.width, Entry.mode.mask, Entry.mode.name) == (8, 3, 0x700, "mode")


@given(st.integers(0, 2**64 - 1), st.integers(0, 255), st.booleans())
def test_writing_one_field_changes_only_its_bits(value, vector, masked):
    changed = WiderEntry(value).replace(vector=vector, masked=masked)
    assert (changed.vector, changed.masked) == (vector, masked)
    assert (changed ^ value) & ~0x100FF == 0
