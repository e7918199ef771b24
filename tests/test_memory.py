import ctypes
import io
import mmap
import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from anyvisor.errors import GuestMemoryError
from anyvisor.memory import (
    GIB,
    MIB,
    PAGE_BYTES,
    TIB,
    GuestMemory,
    Region,
    align_down,
    align_up,
    format_size,
    parse_size,
)

LOW, HIGH = Region(0, MIB, "RAM"), Region(4 * GIB, MIB, "high RAM")


@pytest.fixture
def memory():
    with GuestMemory([HIGH, LOW]) as memory:
        yield memory


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("512M", 512 * MIB),
        ("2g", 2 * GIB),
        ("4096", 4096),
        (" 1 KiB ", 1024),
        ("3TB", 3 * TIB),
        (17, 17),
        ("0", 0),
    ],
)
def test_sizes_are_read_with_their_units(text, size):
    assert parse_size(text) == size


@pytest.mark.parametrize("text", ["", "M", "1.5G", "-1", "1P", "12 34", "0x1000", "512 megabytes", True, None, 1.5])
def test_what_is_no_size_is_refused(text):
    with pytest.raises(ValueError, match="is not a size; write bytes or a number with K, M, G or T"):
        parse_size(text)


@given(st.integers(0, 2**60))
def test_a_formatted_size_reads_back_as_itself(size):
    assert parse_size(format_size(size)) == size


@given(st.integers(0, 2**64), st.sampled_from([1, 16, 4096, 2 * MIB]))
def test_alignment_is_the_nearest_multiple_on_its_side(value, alignment):
    down, up = align_down(value, alignment), align_up(value, alignment)
    assert down % alignment == up % alignment == 0
    assert down <= value <= up
    assert value - down < alignment
    assert up - value < alignment


def test_a_region_knows_its_end_and_what_lies_in_it():
    region = Region(0x1000, 0x1000, "page")
    assert region.end == 0x2000
    assert region.contains(0x1000, 0x1000)
    assert not region.contains(0x1000, 0x1001)
    assert not region.contains(0xFFF)
    assert region.overlaps(Region(0x1FFF, 1))
    assert not region.overlaps(Region(0x2000, 1))
    assert str(region) == "page 0x1000-0x1fff"


def test_fresh_memory_is_zero_and_holds_what_is_written(memory):
    assert memory.read(0x1000, 4) == bytes(4)
    memory.write(0x1001, b"abc")
    memory.write(HIGH.start, bytearray(b"high"))
    assert memory.read(0x1000, 5) == b"\0abc\0"
    assert memory.read(HIGH.start, 4) == b"high"
    assert memory.size_bytes == 2 * MIB


def test_regions_are_kept_in_address_order(memory):
    assert [ram.region for ram in memory] == [LOW, HIGH]


def test_a_view_is_the_memory_itself(memory):
    with memory.view(0x2000, 4) as view:
        view[:] = b"view"
    assert memory.read(0x2000, 4) == b"view"


def test_the_host_address_is_where_the_bytes_are(memory):
    memory.write(HIGH.start + 16, b"here")
    assert ctypes.string_at(memory.regions[1].host_address + 16, 4) == b"here"


@pytest.mark.parametrize(
    ("address", "size"),
    [
        (MIB - 1, 2),              # over the end of a region
        (MIB, 1),                  # just after one
        (HIGH.start - 1, 1),       # just before one
        (HIGH.end - 1, 2),
        (MIB - 1, HIGH.start),     # from one region into another
        (2**64 - 1, 1),
        (2**64, 1),
        (0, 2**64),
        (-1, 1),
        (-1, 2),
        (0, -1),
        (0x1000, -0x1000),
    ],
)  # fmt: skip
def test_accesses_outside_one_region_are_refused(memory, address, size):
    for access in (memory.read, memory.view):
        with pytest.raises(GuestMemoryError, match="is outside one region of RAM: RAM 0x0-0xfffff, high RAM"):
            access(address, size)


def test_a_write_over_the_end_leaves_memory_as_it_was(memory):
    with pytest.raises(GuestMemoryError, match="4 byte"):
        memory.write(MIB - 2, b"over")
    assert memory.read(MIB - 2, 2) == bytes(2)


@given(st.integers(-PAGE_BYTES, 2 * PAGE_BYTES), st.integers(-4, 2 * PAGE_BYTES))
def test_an_access_works_exactly_when_it_lies_inside(address, size):
    with GuestMemory([Region(0, PAGE_BYTES)]) as memory:
        if address in range(PAGE_BYTES + 1) and size in range(PAGE_BYTES + 1 - address):
            assert memory.read(address, size) == bytes(size)
        else:
            with pytest.raises(GuestMemoryError):
                memory.read(address, size)


def test_the_last_byte_and_nothing_at_the_end_can_be_read(memory):
    assert memory.read(MIB - 1, 1) == b"\0"
    assert memory.read(MIB, 0) == b""


def test_a_file_is_loaded_whole(memory, tmp_path):
    (tmp_path / "initrd").write_bytes(os.urandom(3 * PAGE_BYTES + 7))
    with (tmp_path / "initrd").open("rb") as file:
        file.seek(5)
        memory.load(0x3000, file, 3 * PAGE_BYTES)
    assert memory.read(0x3000, 3 * PAGE_BYTES) == (tmp_path / "initrd").read_bytes()[5 : 3 * PAGE_BYTES + 5]


def test_short_reads_are_gone_on_with(memory):
    class Slow(io.BytesIO):
        def readinto(self, buffer):
            return super().readinto(memoryview(buffer)[:3])

    memory.load(0, Slow(b"0123456789"), 10)
    assert memory.read(0, 11) == b"0123456789\0"


def test_a_file_that_ends_early_is_an_error_that_says_how_much_came(memory):
    with pytest.raises(GuestMemoryError, match="ends after 3 of the 8 bytes that belong at 0x1000"):
        memory.load(0x1000, io.BytesIO(b"abc"), 8)


@pytest.mark.parametrize(
    "region", [Region(0, 0), Region(1, PAGE_BYTES), Region(0, PAGE_BYTES + 1), Region(0, -PAGE_BYTES)]
)
def test_regions_that_are_not_whole_pages_are_refused(region):
    with pytest.raises(GuestMemoryError, match="is not a whole number of 4096-byte pages"):
        GuestMemory([region])


def test_overlapping_regions_are_refused_naming_both():
    with pytest.raises(GuestMemoryError, match="one 0x0-0x1fff overlaps two 0x1000-0x1fff"):
        GuestMemory([Region(0x1000, 0x1000, "two"), Region(0, 0x2000, "one")])


def test_more_memory_than_can_be_mapped_is_an_error_with_a_way_out():
    with pytest.raises(GuestMemoryError, match=r"cannot map .* of guest RAM .*; ask for less memory"):
        GuestMemory([Region(0, 1 << 60)])


def test_memory_costs_nothing_until_it_is_touched():
    with GuestMemory([Region(0, 64 * GIB)]) as memory:
        memory.write(63 * GIB, b"x")
        assert memory.read(63 * GIB, 2) == b"x\0"


def test_shared_memory_is_seen_by_whoever_maps_its_fd():
    with GuestMemory([LOW], shared=True) as memory:
        memory.write(0x1000, b"shared")
        with mmap.mmap(memory.regions[0].fd, MIB) as other:
            assert other[0x1000:0x1006] == b"shared"
            other[0x2000:0x2004] = b"back"
        assert memory.read(0x2000, 4) == b"back"


def test_closing_twice_is_fine_and_closed_memory_is_refused():
    memory = GuestMemory([LOW], shared=True)
    fd = memory.regions[0].fd
    memory.close()
    memory.close()
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(fd)
    with pytest.raises(GuestMemoryError, match=r"nothing \(closed\)"):
        memory.read(0, 1)


def test_a_view_that_outlives_the_memory_stays_readable():
    memory = GuestMemory([LOW])
    memory.write(0, b"alive")
    view = memory.view(0, 5)
    memory.close()
    assert bytes(view) == b"alive"


def test_shared_memory_says_what_a_system_without_memfd_lacks(monkeypatch):
    monkeypatch.delattr(os, "memfd_create")
    with pytest.raises(
        GuestMemoryError, match=r"cannot map shared guest RAM at RAM 0x0-0xfffff: .* no memfd_create.* leave out"
    ):
        GuestMemory([LOW], shared=True)
    with GuestMemory([LOW]) as memory:
        assert memory.read(0, 1) == b"\0"
