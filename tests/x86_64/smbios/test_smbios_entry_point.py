import pytest
from hypothesis import given
from hypothesis import strategies as st

from anyvisor.errors import PlanError
from anyvisor.memory import MIB
from anyvisor.x86_64.smbios import EntryPoint32, EntryPoint64, decode_entry, find_entry

NEW, OLD = EntryPoint64(0xF0020, 500), EntryPoint32(0xF5A10, 388, count=9, max_bytes=81)
byte, word, dword = st.integers(0, 0xFF), st.integers(0, 0xFFFF), st.integers(0, 0xFFFFFFFF)
entries = st.one_of(
    st.builds(EntryPoint64, st.integers(0, 2**64 - 1), dword, st.tuples(byte, byte, byte), byte, byte),
    st.builds(
        EntryPoint32, dword, word, word, word, st.tuples(byte, byte), byte,
        st.binary(min_size=5, max_size=5), byte, st.sampled_from([30, 31]),
    ),
)  # fmt: skip


def memory_with(pieces):
    memory = bytearray(MIB)
    for address, piece in pieces.items():
        memory[address : address + len(piece)] = piece
    return lambda address, size: bytes(memory[address : address + size])


def test_the_64_bit_entry_point_to_the_byte():
    raw = b"_SM3_\x00\x18\x03\x03\x00\x01\x00" + (500).to_bytes(4, "little") + (0xF0020).to_bytes(8, "little")
    checksum = -sum(raw) % 256
    assert NEW.to_bytes() == raw[:5] + bytes([checksum]) + raw[6:]
    assert len(NEW.to_bytes()) == 24


def test_the_32_bit_entry_point_to_the_byte():
    raw = OLD.to_bytes()
    assert (raw[:4], raw[5:11], raw[16:21]) == (b"_SM_", b"\x1f\x02\x08\x51\x00\x00", b"_DMI_")
    assert raw[22:] == bytes.fromhex("8401 105a0f00 0900 28")
    assert sum(raw) % 256 == sum(raw[16:]) % 256 == 0
    assert len(raw) == 31


def test_an_entry_point_of_length_30_sums_up_30_bytes():
    raw = EntryPoint32(0xF5A10, 388, count=9, max_bytes=81, version=(2, 1), bcd_revision=0x21, length=30).to_bytes()
    assert raw[5] == 30 and sum(raw[:30]) % 256 == sum(raw[16:]) % 256 == 0
    assert sum(raw) % 256 == 0x21


@given(entries)
def test_an_entry_point_survives_bytes_and_back(entry):
    assert decode_entry(entry.to_bytes() + b"after") == entry


@given(entries, st.integers(0, 30), byte)
def test_a_changed_byte_is_an_error_or_no_change(entry, offset, value):
    good = entry.to_bytes()
    bad = bytearray(good)
    bad[offset % len(good)] = value
    if bad == good or {bad[5], good[5]} == {30, 31}:  # of an old one both lengths may be right
        return
    with pytest.raises(PlanError, match=r"offset 0x"):
        decode_entry(bytes(bad))


@given(st.binary(max_size=40), st.sampled_from([b"", b"_SM_", b"_SM3_"]))
def test_any_bytes_are_an_entry_point_or_a_plan_error(data, anchor):
    try:
        entry = decode_entry(anchor + data)
    except PlanError:
        return
    assert entry.to_bytes() == (anchor + data)[: len(entry.to_bytes())]


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (b"", "offset 0x0 has b'', not b'_SM3_' or b'_SM_'"),
        (b"_DMI_" + bytes(30), "offset 0x0 has b'_DMI_'"),
        (NEW.to_bytes()[:23], "ends at offset 0x17; it has 24 bytes"),
        (OLD.to_bytes()[:30], "ends at offset 0x1e; it has 31 bytes"),
        (NEW.to_bytes()[:6] + b"\x17" + NEW.to_bytes()[7:], "length at offset 0x6 is 23, not 24"),
        (OLD.to_bytes()[:5] + b"\x20" + OLD.to_bytes()[6:], "length at offset 0x5 is 32, not 31"),
        (NEW.to_bytes()[:5] + b"\0" + NEW.to_bytes()[6:], "checksum at offset 0x5 is 0x00, not"),
        (OLD.to_bytes()[:4] + b"\0" + OLD.to_bytes()[5:], "checksum at offset 0x4 is 0x00, not"),
        (OLD.to_bytes()[:16] + b"_DMJ_" + OLD.to_bytes()[21:], "checksum at offset 0x4"),
    ],
)
def test_broken_entry_points_are_refused_with_the_offset(data, why):
    with pytest.raises(PlanError, match=why):
        decode_entry(data)


def test_the_older_anchor_and_its_own_sum_are_checked():
    other = bytearray(OLD.to_bytes())
    other[18], other[19] = other[19], other[18]  # _DMI_ becomes _DIM_, the sums stay
    with pytest.raises(PlanError, match="anchor at offset 0x10 is b'_DIM_'"):
        decode_entry(bytes(other))
    other = bytearray(OLD.to_bytes())
    other[8] = other[8] + 1 & 0xFF  # outside the part that _DMI_ begins
    other[21] = other[21] - 1 & 0xFF
    with pytest.raises(PlanError, match="from 0x10 on: checksum at offset 0x5 is 0x38, not 0x39"):
        decode_entry(bytes(other))


@pytest.mark.parametrize("entry", [NEW, OLD])
@pytest.mark.parametrize("place", [0xF0000, 0xF59F0, 0xFFFE0])
def test_an_entry_point_is_found_where_linux_looks(entry, place):
    assert find_entry(memory_with({place: entry.to_bytes()})) == place


@pytest.mark.parametrize("entry", [NEW, OLD])
@pytest.mark.parametrize("place", [0x400, 0xEFFF0, 0xE0000, 0xF0008, 0xF0001])
def test_an_entry_point_elsewhere_is_not_found(entry, place):
    assert find_entry(memory_with({place: entry.to_bytes()})) is None


def test_the_64_bit_entry_point_goes_before_the_older_one():
    assert find_entry(memory_with({0xF0000: OLD.to_bytes(), 0xF8000: NEW.to_bytes()})) == 0xF8000


def test_what_only_looks_like_an_entry_point_is_passed_over():
    bad = NEW.to_bytes()[:-1] + b"\x01"
    assert find_entry(memory_with({0xF0000: bad, 0xF1230: NEW.to_bytes()})) == 0xF1230
    assert find_entry(memory_with({0xFFFF0: NEW.to_bytes()[:16]})) is None


def test_a_moved_entry_point_differs_only_in_the_address():
    for entry in (NEW, OLD):
        moved = entry.moved(0x20)
        assert (moved.table_address, moved.table_bytes, moved.version) == (0x20, entry.table_bytes, entry.version)


@pytest.mark.parametrize(
    "make",
    [
        lambda: EntryPoint64(1 << 64, 0),
        lambda: EntryPoint64(0, 1 << 32),
        lambda: EntryPoint64(0, 0, (256, 0, 0)),
        lambda: EntryPoint32(1 << 32, 0, 0, 0),
        lambda: EntryPoint32(0, 1 << 16, 0, 0),
    ],
)
def test_numbers_that_do_not_fit_are_refused(make):
    with pytest.raises(PlanError, match="does not fit in its bytes"):
        make().to_bytes()
