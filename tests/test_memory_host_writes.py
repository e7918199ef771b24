"""Guest RAM knows whether the host has written to it, so that a backend that keeps something of it can tell."""

import io

import pytest

from anyvisor.errors import GuestMemoryError
from anyvisor.memory import MIB, GuestMemory, Region


@pytest.fixture
def memory():
    with GuestMemory([Region(0, MIB), Region(2 * MIB, MIB)]) as memory:
        yield memory


def counts(memory):
    return [ram.host_writes for ram in memory]


def test_writes_are_counted_where_they_are_and_reads_are_not(memory):
    memory.read(0, 100)
    assert counts(memory) == [0, 0]
    memory.write(2 * MIB, b"code")
    memory.load(2 * MIB, io.BytesIO(b"more"), 4)
    memory.write(5, b"code")
    assert counts(memory) == [1, 2]


def test_a_load_that_fails_may_have_written(memory):
    with pytest.raises(GuestMemoryError):
        memory.load(0, io.BytesIO(b"short"), 100)
    assert counts(memory) == [1, 0]


def test_nothing_is_known_of_what_somebody_has_a_view_of(memory):
    with memory.view(0, 4):
        pass
    memory.write(0, b"code")
    assert counts(memory) == [None, 0]
    assert memory.regions[1].view[0] == 0
    assert counts(memory) == [None, None]


def test_nothing_is_known_of_memory_that_others_may_map():
    with GuestMemory([Region(0, MIB)], shared=True) as memory:
        assert counts(memory) == [None]
