"""What a PVH kernel is told: laid out as Xen's header says, read back, and refused when it leads astray."""

import contextlib
import os
import shutil
import struct
import subprocess

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st
from kernel_images import elf, pvh_note

from anyvisor.errors import ConfigError, HypervisorUnavailable, PlanError
from anyvisor.memory import MIB, Region
from anyvisor.plan import Blob, FirmwareTables
from anyvisor.x86_64.e820 import E820Entry, E820Type, e820
from anyvisor.x86_64.layout import Layout
from anyvisor.x86_64.pvh import Handover, Module, StartInfo, pvh_boot_params
from anyvisor.x86_64.pvh_image import load_pvh
from guests.debian import package

LAYOUT = Layout.for_memory(128 * MIB)
INITRD = Blob("initrd", 0x7000000, b"i" * 5000)


def memory(*pieces):
    """A function that reads pieces of guest memory, (address, bytes) each, and zeros elsewhere."""

    def read(address, size_bytes):
        found = bytearray(size_bytes)
        for start, data in pieces:
            for at in range(max(start, address), min(start + len(data), address + size_bytes)):
                found[at - address] = data[at - start]
        return bytes(found)

    return read


@pytest.fixture
def kernel(tmp_path):
    (tmp_path / "vmlinux").write_bytes(elf(notes=pvh_note()))
    return load_pvh(tmp_path / "vmlinux", LAYOUT)


def test_the_pieces_are_the_start_info_with_its_lists_and_the_command_line(kernel):
    info, line = pvh_boot_params("console=ttyS0", LAYOUT, kernel, INITRD, FirmwareTables(0xE0000, ()))
    assert (info.name, info.guest_address) == ("PVH start info", 0x6000)
    assert (line.name, line.guest_address, line.content) == ("command line", 0x20000, b"console=ttyS0\0")
    head = struct.unpack_from("<4I4Q2I", info.content)
    assert head == (0x336EC578, 1, 0, 1, 0x6038, 0x20000, 0xE0000, 0x6058, 3, 0)
    assert struct.unpack_from("<4Q", info.content, 0x38) == (0x7000000, 5000, 0, 0)
    rows = [struct.unpack_from("<QQII", info.content, 0x58 + 24 * index) for index in range(3)]
    assert rows == [(0, 0x9E000, 1, 0), (0x9E000, 0x62000, 2, 0), (0x100000, 127 * MIB, 1, 0)]
    assert len(info.content) == 0x58 + 3 * 24


def test_what_there_is_not_has_address_0(kernel):
    info, _ = pvh_boot_params("", LAYOUT, kernel)
    decoded = StartInfo.decode(info.content)
    assert (decoded.nr_modules, decoded.modlist_paddr, decoded.rsdp_paddr) == (0, 0, 0)


def test_it_is_read_back_as_it_was_meant(kernel):
    info, line = pvh_boot_params("one two", LAYOUT, kernel, INITRD, FirmwareTables(0xE0000, ()))
    read = memory((0x6000, info.content), (0x20000, line.content))
    handover = Handover.read(read, 0x6000)
    assert handover == Handover(e820(LAYOUT), (Module(0x7000000, 5000),), 0x20000, 0xE0000)
    assert handover.command_line(read) == "one two"


def test_a_command_line_too_long_is_refused(kernel):
    pvh_boot_params("x" * 2047, LAYOUT, kernel)
    with pytest.raises(ConfigError, match="has 2048 bytes, this kernel takes 2047"):
        pvh_boot_params("x" * 2048, LAYOUT, kernel)


def test_a_memory_map_longer_than_its_place_is_refused(kernel):
    little = attrs.evolve(LAYOUT, boot_info=Region(0x6000, 127, "boot information"))
    with pytest.raises(PlanError, match=r"have 128 bytes, boot information 0x6000-0x607e has 127; reserve fewer"):
        pvh_boot_params("", little, kernel)


NUMBER = {width: st.integers(0, (1 << 8 * width) - 1) for width in (4, 8)}
ENTRIES = st.lists(st.builds(E820Entry, NUMBER[8], NUMBER[8], st.sampled_from(E820Type)), max_size=60).map(tuple)
MODULES = st.lists(st.builds(Module, NUMBER[8], NUMBER[8], NUMBER[8], NUMBER[8]), max_size=5).map(tuple)


@given(st.builds(Handover, ENTRIES, MODULES, NUMBER[8], NUMBER[8], NUMBER[4]), st.integers(1, 1 << 40))
def test_decoding_gives_back_what_was_encoded(handover, address):
    data = handover.to_bytes(address)
    assert Handover.read(memory((address, data)), address) == handover
    info = StartInfo.decode(data)
    assert info == handover.start_info(address)
    assert info.to_bytes() == data[:56]


@given(st.builds(StartInfo, *[NUMBER[4], NUMBER[4], NUMBER[8], NUMBER[8], NUMBER[8]], version=st.just(0)))
def test_of_version_0_nothing_behind_its_40_bytes_is_believed(info):
    data = info.to_bytes()
    assert len(data) == 40
    assert StartInfo.decode(data + b"\xff" * 16) == info


@given(st.binary(max_size=120) | st.binary(max_size=120).map(b"\x78\xc5\x6e\x33".__add__))
def test_any_bytes_decode_or_are_refused(data):
    with contextlib.suppress(PlanError):
        assert StartInfo.decode(data).describe()
        Handover.read(memory((0x1000, data)), 0x1000).describe()


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (bytes(39), r"at least 40 bytes, not 39 \(at offset 0\)"),
        (bytes(56), r"0x0 is not the magic number of a PVH start info, 0x336ec578 \(at offset 0\)"),
        (StartInfo().to_bytes()[:55], r"version 1 has 56 bytes, not 55 \(at offset 0x28\)"),
    ],
)
def test_bytes_that_are_none_are_refused_with_the_offset(data, words):
    with pytest.raises(PlanError, match=words):
        StartInfo.decode(data)


@pytest.mark.parametrize(("field", "offset"), [("nr_modules", "0xc"), ("memmap_entries", "0x30")])
def test_lists_longer_than_any_machine_s_are_not_read(field, offset):
    info = StartInfo(modlist_paddr=1, memmap_paddr=1, **{field: 1025})
    with pytest.raises(PlanError, match=rf"{field} is 1025, more than 1024 \(at offset {offset}\)"):
        Handover.read(memory((0x1000, info.to_bytes())), 0x1000)


def test_a_list_at_address_0_is_absent():
    info = StartInfo(nr_modules=3, memmap_entries=3)
    assert Handover.read(memory((0x1000, info.to_bytes())), 0x1000) == Handover()


def test_values_that_do_not_fit_are_refused_by_name():
    with pytest.raises(PlanError, match="flags=4294967296"):
        StartInfo(flags=1 << 32).to_bytes()
    with pytest.raises(PlanError, match="size=-1"):
        Module(0, -1).to_bytes()


def test_describe_says_what_the_kernel_is_told():
    handover = Handover((E820Entry(0, 0x1000, E820Type.ACPI),), (Module(0x5000, 3, 0x9000),), 0x20000, 0xE0000, 1)
    assert handover.describe().splitlines() == [
        "flags 0x1",
        "command line at 0x20000",
        "ACPI RSDP at 0xe0000",
        "module at 0x5000 of 3 bytes, its command line at 0x9000",
        "memmap  0x000000000000-0x000000000fff  ACPI (4K)",
    ]
    assert handover.start_info(0x6000).describe().splitlines() == [
        "magic           0x336ec578", "version         1", "flags           0x1", "nr_modules      1",
        "modlist_paddr   0x6038", "cmdline_paddr   0x20000", "rsdp_paddr      0xe0000", "memmap_paddr    0x6058",
        "memmap_entries  1",
    ]  # fmt: skip


HEADER = "usr/include/xen/arch-x86/hvm/start_info.h"


def skip(reason):
    assert os.environ.get("CI") != "true", reason
    pytest.skip(reason)


def compiler_says(folder, expressions):
    """The values of C expressions over Xen's own header."""
    try:
        include = package("libxen-dev", HEADER) / "usr/include"
    except HypervisorUnavailable as error:
        skip(f"no header of Xen's: {error}")
    if not shutil.which("gcc"):
        skip("apt-get install gcc")
    includes = "".join(f"#include <{each}.h>\n" for each in ("stdio", "stddef", "stdint"))
    includes += "#include <xen/arch-x86/hvm/start_info.h>\n#define XEN_ELFNOTES_ONLY\n#include <xen/elfnote.h>\n"
    lines = [f'printf("%llu\\n", (unsigned long long)({each}));' for each in expressions]
    (folder / "layout.c").write_text(f"{includes}int main(void) {{{''.join(lines)}}}")
    subprocess.run(["gcc", f"-I{include}", "-o", folder / "layout", folder / "layout.c"], check=True, timeout=60)
    return [int(line) for line in subprocess.check_output([folder / "layout"], text=True, timeout=60).split()]


def test_every_field_lies_where_xen_s_header_has_it(tmp_path):
    names = [each.name for each in attrs.fields(StartInfo) if each.name != "version"]
    found = compiler_says(tmp_path, [f"offsetof(struct hvm_start_info, {name})" for name in ("version", *names)])
    for name, offset in zip(("version", *names), found, strict=True):
        marked = StartInfo(**{name: 0x5A}).to_bytes()
        blank = StartInfo(**{name: 1}).to_bytes()
        assert [at for at in range(56) if marked[at] != blank[at]] == [offset]
    module, entry = Module(1, 2, 3, 4).to_bytes(), Handover((E820Entry(1, 2, E820Type.ACPI),)).to_bytes(0)[56:]
    fields = ["hvm_modlist_entry, paddr", "hvm_modlist_entry, size", "hvm_modlist_entry, cmdline_paddr"]
    fields += ["hvm_modlist_entry, reserved", "hvm_memmap_table_entry, addr", "hvm_memmap_table_entry, size"]
    fields += ["hvm_memmap_table_entry, type"]
    offsets = compiler_says(tmp_path, [f"offsetof(struct {each})" for each in fields])
    assert [module[each] for each in offsets[:4]] == [1, 2, 3, 4]
    assert [entry[each] for each in offsets[4:]] == [1, 2, 3]


def test_sizes_and_numbers_are_xen_s(tmp_path):
    kinds = ["RAM", "RESERVED", "ACPI", "NVS", "UNUSABLE", "DISABLED", "PMEM"]
    numbers = compiler_says(
        tmp_path,
        [
            *(f"sizeof(struct {each})" for each in ("hvm_start_info", "hvm_modlist_entry", "hvm_memmap_table_entry")),
            "XEN_HVM_START_MAGIC_VALUE", "XEN_ELFNOTE_PHYS32_ENTRY",
            *(f"XEN_HVM_MEMMAP_TYPE_{each}" for each in kinds),
        ],
    )  # fmt: skip
    assert numbers == [56, 32, 24, 0x336EC578, 18, *E820Type]
