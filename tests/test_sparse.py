"""What the host holds of a guest's memory, and files with holes."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from anyvisor import sparse
from anyvisor.memory import MIB, PAGE_BYTES, GuestMemory, Region
from anyvisor.sparse import touched, write_sparse

WRITTEN = {0: b"first", 5 * MIB + 4090: b"across two pages", 16 * MIB - 1: b"z"}
PAGES = [(0, PAGE_BYTES), (5 * MIB, 5 * MIB + 2 * PAGE_BYTES), (16 * MIB - PAGE_BYTES, 16 * MIB)]


@pytest.fixture(params=[False, True], ids=["private", "shared"])
def memory(request):
    with GuestMemory([Region(0, 16 * MIB)], shared=request.param) as made:
        yield made


def covers(extents, wanted):
    return all(any(start <= one and end <= stop for start, stop in extents) for one, end in wanted)


def test_what_was_written_is_among_what_was_touched_and_most_of_the_rest_is_not(memory):
    (ram,) = memory
    assert sum(end - start for start, end in touched(ram)) == 0
    for address, data in WRITTEN.items():
        memory.write(address, data)
    found = touched(ram)
    assert covers(found, PAGES)
    assert found == sorted(found)
    assert sum(end - start for start, end in found) <= 6 * MIB  # the host may use pages of 2 MiB


def test_looking_touches_nothing(memory):
    (ram,) = memory
    memory.write(0, b"x")
    before = touched(ram)
    assert touched(ram) == before


def test_where_it_cannot_be_asked_everything_is_looked_at(memory, monkeypatch, tmp_path):
    (ram,) = memory
    monkeypatch.setattr(sparse, "PAGEMAP", tmp_path / "absent")
    assert memory.shared or touched(ram) == [(0, 16 * MIB)]
    (tmp_path / "short").write_bytes(bytes(100))
    monkeypatch.setattr(sparse, "PAGEMAP", tmp_path / "short")
    assert memory.shared or touched(ram) == [(0, 16 * MIB)]


def test_only_pages_with_something_in_them_take_up_disk(memory, tmp_path):
    (ram,) = memory
    for address, data in WRITTEN.items():
        memory.write(address, data)
    with (tmp_path / "file").open("wb") as file:
        assert write_sparse(file, 4096, ram.view, touched(ram)) == 4 * PAGE_BYTES
    assert (tmp_path / "file").read_bytes()[4096:] == bytes(ram.view)
    assert (tmp_path / "file").stat().st_blocks * 512 <= 64 * 1024


@given(
    used=st.dictionaries(st.integers(0, 40), st.integers(1, 255)),
    extents=st.lists(st.integers(0, 41), max_size=6, unique=True).map(sorted),
)
def test_a_file_has_what_is_in_the_extents_and_zeros(tmp_path_factory, used, extents):
    content = bytearray(41 * PAGE_BYTES)
    for page, value in used.items():
        content[page * PAGE_BYTES + value] = value
    parts = [(one * PAGE_BYTES, two * PAGE_BYTES) for one, two in zip(extents[::2], extents[1::2], strict=False)]
    expected = bytearray(len(content))
    for start, end in parts:
        expected[start:end] = content[start:end]
    path = tmp_path_factory.getbasetemp() / "sparse"
    with path.open("wb") as file:
        write_sparse(file, 100, memoryview(content), parts)
        file.truncate(100 + len(content))
    assert path.read_bytes() == bytes(100) + bytes(expected)


@pytest.mark.parametrize("entries", [1, 3, 1000])
def test_in_however_many_pieces_the_page_map_is_read_the_same_is_found(entries, monkeypatch):
    with GuestMemory([Region(0, 16 * MIB)]) as memory:
        for address, data in WRITTEN.items():
            memory.write(address, data)
        (ram,) = memory
        whole = touched(ram)
        monkeypatch.setattr(sparse, "ENTRIES", entries)
        pieces = touched(ram)
    assert {page for each in pieces for page in range(*each, PAGE_BYTES)} == {
        page for each in whole for page in range(*each, PAGE_BYTES)
    }
    assert pieces != [(0, 16 * MIB)]
