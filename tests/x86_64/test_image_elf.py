"""ELF kernels made by hand and one by the linker: where segments go, how broken headers are named."""

import os
import re
import shutil
import subprocess

import attrs
import pytest
from kernel_images import ENTRY, Patch, elf

from anyvisor.errors import KernelImageError
from anyvisor.memory import GIB, MIB, Region
from anyvisor.plan import FileSlice
from anyvisor.x86_64.image import load_kernel
from anyvisor.x86_64.layout import Layout

LAYOUT = Layout.for_memory(128 * MIB)
ONE, TWO = (ENTRY, b"\xf4" * 64, 4096), (ENTRY + 4096, b"data", 8192)
FIRST, SECOND = 64, 64 + 56
"""Where program headers lie."""


@pytest.fixture
def load(tmp_path):
    def write_and_load(*patches, layout=LAYOUT, cut=None, segments=(ONE, TWO), entry=ENTRY):
        (tmp_path / "vmlinux").write_bytes(elf(segments, entry=entry, patches=patches)[:cut])
        return load_kernel(tmp_path / "vmlinux", layout)

    return write_and_load


def test_segments_go_to_their_physical_addresses(load, tmp_path):
    kernel = load(Patch(FIRST + 16, "Q", 0xFFFFFFFF81000000))  # p_vaddr does not matter
    first, second = kernel.blobs
    assert first.region == Region(0x1000000, 4096, "kernel segment 0")
    assert first.content == FileSlice(tmp_path / "vmlinux", 64 + 2 * 56, 64)
    assert second.region == Region(0x1001000, 8192, "kernel segment 1")
    assert second.content == FileSlice(tmp_path / "vmlinux", 64 + 2 * 56 + 64, 4)
    assert kernel.entry == 0x1000000
    assert kernel.protocol == "linux64"
    assert (kernel.command_line_limit, kernel.initrd_limit, kernel.setup_header) == (2047, 0x7FFFFFFF, b"")


def test_a_segment_of_zeros_alone_takes_room(load):
    kernel = load(Patch(SECOND + 8, "Q", 1 << 60), segments=(ONE, (ENTRY + 4096, b"", 1 * MIB)))
    assert (kernel.blobs[1].content, kernel.blobs[1].size_bytes) == (b"", 1 * MIB)


def test_segments_that_are_empty_or_not_loaded_are_skipped(load):
    note, empty = Patch(SECOND, "I", 4), (0, b"", 0)
    assert [blob.guest_address for blob in load(note).blobs] == [ENTRY]
    assert [blob.guest_address for blob in load(segments=(empty, ONE)).blobs] == [ENTRY]


def test_a_position_independent_executable_is_taken(load):
    assert load(Patch(0x10, "H", 3)).entry == ENTRY


@pytest.mark.parametrize(
    ("patch", "words", "offset"),
    [
        (Patch(4, "B", 1), "32-bit ELF file, not a 64-bit", 4),
        (Patch(4, "B", 9), "class 9", 4),
        (Patch(5, "B", 2), "big-endian", 5),
        (Patch(5, "B", 0), "0x0-endian", 5),
        (Patch(0x10, "H", 1), "relocatable object file; give a linked kernel", 0x10),
        (Patch(0x10, "H", 4), "core dump", 0x10),
        (Patch(0x10, "H", 77), "of type 77", 0x10),
        (Patch(0x12, "H", 183), "for aarch64; give a kernel built for x86_64", 0x12),
        (Patch(0x12, "H", 3), "for x86;", 0x12),
        (Patch(0x12, "H", 999), "machine 999", 0x12),
        (Patch(0x18, "Q", 0xFFFFFFFF81000000), "entry 0xffffffff81000000 is in none", 0x18),
        (Patch(0x18, "Q", ENTRY + 3 * 4096), "entry 0x1003000 is in none", 0x18),
        (Patch(0x20, "Q", 1 << 63), "beyond the end", 0x20),
        (Patch(0x20, "Q", 133), "beyond the end", 0x20),
        (Patch(0x36, "H", 32), "program headers of 32 bytes, not 56", 0x36),
        (Patch(0x38, "H", 0), "no loadable segment", 0x38),
        (Patch(0x38, "H", 4), "beyond the end", 0x20),
        (Patch(0x38, "H", 129), "claims 129 program headers", 0x38),
        (Patch(0x38, "H", 0xFFFF), "claims 65535 program headers", 0x38),
        (Patch(FIRST + 8, "Q", 1 << 62), "segment 0 ends at 0x4000000000000040, beyond", FIRST),
        (Patch(FIRST + 8, "Q", 181), "segment 0 ends at 0xf5, beyond", FIRST),
        (Patch(FIRST + 32, "Q", 4097), "segment 0 has 4097 bytes in the file for 4096", FIRST),
        (Patch(FIRST + 40, "Q", 1 << 63), "beyond 4 GiB", FIRST),
        (Patch(FIRST + 40, "Q", 113 * MIB), "outside RAM", FIRST),
        (Patch(SECOND + 24, "Q", ENTRY + 4095), "kernel segment 0 .* overlaps kernel segment 1", SECOND),
        (Patch(SECOND + 24, "Q", 0xFF000), "below 0x100000, the lowest", SECOND),
        (Patch(SECOND + 24, "Q", (1 << 64) - 1), "beyond 4 GiB", SECOND),
        (Patch(SECOND + 24, "Q", 128 * MIB), "outside RAM", SECOND),
    ],
)
def test_a_broken_header_is_named_with_its_offset(load, patch, words, offset):
    with pytest.raises(KernelImageError, match=words) as error:
        load(patch)
    assert error.value.offset == offset


def test_segments_that_overlap_are_found_in_any_order(load):
    three = (ENTRY + 64 * 4096, b"", 4096)
    with pytest.raises(KernelImageError, match="overlaps"):
        load(segments=((ENTRY + 8192, b"x", 4096), three, (ENTRY, b"x", 8193)))


def test_segments_keep_off_what_the_layout_reserves(load):
    with pytest.raises(KernelImageError, match="overlaps hole"):
        load(layout=attrs.evolve(LAYOUT, reserved=(Region(ENTRY + 4095, 1, "hole"),)))


def test_segments_do_not_go_into_high_ram(load):
    with pytest.raises(KernelImageError, match="beyond 4 GiB"):
        load(Patch(FIRST + 24, "Q", 5 * GIB), layout=Layout.for_memory(8 * GIB))


@pytest.mark.parametrize("cut", [4, 5, 16, 63, 64, 100, 64 + 56, 64 + 2 * 56 - 1, 64 + 2 * 56, 64 + 2 * 56 + 67])
def test_a_file_cut_short_is_refused(load, cut):
    with pytest.raises(KernelImageError):
        load(cut=cut)


def test_what_the_linker_makes_is_loaded_as_readelf_reads_it(tmp_path):
    if not (shutil.which("gcc") and shutil.which("readelf")):
        assert os.environ.get("CI") != "true"
        pytest.skip("apt-get install gcc binutils")
    source, out = tmp_path / "tiny.S", tmp_path / "tiny"
    source.write_text(".globl _start\n.text\n_start: hlt\n.data\n.quad 1\n.bss\n.skip 0x5000\n")
    addresses = ["-Wl,-Ttext=0x1000000", "-Wl,-Tdata=0x2000000", "-Wl,-Tbss=0x3000000", "-Wl,--build-id=none"]
    subprocess.run(["gcc", "-nostdlib", "-static", *addresses, "-o", out, source], check=True, timeout=60)
    strict = attrs.evolve(LAYOUT, kernel=0)  # ld puts the ELF header itself into a first segment
    kernel = load_kernel(out, strict)
    listing = subprocess.check_output(["readelf", "-lW", out], text=True, timeout=60)
    rows = re.findall(r"LOAD +(0x\w+) 0x\w+ (0x\w+) (0x\w+) (0x\w+)", listing)
    expected = [tuple(int(number, 16) for number in row) for row in rows]
    found = [
        (
            blob.content.offset if blob.content else None,
            blob.guest_address,
            len(blob.content),
            blob.size_bytes,
        )
        for blob in kernel.blobs
    ]
    assert len(expected) >= 3
    assert found == [(offset if size else None, address, size, memory) for offset, address, size, memory in expected]
    assert kernel.entry == 0x1000000
