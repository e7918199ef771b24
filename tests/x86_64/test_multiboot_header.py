"""The header of multiboot kernels: found where the specification says, its fields at their offsets, its flags."""

import struct
import subprocess

import pytest
from hypothesis import given
from hypothesis import strategies as st

from anyvisor.errors import PlanError
from anyvisor.x86_64.multiboot import Header, HeaderFlags, find_header
from multiboot_kernels import LOADED, assemble, header

U32 = st.integers(0, (1 << 32) - 1)
FULL = struct.pack(
    "<12I", 0x1BADB002, 0x10007, 0xE4514FF7, 0x100040, 0x100000, 0x101000, 0x102000, 0x100070, 0, 1024, 768, 32
)
"""Every field there is, at the offsets of the specification's table."""


def test_every_field_is_at_its_offset():
    found = Header.decode(FULL)
    assert found == Header(
        flags=HeaderFlags(page_aligned_modules=True, memory_information=True, video_mode=True, addresses=True),
        header_addr=0x100040,
        load_addr=0x100000,
        load_end_addr=0x101000,
        bss_end_addr=0x102000,
        entry_addr=0x100070,
        mode_type=0,
        width=1024,
        height=768,
        depth=32,
    )
    assert found.to_bytes() == FULL
    assert found.describe().splitlines() == [
        "0x000  magic            0x1badb002",
        "0x004  flags            0x10007  page_aligned_modules|memory_information|video_mode|addresses",
        "0x00c  header_addr      0x100040",
        "0x010  load_addr        0x100000",
        "0x014  load_end_addr    0x101000",
        "0x018  bss_end_addr     0x102000",
        "0x01c  entry_addr       0x100070",
        "0x020  mode_type        0x0",
        "0x024  width            0x400",
        "0x028  height           0x300",
        "0x02c  depth            0x20",
    ]


def test_the_header_that_the_linker_made_has_the_addresses_of_its_symbols(tmp_path):
    kernel = assemble(tmp_path, "kludge").read_bytes()
    command = ["ld", "-m", "elf_i386", "-N", "-Ttext", hex(LOADED), "-o", tmp_path / "elf", tmp_path / "kludge.o"]
    subprocess.run(command, check=True, timeout=60, stderr=subprocess.DEVNULL)
    rows = subprocess.check_output(["nm", tmp_path / "elf"], text=True, timeout=60).splitlines()
    symbols = {name: int(address, 16) for address, _, name in map(str.split, rows)}
    offset = find_header(kernel)
    assert offset == symbols["header"] - symbols["image"]
    found = Header.decode(kernel[offset:])
    assert found.header_addr == symbols["header"]
    assert found.load_addr == symbols["image"]
    assert found.load_end_addr == symbols["image_end"]
    assert found.bss_end_addr == symbols["everything_end"]
    assert found.entry_addr == symbols["_start"]


@pytest.mark.parametrize(("flags", "size_bytes"), [(0, 12), (3, 12), (0x10003, 32), (7, 48), (0x10007, 48)])
def test_the_header_is_as_long_as_its_flags_say(flags, size_bytes):
    long = header(flags, *range(9))
    found = Header.decode(long)
    assert found.size_bytes == size_bytes
    assert found.to_bytes() == long[:size_bytes]
    with pytest.raises(PlanError, match=f"cut short at offset {size_bytes - 1:#x}" if size_bytes > 12 else "no magic"):
        Header.decode(long[: size_bytes - 1])


def test_fields_whose_flag_is_clear_are_not_shown():
    assert "header_addr" not in Header.decode(header(7, *range(9))).describe()
    assert "width" in Header.decode(header(7, *range(9))).describe()
    assert Header().describe() == "0x000  magic            0x1badb002\n0x004  flags            0x0"


@given(U32, st.lists(U32, min_size=9, max_size=9))
def test_any_header_is_read_and_written_byte_for_byte(flags, rest):
    found = Header.decode(header(flags, *rest))
    assert found.to_bytes() == header(flags, *rest)[: found.size_bytes]


@pytest.mark.parametrize("offset", [0, 4, 64, 8192 - 12])
def test_a_header_is_found_at_every_four_bytes_up_to_the_8192nd(offset):
    assert find_header(bytes(offset) + header() + bytes(8192)) == offset


@pytest.mark.parametrize("offset", [1, 2, 3, 66, 8192 - 8, 8192])
def test_no_header_is_found_elsewhere(offset):
    assert find_header(bytes(offset) + header() + bytes(8192)) is None


def test_a_magic_number_without_its_checksum_is_passed_over():
    wrong = struct.pack("<3I", 0x1BADB002, 3, 0xE4524FFA)
    assert find_header(wrong) is None
    assert find_header(wrong + header()) == 12
    assert find_header(b"") is find_header(header()[:11]) is None
    with pytest.raises(PlanError, match="no magic number"):
        Header.decode(wrong)


def test_requirements_that_the_specification_lacks_are_told_apart():
    assert Header(flags=HeaderFlags(0x10007)).unknown_requirements == 0
    assert Header(flags=HeaderFlags(0xFFFF000F)).unknown_requirements == 8
    assert Header(flags=HeaderFlags(0x8000)).unknown_requirements == 0x8000


def test_a_value_of_more_than_32_bits_is_refused():
    with pytest.raises(PlanError, match="entry_addr is 0x100000000"):
        Header(entry_addr=1 << 32)
    with pytest.raises(PlanError, match="flags"):
        Header(flags=HeaderFlags(1 << 32))
