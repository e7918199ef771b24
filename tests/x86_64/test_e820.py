"""The guest's memory map: RAM with the reserved ranges cut out, sorted, nothing twice."""

import itertools

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from anyvisor.errors import PlanError
from anyvisor.memory import GIB, MIB, Region
from anyvisor.x86_64.e820 import E820Entry, E820Type, e820
from anyvisor.x86_64.layout import Layout

RAM, RESERVED = E820Type.RAM, E820Type.RESERVED


def test_a_small_machine_has_three_ranges():
    assert e820(Layout.for_memory(512 * MIB)) == (
        E820Entry(0, 0x9E000, RAM),
        E820Entry(0x9E000, 0x62000, RESERVED),
        E820Entry(0x100000, 511 * MIB, RAM),
    )


def test_ram_goes_on_beyond_the_mmio_gap_which_stays_a_hole():
    entries = e820(Layout.for_memory(4 * GIB))
    assert entries[2:] == (E820Entry(1 * MIB, 3 * GIB - 1 * MIB, RAM), E820Entry(4 * GIB, 1 * GIB, RAM))


def test_an_entry_is_twenty_bytes():
    data = bytes.fromhex("0000100000000000 0000f00700000000 02000000")
    assert E820Entry(0x100000, 0x7F00000, RESERVED).to_bytes() == data
    assert E820Entry.from_bytes(data) == E820Entry(0x100000, 0x7F00000, RESERVED)
    with pytest.raises(PlanError, match="type 99"):
        E820Entry.from_bytes(data[:-4] + b"\x63\0\0\0")


def test_too_many_ranges_are_refused():
    def layout(holes):
        reserved = tuple(Region(index * 8192, 4096) for index in range(1, holes + 1))
        return attrs.evolve(Layout.for_memory(64 * MIB), reserved=reserved)

    assert len(e820(layout(63))) == 127
    with pytest.raises(PlanError, match="129 entries, the zero page has room for 128"):
        e820(layout(64))


REGIONS = st.lists(st.builds(Region, st.integers(0, 90), st.integers(0, 30)), max_size=8).map(tuple)


@given(REGIONS, REGIONS)
def test_every_address_is_what_the_layout_says(ram, reserved):
    entries = e820(attrs.evolve(Layout.for_memory(1 * MIB), ram=ram or (Region(0, 1),), reserved=reserved))
    assert all(one.end <= two.start for one, two in itertools.pairwise(entries))
    assert all(entry.size_bytes > 0 for entry in entries)
    for address in range(130):
        found = [entry.type for entry in entries if entry.start <= address < entry.end]
        if any(region.contains(address) for region in reserved):
            assert found == [RESERVED]
        elif any(region.contains(address) for region in ram or (Region(0, 1),)):
            assert found == [RAM]
        else:
            assert found == []
