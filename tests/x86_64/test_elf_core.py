"""Core files, read by our own reader, by binutils, and compared with what QEMU writes."""

import io
import struct
import subprocess
import time

import attrs
import pytest

from anyvisor.errors import GuestMemoryError
from anyvisor.memory import GIB, MIB, GuestMemory, Region
from anyvisor.x86_64.control import Cr0, Cr4, Efer
from anyvisor.x86_64.elf_core import PHYSICAL_WINDOW, segments, write_core
from anyvisor.x86_64.elf_core.notes import NT_FPREGSET, NT_PRSTATUS, find_vmcoreinfo, note, qemu_note
from anyvisor.x86_64.elf_core.segments import pieces, reader
from anyvisor.x86_64.msr_index import Msr
from anyvisor.x86_64.msrs import Msrs
from anyvisor.x86_64.paging import PageTables
from anyvisor.x86_64.reset import reset_states
from anyvisor.x86_64.state import Regs, SegmentRegister, Sregs, Xsave
from elf_cores import ElfCore, check_by_readelf, tool
from qmp import ask

RESET = {type(state): state for state in reset_states()}
NUMBERED = Regs(*range(0x101, 0x111), rip=0xFFFFFFFF81001234, rflags=0x246)
LONG = attrs.evolve(RESET[Sregs], cr0=Cr0(pe=True, pg=True), cr4=Cr4(pae=True), efer=Efer(lme=True, lma=True))
VMCOREINFO = b"OSRELEASE=6.1.0-test\nPAGESIZE=4096\nKERNELOFFSET=1e000000\n"
MACHINE_BYTES = 2 * MIB


@pytest.fixture
def core(tmp_path):
    """Writes a core of some memory, and reads it."""

    def make(contents, *vcpus, regions=((0, MACHINE_BYTES),), **options):
        made = [Region(*each) for each in regions]
        views = {region: bytearray(region.size_bytes) for region in made}
        for address, data in contents.items():
            region = next(each for each in made if each.contains(address, len(data)))
            views[region][address - region.start : address - region.start + len(data)] = data
        path = tmp_path / f"core{len(list(tmp_path.iterdir()))}"
        written = write_core(path, [(each, memoryview(view)) for each, view in views.items()], vcpus, **options)
        check_by_readelf(path)
        return written, ElfCore(path)

    return make


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
    assert made.read(PHYSICAL_WINDOW + 0x3000, 4) == b"here"
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
    assert [each.virtual for each in made.loads] == [PHYSICAL_WINDOW]
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
        (ram,) = memory
        looked_at = []

        def touched(region):
            looked_at.append(region)
            return [(300 * MIB, 300 * MIB + 4096)]

        began = time.perf_counter()
        written = write_core(tmp_path / "core", [(ram.region, ram.view)], [RESET], touched=touched)
        assert time.perf_counter() - began < 1
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


# -- notes -------------------------------------------------------------------------------------------------------------


def test_each_processor_has_a_thread_with_its_registers(core):
    segment = SegmentRegister(selector=0x33, base=0x7F0000001000)
    sregs = attrs.evolve(LONG, fs=segment, cs=attrs.evolve(LONG.cs, selector=0x10))
    _, made = core({}, {Regs: NUMBERED, Sregs: sregs}, {Regs: Regs(rip=7), Sregs: LONG})
    first, second = (made.note("CORE", NT_PRSTATUS, index) for index in (0, 1))
    assert len(first) == 336
    assert [struct.unpack_from("<I", each, 32)[0] for each in (first, second)] == [1, 2]
    registers = struct.unpack_from("<27Q", first, 112)
    r15, *_, rdi, orig_rax, rip, cs, flags, rsp, _, fs_base, _, _, _, fs, _ = registers
    assert (r15, rdi, rip, cs, flags, rsp, fs_base, fs) == (
        0x110, 0x106, 0xFFFFFFFF81001234, 0x10, 0x246, 0x107, 0x7F0000001000, 0x33,
    )  # fmt: skip
    assert orig_rax == (1 << 64) - 1
    assert struct.unpack_from("<27Q", second, 112)[16] == 7


def test_floating_point_registers_are_there_if_they_are_known(core):
    area = bytes(range(256)) * 16
    _, made = core({}, {Regs: NUMBERED, Sregs: LONG, Xsave: Xsave(area)}, {Regs: NUMBERED, Sregs: LONG})
    assert made.note("CORE", NT_FPREGSET) == area[:512]
    assert [struct.unpack_from("<i", made.note("CORE", NT_PRSTATUS, index), 328)[0] for index in (0, 1)] == [1, 0]
    assert sum(kind == NT_FPREGSET for _, kind, _ in made.notes) == 1


def test_a_processor_after_reset_is_described_as_qemu_describes_its_own(tmp_path):
    path = tmp_path / "theirs"
    command = ["timeout", "50", tool("qemu-system-x86_64", "qemu-system-x86"), "-S", "-accel", "tcg", "-m", "2"]
    command += ["-nodefaults", "-display", "none", "-qmp", "stdio"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as qemu:
        try:
            ask(qemu, "qmp_capabilities")
            ask(qemu, "dump-guest-memory", paging=False, protocol=f"file:{path}")
        finally:
            qemu.terminate()
    theirs = ElfCore(path).note("QEMU")
    signature = struct.unpack_from("<Q", theirs, 8 + 3 * 8)[0]  # of the processor, in RDX
    states = {**RESET, Regs: attrs.evolve(RESET[Regs], rdx=signature)}
    assert qemu_note(states) == note(b"QEMU", 0, theirs)


def test_the_control_registers_and_the_kernels_gs_base_are_in_qemus_note():
    sregs = attrs.evolve(LONG, cr2=0x222, cr3=0x333)
    content = qemu_note({Sregs: sregs, Msrs: Msrs.of({Msr.KERNEL_GS_BASE: 0xFFFF888000000000})})[20:]
    assert struct.unpack_from("<6Q", content, len(content) - 48) == (
        int(LONG.cr0), 0, 0x222, 0x333, int(LONG.cr4), 0xFFFF888000000000,
    )  # fmt: skip


def test_what_linux_says_of_itself_is_found_and_told(core, tmp_path):
    linux = note(b"VMCOREINFO", 0, VMCOREINFO)
    written, made = core({0x1FF000: b"VMCOREINFO", 0x5000: linux}, {Regs: Regs(), Sregs: LONG})
    assert made.note("VMCOREINFO") == VMCOREINFO
    assert written.vmcoreinfo["OSRELEASE"] == "6.1.0-test"
    assert written.kernel_offset == 0x1E000000
    command = "gdb -ex 'symbol-file vmlinux -o 0x1e000000' -c '/a b/core'"
    assert written.debugger("/a b/core") == command
    assert core({}, {Regs: Regs(), Sregs: LONG})[0].debugger("/a/core") == "gdb vmlinux /a/core"


@pytest.mark.parametrize(
    "content",
    [
        note(b"VMCOREINFO", 1, VMCOREINFO),
        note(b"VMCOREINFO", 0, b"SOMETHING=ELSE\n"),
        note(b"VMCOREINFO", 0, VMCOREINFO + bytes(8)),
        note(b"VMCOREINFO", 0, VMCOREINFO)[:4] + b"\xff" * 4 + note(b"VMCOREINFO", 0, VMCOREINFO)[8:],
        note(b"VMCOREINFO", 0, VMCOREINFO)[:23],
        note(b"VMCOREINFO", 0, VMCOREINFO)[:40],
    ],
    ids=["other type", "other text", "zeros", "too long", "cut in its name", "cut in its text"],
)
def test_what_only_looks_like_it_is_not_taken_for_it(content):
    assert find_vmcoreinfo([memoryview(content)]) == b""


def test_what_is_left_out_is_in_the_file_as_well(core):
    written, made = core({}, {})
    assert written.left_out == ("Regs and Sregs of vCPU 0 are not known: its registers of those are 0",)
    assert made.note("ANYVISOR").decode() == written.left_out[0]
