"""What a multiboot kernel is told: the information structure's offsets, its lists, and what does not fit."""

import struct
from pathlib import Path

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from anyvisor.errors import ConfigError, PlanError
from anyvisor.memory import GIB, KIB, MIB, Region
from anyvisor.plan import Blob, FileSlice, Kernel
from anyvisor.x86_64.e820 import E820Entry, E820Type, e820
from anyvisor.x86_64.layout import Layout
from anyvisor.x86_64.multiboot import Handover, InfoFlags, Module, MultibootInfo, multiboot_params

LAYOUT = Layout.for_memory(64 * MIB)
KERNEL = Kernel("multiboot", 0x100000, (Blob("kernel", 0x100000, b"\xf4"),), 0xFFFF, 0xFFFFFFFF, mode="protected")
INITRD = Blob("initrd", 0x3F00000, b"module")
PLACE = 0x6000
U32 = st.integers(0, (1 << 32) - 1)
WORDS = st.text("abc /=,", max_size=20)
RANGES = st.builds(
    E820Entry, st.integers(0, (1 << 64) - 1), st.integers(0, (1 << 64) - 1), st.sampled_from([1, 2, 3, 4, 5])
)


def memory(data, start=PLACE):
    """A function that reads those bytes as guest memory."""

    def read(address, size_bytes):
        place = address - start
        return (data[place : place + size_bytes] if place >= 0 else b"").ljust(size_bytes, b"\0")

    return read


def reads(*blobs):
    """A function that reads pieces as guest memory."""

    def read(address, size_bytes):
        found = bytearray(size_bytes)
        for blob in blobs:
            for at in range(max(address, blob.guest_address), min(address + size_bytes, blob.region.end)):
                found[at - address] = blob.content[at - blob.guest_address]
        return bytes(found)

    return read


# -- the structure -----------------------------------------------------------------------------------------------------


def test_every_field_of_the_structure_is_at_its_offset():
    data = bytes(range(1, 117))
    info = MultibootInfo.decode(data)

    def word(offset, size_bytes=4):
        return int.from_bytes(data[offset : offset + size_bytes], "little")

    offsets = {
        "flags": 0, "mem_lower": 4, "mem_upper": 8, "boot_device": 12, "cmdline": 16, "mods_count": 20,
        "mods_addr": 24, "mmap_length": 44, "mmap_addr": 48, "drives_length": 52, "drives_addr": 56,
        "config_table": 60, "boot_loader_name": 64, "apm_table": 68, "vbe_control_info": 72, "vbe_mode_info": 76,
    }  # fmt: skip
    assert {name: getattr(info, name) for name in offsets} == {name: word(at) for name, at in offsets.items()}
    halves = {"vbe_mode": 80, "vbe_interface_seg": 82, "vbe_interface_off": 84, "vbe_interface_len": 86}
    assert {name: getattr(info, name) for name in halves} == {name: word(at, 2) for name, at in halves.items()}
    assert (info.syms, info.framebuffer) == (data[28:44], data[88:116])
    assert info.to_bytes() == data
    shown = info.describe()
    assert all(f"{at:#05x}  {name} " in shown for name, at in {**offsets, **halves, "syms": 28}.items())


@given(st.binary(min_size=88, max_size=116))
def test_any_structure_is_read_and_written_byte_for_byte(data):
    assert MultibootInfo.decode(data).to_bytes() == data


def test_flags_have_the_bits_of_the_specification():
    names = ["memory", "boot_device", "command_line", "modules", "aout_symbols", "elf_sections", "memory_map", "drives",
             "config_table", "loader_name", "apm_table", "vbe", "framebuffer"]  # fmt: skip
    assert [InfoFlags(1 << number).words() for number in range(13)] == names


def test_a_picture_is_described():
    picture = struct.pack("<QIIIBB6s", 0xE0000000, 4096, 1024, 768, 32, 1, bytes(6))
    shown = MultibootInfo(flags=InfoFlags(framebuffer=True), framebuffer=picture).describe()
    assert "framebuffer        1024x768, 32 bits, 4096 bytes a line, at 0xe0000000, type 1" in shown
    assert "framebuffer  " not in MultibootInfo(framebuffer=picture).describe()


@pytest.mark.parametrize("size_bytes", [0, 87])
def test_a_structure_cut_short_is_refused(size_bytes):
    with pytest.raises(PlanError, match=f"cut short at offset {size_bytes:#x}"):
        MultibootInfo.decode(bytes(size_bytes))


@pytest.mark.parametrize("wrong", [{"cmdline": 1 << 32}, {"vbe_mode": -1}, {"syms": b""}, {"framebuffer": bytes(29)}])
def test_a_value_that_does_not_fit_is_refused(wrong):
    with pytest.raises(PlanError, match="multiboot information"):
        MultibootInfo(**wrong)


# -- and what it leads to ----------------------------------------------------------------------------------------------


def test_everything_lies_where_the_structure_says():
    map_ = (E820Entry(0, 640 * KIB, 1), E820Entry(MIB, 63 * MIB, 1), E820Entry(5 * GIB, GIB, 2))
    modules = (Module(0x800000, 0x801234, "one x"), Module(0x900000, 0x900001, "two"))
    data = Handover(map_, modules, 0x20000, "tester", 640, 63 * 1024).to_bytes(PLACE)
    flags, lower, upper, _, cmdline, count, mods = struct.unpack_from("<7I", data)
    assert flags == 0b1001001101  # memory, command line, modules, memory map, loader's name
    assert (lower, upper, cmdline, count) == (640, 64512, 0x20000, 2)
    length, mmap, name = (struct.unpack_from("<I", data, at)[0] for at in (44, 48, 64))
    assert length == 3 * 24
    entries = list(struct.iter_unpack("<IQQI", data[mmap - PLACE : mmap - PLACE + length]))
    assert entries == [(20, 0, 0xA0000, 1), (20, 0x100000, 0x3F00000, 1), (20, 0x140000000, 0x40000000, 2)]
    assert data[name - PLACE :].startswith(b"tester\0")
    rows = list(struct.iter_unpack("<4I", data[mods - PLACE : mods - PLACE + 32]))
    assert [row[:2] + row[3:] for row in rows] == [(0x800000, 0x801234, 0), (0x900000, 0x900001, 0)]
    assert [data[row[2] - PLACE :].partition(b"\0")[0] for row in rows] == [b"one x", b"two"]
    assert mmap % 4 == mods % 4 == 0
    assert PLACE + 116 <= mmap < mods < name


def test_what_is_not_told_has_neither_flag_nor_pointer():
    assert Handover().to_bytes(PLACE)[:116] == bytes(116)
    assert Handover.read(memory(Handover().to_bytes(PLACE)), PLACE) == Handover()


@given(
    st.lists(RANGES, max_size=8),
    st.lists(st.builds(Module, U32, U32, WORDS), max_size=4),
    U32,
    WORDS,
    st.none() | st.tuples(U32, U32),
)
def test_what_is_written_is_read_back(map_, modules, cmdline, loader, kib):
    lower, upper = kib or (None, None)
    told = Handover(tuple(map_), tuple(modules), cmdline, loader, lower, upper)
    assert Handover.read(memory(told.to_bytes(PLACE)), PLACE) == told


def test_types_that_multiboot_has_not_are_reserved():
    others = (E820Entry(0, 1, E820Type.DISABLED), E820Entry(1, 1, E820Type.PERSISTENT), E820Entry(2, 1, E820Type.NVS))
    data = bytearray(Handover(others).to_bytes(PLACE))
    assert [kind for *_, kind in struct.iter_unpack("<IQQI", data[120:192])] == [2, 2, 4]
    struct.pack_into("<I", data, 120 + 20, 99)
    assert Handover.read(memory(data), PLACE).memory_map[0].type == E820Type.RESERVED


def test_entries_of_a_memory_map_may_be_longer_than_known():
    entries = struct.pack("<IQQI4x", 24, 0, 4096, 1) + struct.pack("<IQQI", 20, 4096, 4096, 2)
    info = MultibootInfo(flags=InfoFlags(memory_map=True), mmap_length=len(entries), mmap_addr=PLACE + 116)
    found = Handover.read(memory(info.to_bytes() + entries), PLACE)
    assert found.memory_map == (E820Entry(0, 4096, 1), E820Entry(4096, 4096, 2))


@pytest.mark.parametrize(
    ("flags", "fields", "words"),
    [
        ({"memory_map": True}, {"mmap_length": 1 << 31, "mmap_addr": PLACE}, "mmap has 2147483648 bytes, more than"),
        ({"memory_map": True}, {"mmap_length": 24, "mmap_addr": 0x90000}, "entry of 0 bytes"),
        ({"memory_map": True}, {"mmap_length": 23, "mmap_addr": PLACE + 116}, "entry of 20 bytes"),
        ({"modules": True}, {"mods_count": (1 << 32) - 1}, "mods has 68719476720 bytes"),
        ({"loader_name": True}, {"boot_loader_name": PLACE + 120}, "the string at 0x6078 does not end"),
    ],
)
def test_a_structure_that_leads_astray_is_refused(flags, fields, words):
    data = MultibootInfo(flags=InfoFlags(**flags), **fields).to_bytes() + struct.pack("<I", 20) + b"x" * 0x20000
    with pytest.raises(PlanError, match=words):
        Handover.read(memory(data), PLACE)


@pytest.mark.parametrize(
    ("told", "words"),
    [
        (MultibootInfo(flags=InfoFlags(loader_name=True), boot_loader_name=0xF0000000), "0xf0000000 does not end"),
        (MultibootInfo(flags=InfoFlags(loader_name=True), boot_loader_name=PLACE + 116), "0x6074 does not end"),
        (
            MultibootInfo(flags=InfoFlags(modules=True), mods_count=2, mods_addr=PLACE + 96),
            "mods at 0x6060.* 20 of them",
        ),
        (MultibootInfo(flags=InfoFlags(memory_map=True), mmap_addr=0, mmap_length=24), "mmap at 0x0 .* 0 of them"),
    ],
)
def test_what_leads_to_where_reading_ends_is_refused(told, words):
    data = told.to_bytes()
    with pytest.raises(PlanError, match=words):
        Handover.read(lambda address, size: data[address - PLACE :][:size] if address >= PLACE else b"", PLACE)


def test_it_is_described_in_words():
    told = Handover(
        (E820Entry(MIB, MIB, 1),), (Module(0x800000, 0x801000, "initrd.img"),), 0x20000, "anyvisor", 632, 1024
    )
    assert told.describe().splitlines() == [
        "loader anyvisor",
        "command line at 0x20000",
        "memory 632 KiB from 0, 1024 KiB from 1 MiB",
        'module 0x800000-0x800fff "initrd.img"',
        "mmap  0x000000100000-0x0000001fffff  RAM (1M)",
    ]


# -- for a machine -----------------------------------------------------------------------------------------------------


def test_a_kernel_is_told_of_its_machine():
    info, line = multiboot_params("console=com1", LAYOUT, KERNEL, INITRD, name="xen-4.17")
    assert (info.name, info.guest_address) == ("multiboot information", 0x6000)
    assert (line.name, line.guest_address, line.content) == ("command line", 0x20000, b"xen-4.17 console=com1\0")
    told = Handover.read(reads(info, line), 0x6000)
    assert told.memory_map == e820(LAYOUT)
    assert told.modules == (Module(0x3F00000, 0x3F00006, "initrd"),)
    assert told.command_line(reads(info, line)) == "xen-4.17 console=com1"
    assert (told.loader, told.mem_lower, told.mem_upper) == ("anyvisor", 632, 63 * 1024)


def test_without_an_initrd_there_are_no_modules():
    info, line = multiboot_params("", LAYOUT, KERNEL)
    assert Handover.read(reads(info), 0x6000).modules == ()
    assert line.content == b"kernel\0"


def test_names_are_single_words_so_that_a_kernel_can_skip_them(tmp_path):
    initrd = Blob("initrd", 0x3F00000, FileSlice(Path("/a b/mein Ünitrd\n.img"), 0, 10))
    info, line = multiboot_params("quiet", LAYOUT, KERNEL, initrd, name="my kernel")
    assert line.content == b"my_kernel quiet\0"
    assert Handover.read(reads(info), 0x6000).modules[0].string == "mein__nitrd_.img"


def test_memory_above_1_mib_counts_up_to_the_first_hole():
    split = attrs.evolve(LAYOUT, reserved=(*LAYOUT.reserved, Region(16 * MIB, MIB, "hole")))
    assert Handover.read(reads(multiboot_params("", split, KERNEL)[0]), 0x6000).mem_upper == 15 * 1024
    big = Layout.for_memory(8 * GIB)
    assert Handover.read(reads(multiboot_params("", big, KERNEL)[0]), 0x6000).mem_upper == 3 * 1024 * 1024 - 1024
    none = attrs.evolve(LAYOUT, reserved=(Region(0, 2 * MIB),))
    found = Handover.read(reads(multiboot_params("", none, KERNEL)[0]), 0x6000)
    assert (found.mem_lower, found.mem_upper) == (0, 0)


def test_a_command_line_that_is_too_long_is_refused():
    limit = 0xFFFF - len("kernel ")
    multiboot_params("x" * limit, LAYOUT, KERNEL)
    with pytest.raises(ConfigError, match=r"has 65536 bytes, .* 65535; make it shorter"):
        multiboot_params("x" * (limit + 1), LAYOUT, KERNEL)


def test_lists_that_are_longer_than_their_place_are_refused():
    holes = tuple(Region(MIB * (2 + 2 * number), MIB) for number in range(20))
    layout = attrs.evolve(LAYOUT, reserved=(*LAYOUT.reserved, *holes))
    multiboot_params("", layout, KERNEL)
    narrow = attrs.evolve(layout, boot_info=Region(0x6000, 256, "boot information"))
    with pytest.raises(PlanError, match="have 1161 bytes, boot information 0x6000-0x60ff has 256"):
        multiboot_params("", narrow, KERNEL)


def test_the_longest_memory_map_that_there_can_be_fits():
    holes = tuple(Region(2 * MIB + 0x2000 * number, 0x1000) for number in range(62))
    layout = attrs.evolve(LAYOUT, reserved=(*LAYOUT.reserved, *holes))
    assert len(e820(layout)) == 127
    info, _ = multiboot_params("", layout, KERNEL, INITRD)
    assert Handover.read(reads(info), 0x6000).memory_map == e820(layout)


def test_text_that_would_end_early_and_numbers_beyond_32_bits_are_refused():
    with pytest.raises(PlanError, match="there is a NUL in"):
        Handover(loader="a\0b").to_bytes(PLACE)
    with pytest.raises(PlanError, match="does not fit its 32-bit fields"):
        Handover(modules=(Module(1 << 32, 1 << 32),)).to_bytes(PLACE)
