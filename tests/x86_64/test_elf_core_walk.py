"""All that page tables map, against walks of single addresses."""

import itertools
import random
import struct

import attrs
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from anyvisor.errors import GuestMemoryError
from anyvisor.memory import GIB, MIB
from anyvisor.x86_64.control import Cr0, Cr4, Efer
from anyvisor.x86_64.elf_core.mapped_runs import MAX_USES, OFTEN_USED, TOO_MUCH, Mappings
from anyvisor.x86_64.elf_core.segments import Run, without
from anyvisor.x86_64.page_walk import walk
from anyvisor.x86_64.paging import walk_memory
from anyvisor.x86_64.paging_modes import LONG_4, LONG_5, PAE, WITH_PSE, WITHOUT_PSE, paging_of
from anyvisor.x86_64.reset import reset_states
from anyvisor.x86_64.state import Sregs

RESET = next(state for state in reset_states() if isinstance(state, Sregs))
PROTECTED = attrs.evolve(RESET, cr0=Cr0(pe=True, pg=True))
LONG = attrs.evolve(PROTECTED, cr4=Cr4(pae=True), efer=Efer(lme=True, lma=True, nxe=True))
MODES = {
    "4-level": LONG,
    "5-level": attrs.evolve(LONG, cr4=Cr4(pae=True, la57=True)),
    "PAE": attrs.evolve(PROTECTED, cr4=Cr4(pae=True), efer=Efer(nxe=True)),
    "32-bit": attrs.evolve(PROTECTED, cr4=Cr4(pse=True)),
}
TABLES = 6
PAGE = 4096


def reader(memory):
    def read(address, size):
        if not 0 <= address <= len(memory) - size:
            raise GuestMemoryError("outside")
        return bytes(memory[address : address + size])

    return read


def random_tables(mode, seed):
    """Tables that lead to each other, to pages big and small, outside, and nowhere."""
    choose = random.Random(seed)
    memory = bytearray(TABLES * PAGE)
    layout, count = ("<I", 1024) if mode == "32-bit" else ("<Q", 4 if mode == "PAE" else 512)
    for table in range(TABLES):
        for index in {0, 1, count // 2, count - 1, choose.randrange(count), choose.randrange(count)}:
            entry = choose.randrange(TABLES + 1) << 12 | choose.choice([7, 3, 3, 1, 0])
            if mode == "PAE" and table == 0:
                entry &= ~6  # reserved there
            elif choose.random() < 0.3:
                entry = choose.randrange(64) << 22 | 0x83 | choose.choice([0, 0, (mode != "32-bit") << 21])
            struct.pack_into(layout, memory, table * PAGE + index * struct.calcsize(layout), entry)
        count = 1024 if mode == "32-bit" else 512
    return memory


def mapped(runs, address):
    return next((run.target + address - run.start for run in runs if run.start <= address < run.end), None)


def interesting(runs, choose):
    """Addresses at and beside the ends of runs, and some anywhere."""
    ends = [end for run in choose.sample(runs, min(len(runs), 20)) for end in (run.start, run.end)]
    near = [(end + by) % (1 << 64) for end in ends for by in (-1, 0, 1, 4095)]
    return near + [choose.randrange(1 << bits) for bits in (22, 32, 32, 47, 48, 57, 64)]


@pytest.mark.parametrize("mode", MODES)
@settings(max_examples=40)
@given(seed=st.integers(0, 1 << 32))
def test_what_is_mapped_is_what_walks_of_single_addresses_find(mode, seed):
    memory = random_tables(mode, seed)
    read, sregs = reader(memory), MODES[mode]
    finder = Mappings(read)
    runs = finder.runs(paging_of(sregs), sregs.cr3)
    assert all(one.end <= two.start for one, two in itertools.pairwise(runs))
    for address in interesting(runs, random.Random(seed)):
        if address < 1 << 32 or "level" in mode:
            found = mapped(runs, address)
            assert found == walked(mode, read, sregs, address) or (found is None and finder.left_out), hex(address)


def test_few_of_the_random_tables_reach_a_limit():
    finders = [(mode, Mappings(reader(random_tables(mode, seed)))) for mode in MODES for seed in range(20)]
    runs = [finder.runs(paging_of(MODES[mode]), 0) for mode, finder in finders]
    complete = [found for (_, finder), found in zip(finders, runs, strict=True) if not finder.left_out]
    assert len(complete) > 40
    assert sum(len(found) > 3 for found in complete) > 40


def walked(mode, read, sregs, address):
    if "level" not in mode:
        return walk(read, sregs, address).guest_address
    try:
        found = walk_memory(read, sregs.cr3, address, levels=int(mode[0]))
    except GuestMemoryError:
        return None
    assert (found and found.guest_address) == walk(read, sregs, address).guest_address
    return found and found.guest_address


def entries(memory, table, format_, *values):
    for index, value in values:
        struct.pack_into(format_, memory, table * PAGE + index * struct.calcsize(format_), value)


def test_pages_of_4_mib_keep_their_upper_address_bits_low_in_the_entry():
    memory = bytearray(PAGE)
    entries(memory, 0, "<I", (1, 0x0040_0083 | 5 << 13), (2, 0x0020_0083), (3, 0x00C0_0083))
    runs = Mappings(reader(memory)).runs(WITH_PSE, 0)
    assert runs == [Run(4 * MIB, 5 << 32 | 4 * MIB, 4 * MIB), Run(12 * MIB, 12 * MIB, 4 * MIB)]  # bit 21 is reserved


@pytest.mark.parametrize("paging", [LONG_4, LONG_5, PAE])
def test_the_bit_of_big_pages_is_reserved_where_there_are_none(paging):
    memory = bytearray(PAGE)
    entries(memory, 0, "<Q", (0, 0x83))
    assert Mappings(reader(memory)).runs(paging, 0) == []


def test_without_pse_the_bit_of_big_pages_says_nothing():
    memory = bytearray(2 * PAGE)
    entries(memory, 0, "<I", (0, 0x1083))
    entries(memory, 1, "<I", (2, 0x5003))
    assert Mappings(reader(memory)).runs(WITHOUT_PSE, 0) == [Run(2 * PAGE, 5 * PAGE, PAGE)]


def test_neighbours_are_one_run_across_tables_and_sizes():
    memory = bytearray(5 * PAGE)
    entries(memory, 0, "<Q", (0, 0x1003))
    entries(memory, 1, "<Q", (0, 0x2003), (1, 0x4000_0083))
    entries(memory, 2, "<Q", (0, 0x3003), *((index, index << 21 | 0x83) for index in range(1, 512)))
    entries(memory, 3, "<Q", *((index, index << 12 | 3) for index in range(512)))
    assert Mappings(reader(memory)).runs(LONG_4, 0) == [Run(0, 0, 2 * GIB)]


def test_tables_that_map_the_same_a_billion_times_cost_nothing_and_are_told_of():
    memory = bytearray(PAGE)
    entries(memory, 0, "<Q", *((index, 3) for index in range(512)))
    read, reads = reader(memory), []
    finder = Mappings(lambda address, size: reads.append(address) or read(address, size))
    runs = finder.runs(LONG_4, 0)
    assert reads == [0] * LONG_4.levels
    assert len(runs) == MAX_USES**3 * 512  # as a table of each of three levels
    assert finder.left_out == {OFTEN_USED}


def test_more_tables_and_runs_than_the_limits_are_left_out_the_lower_half_first():
    memory = bytearray(3 * PAGE)
    entries(memory, 0, "<I", (0, 0x1003), (512, 0x2003))
    for table in (1, 2):
        entries(memory, table, "<I", *((index, 3) for index in range(8)))
    upper = Mappings(reader(memory), max_runs=8)
    assert [run.start for run in upper.runs(WITHOUT_PSE, 0)] == [(2 << 30) + index * PAGE for index in range(8)]
    assert upper.left_out == {TOO_MUCH}
    few = Mappings(reader(memory), max_tables=2)
    assert min(run.start for run in few.runs(WITHOUT_PSE, 0)) == 2 << 30
    assert few.left_out == {TOO_MUCH}


def test_tables_made_to_keep_us_busy_are_given_up_and_so_are_those_of_all_other_processors():
    memory = bytearray(40 * PAGE)
    for root in (0, 20):
        entries(memory, root, "<I", *((index, (root + 1 + index) << 12 | 3) for index in range(19)))
        for table in range(root + 1, root + 20):
            entries(memory, table, "<I", *((index, index * 2 << 12 | 3) for index in range(1024)))
    assert len(Mappings(reader(memory)).runs(WITHOUT_PSE, 0)) == 19 * 1024
    finder = Mappings(reader(memory), max_work=5000)
    assert len(finder.runs(WITHOUT_PSE, 0)) < 5000
    assert finder.left_out == {TOO_MUCH}
    assert finder.runs(WITHOUT_PSE, 20 * PAGE) == []


runs_of_numbers = st.sets(st.integers(0, 40)).map(lambda taken: [Run(each, 1000 + each, 1) for each in sorted(taken)])


def joined(runs):
    """Some neighbours made one."""
    found = []
    for run in runs:
        if found and found[-1].end == run.start and run.start % 3:
            found[-1] = found[-1]._replace(size_bytes=found[-1].size_bytes + 1)
        else:
            found.append(run)
    return found


@given(runs=runs_of_numbers.map(joined), others=runs_of_numbers.map(joined))
def test_what_others_have_is_taken_out_and_all_else_stays(runs, others):
    taken = {address for run in others for address in range(run.start, run.end)}
    wanted = {address: 1000 + address for run in runs for address in range(run.start, run.end) if address not in taken}
    left = list(without(runs, others))
    assert {run.start + each: run.target + each for run in left for each in range(run.size_bytes)} == wanted
    assert left == sorted(left) and all(run.size_bytes > 0 for run in left)
