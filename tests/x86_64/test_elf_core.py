"""Core files, read by our own reader and by binutils: which memory is in them, and where."""

import io
import struct

import attrs
import pytest
from made_cores import LONG, PROTECTED, RESET, maker

from anyvisor.errors import GuestMemoryError
from anyvisor.memory import GIB, MIB, GuestMemory, Region
from anyvisor.x86_64.control import Cr0
from anyvisor.x86_64.elf_core import segments, write_core
from anyvisor.x86_64.elf_core.formats import I386, X86_64
from anyvisor.x86_64.elf_core.notes import NT_PRSTATUS
from anyvisor.x86_64.elf_core.segments import pieces, reader
from anyvisor.x86_64.paging import PageTables
from anyvisor.x86_64.state import Regs, Sregs


@pytest.fixture
def core(tmp_path):
    return maker(tmp_path)


def tables(*mapped, root=0):
    """Page tables at `root` that map 2 MiB pages: `(virtual, physical)` pairs, with all tables they need."""
    made = {root: {}}
    for virtual, physical in mapped:
        table = root
        for shift in (39, 30):
            following = root + 4096 * len(made)
            entry = made[table].setdefault(virtual >> shift & 511, following)
            made.setdefault(entry, {})
            table = entry
        made[table][virtual >> 21 & 511] = physical | 0x80
    return {
        address: b"".join(struct.pack("<Q", table[index] | 3 if index in table else 0) for index in range(512))
        for address, table in made.items()
    }


# -- memory ------------------------------------------------------------------------------------------------------------


def test_memory_is_read_by_its_virtual_address_and_by_its_physical_one(core):
    memory = tables((0xFFFFFFFF81000000, 0), (0x40000000, 0x200000), root=0x10000) | {
        0x3000: b"here",
        0x205000: b"there",
    }
    written, made = core(memory, {Sregs: attrs.evolve(LONG, cr3=0x10000)}, regions=[(0, 4 * MIB)])
    assert (made.type, made.machine) == (4, 62)
    assert made.read(0xFFFFFFFF81003000, 4) == made.read_physical(0x3000, 4) == b"here"
    assert made.read(0x40005000, 5) == made.read_physical(0x205000, 5) == b"there"
    assert made.read(X86_64.physical_window + 0x3000, 4) == b"here"
    assert [made.physical_of(each) for each in (0, 0x3000, 0x40200000, 0xFFFFFFFF80000000)] == [None] * 4
    assert written.segments == 3


def test_without_paging_memory_is_where_it_is(core):
    _, made = core({0x3000: b"here"}, {Sregs: RESET[Sregs]})
    assert made.read(0x3000, 4) == made.read_physical(0x3000, 4) == b"here"
    assert len(made.loads) == 1


def test_a_processor_that_waits_to_be_started_does_not_hide_what_the_first_one_maps(core):
    memory = tables((0xFFFFFFFF81000000, 0), root=0x10000)
    _, made = core(memory, {Sregs: attrs.evolve(LONG, cr3=0x10000)}, {Sregs: RESET[Sregs]})
    assert made.physical_of(0xFFFFFFFF81003000) == 0x3000
    assert made.physical_of(0x3000) is None


def test_of_two_processors_with_other_memory_at_an_address_the_first_counts(core):
    one = tables((0x40000000, 0), (0xFFFFFFFF81000000, 0), root=0x10000)
    two = tables((0x40000000, 0x200000), (0x40200000, 0x200000), (0xFFFFFFFF81000000, 0), root=0x20000)
    states = [{Sregs: attrs.evolve(LONG, cr3=root)} for root in (0x10000, 0x20000)]
    _, made = core(one | two, *states, regions=[(0, 4 * MIB)])
    assert made.physical_of(0x40000000) == 0
    assert made.physical_of(0x40200000) == 0x200000
    assert sum(each.virtual == 0xFFFFFFFF81000000 for each in made.loads) == 1


def test_addresses_of_devices_and_of_nothing_are_not_there(core):
    memory = tables((0x40000000, 0xFEE00000), (0x40200000, 0x200000), root=0x10000)
    _, made = core(memory, {Sregs: attrs.evolve(LONG, cr3=0x10000)}, regions=[(0, 3 * MIB)])
    assert made.physical_of(0x40000000) is None
    assert made.physical_of(0x402FFFFF) == 3 * MIB - 1
    assert made.physical_of(0x40300000) is None


def test_page_tables_outside_of_ram_map_nothing(core):
    written, made = core({}, {Sregs: attrs.evolve(LONG, cr3=0xFFFFF000)})
    assert [each.virtual for each in made.loads] == [X86_64.physical_window]
    assert written.left_out == ("Regs of vCPU 0 are not known: its registers of those are 0",)


def test_regions_with_a_gap_between_them_are_both_there(core):
    regions = [(4 * GIB, MIB), (0, MIB)]
    identity = PageTables.identity(5 * GIB, root=0x10000)
    states = {Sregs: attrs.evolve(LONG, cr3=0x10000)}
    _, made = core({0x10000: identity.to_bytes(), 4 * GIB + 0x1000: b"above"}, states, regions=regions)
    assert made.read(4 * GIB + 0x1000, 5) == made.read_physical(4 * GIB + 0x1000, 5) == b"above"
    assert made.physical_of(GIB) is None


def test_of_more_runs_than_an_elf_file_has_headers_for_the_smallest_are_left_out(core, monkeypatch):
    monkeypatch.setattr(segments, "MAX_SEGMENTS", 100)
    memory = tables((0xFFFFFFFF81000000, 0), (0, 0), root=0x10000)
    directory = max(memory)  # that of the lower addresses
    memory[directory] = struct.pack("<Q", 0x100003).ljust(4096, b"\0")
    memory[0x100000] = b"".join(struct.pack("<Q", (511 - index) << 12 | 3) for index in range(512))
    written, made = core(memory, {Regs: Regs(), Sregs: attrs.evolve(LONG, cr3=0x10000)})
    assert made.physical_of(0xFFFFFFFF81003000) == 0x3000
    assert made.physical_of(0) is None
    assert made.physical_of((1 << 21) - 4096) == 0
    assert len(made.loads) == 101 == written.segments
    assert written.left_out == (segments.TOO_MANY,)


def test_zeros_are_holes_and_what_was_never_touched_is_not_read(tmp_path):
    with GuestMemory([Region(0, 512 * MIB)]) as memory:
        memory.write(300 * MIB, b"something")
        memory.write(400 * MIB, b"what nobody is told of")
        (ram,) = memory
        looked_at = []

        def touched(region):
            looked_at.append(region)
            return [(300 * MIB, 300 * MIB + 4096)]

        written = write_core(tmp_path / "core", [(ram.region, ram.view)], [RESET], touched=touched)
    status = (tmp_path / "core").stat()
    assert looked_at == [Region(0, 512 * MIB)]
    assert written.data_bytes == 4096
    assert status.st_size > 512 * MIB
    assert status.st_blocks * 512 <= 64 * 1024


def test_the_first_header_of_memory_is_as_crash_wants_those_of_a_kdump(core):
    memory = tables((0, 0x100000), root=0x10000)
    _, made = core(memory, {Sregs: attrs.evolve(LONG, cr3=0x10000)})
    assert made.loads[0].physical == 0
    assert made.loads[0].offset == min(each.offset for each in made.loads)
    alignment = struct.unpack_from("<Q", made.data, 64 + 56 + 48)[0]
    assert alignment == 0


def test_a_core_goes_into_an_open_file_and_never_over_one_that_exists(tmp_path):
    file = io.BytesIO()
    write_core(file, [(Region(0, 4096), memoryview(bytes(4096)))], [RESET])
    assert file.getvalue().startswith(b"\x7fELF")
    (tmp_path / "core").write_bytes(b"precious")
    with pytest.raises(FileExistsError):
        write_core(tmp_path / "core", [], [RESET])
    assert (tmp_path / "core").read_bytes() == b"precious"


def test_reading_outside_of_ram_is_an_error():
    read = reader(pieces([(Region(4096, 4096), memoryview(b"x" * 4096))]))
    assert read(4096, 2) == b"xx"
    with pytest.raises(GuestMemoryError):
        read(8191, 2)


# -- the kind of file --------------------------------------------------------------------------------------------------

PE = {Sregs: attrs.evolve(RESET[Sregs], cr0=Cr0(pe=True))}
IN_LONG_MODE = {Sregs: LONG}


@pytest.mark.parametrize(
    ("vcpus", "bits", "machine"),
    [
        ([IN_LONG_MODE], 64, 62),
        ([PE], 32, 3),
        ([RESET], 32, 3),
        ([PE, RESET], 32, 3),
        ([IN_LONG_MODE, RESET], 64, 62),
        ([PE, IN_LONG_MODE], 64, 62),
        ([{}], 64, 62),
        ([{}, PE], 32, 3),
    ],
)
def test_a_guest_is_of_64_bits_if_one_of_its_processors_is_in_long_mode(vcpus, bits, machine, core):
    _, made = core({}, *vcpus)
    assert (made.type, made.bits, made.machine) == (4, bits, machine)
    assert len(made.note("CORE", NT_PRSTATUS, len(vcpus) - 1)) == {3: 144, 62: 336}[machine]


def test_a_32_bit_guests_memory_is_read_by_its_virtual_address_and_by_its_physical_one(core):
    """By PAE's tables: the top one has an entry for each GiB."""
    directory = struct.pack("<Q", 0x200083).ljust(4096, b"\0")
    memory = {0x10000: struct.pack("<4Q", 0, 0, 0, 0x11001), 0x11000: directory, 0x205000: b"there"}
    states = {Sregs: attrs.evolve(PROTECTED, cr3=0x10000)}
    _, made = core(memory, states, regions=[(0, 3 * MIB), (3 * GIB, MIB)])
    assert made.bits == 32
    assert made.read(0xC0005000, 5) == made.read_physical(0x205000, 5) == b"there"
    assert made.physical_of(0x205000) is None
    assert [each.virtual for each in made.loads] == [I386.physical_window, I386.physical_window, 0xC0000000]
    assert made.loads[1].physical == 3 * GIB


@pytest.mark.parametrize("end", [4 * GIB, 4 * GIB + MIB])
def test_a_32_bit_guest_with_too_much_memory_for_32_bits_has_a_wider_file(end, core):
    _, made = core({end - 4096: b"above"}, {Sregs: PROTECTED}, regions=[(0, MIB), (end - MIB, MIB)])
    assert (made.bits, made.machine) == (64, 3)
    assert made.read_physical(end - 4096, 5) == made.read(I386.physical_window + end - 4096, 5) == b"above"
