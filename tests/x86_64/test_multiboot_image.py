"""Multiboot kernels made by hand: where their bytes go, and how those that cannot boot are refused."""

import gzip
import struct

import attrs
import pytest
from kernel_images import elf, pvh_note

from anyvisor import MachineConfig, generic_facts
from anyvisor.assemble import assemble as assemble_plan
from anyvisor.errors import KernelImageError
from anyvisor.memory import GIB, MIB, Region
from anyvisor.plan import FileSlice
from anyvisor.x86_64.layout import Layout
from anyvisor.x86_64.multiboot import load_kernel, speaks_multiboot
from multiboot_kernels import ADDRESSES, FORMS, LOADED, SPEAK, assemble, elf32, flat, header

LAYOUT = Layout.for_memory(64 * MIB)
HIGH = 0xC0000000
BODY = header() + SPEAK


@pytest.fixture
def path(tmp_path):
    return tmp_path / "kernel"


@pytest.fixture
def load(path):
    def write_and_load(data, layout=LAYOUT):
        path.write_bytes(data)
        return load_kernel(path, layout)

    return write_and_load


@pytest.fixture
def refused(load):
    """The error that refuses an image."""

    def refuse(data, layout=LAYOUT):
        with pytest.raises(KernelImageError) as caught:
            load(data, layout)
        return caught.value

    return refuse


def test_an_elf_kernel_of_32_bits_goes_where_its_program_headers_say(load, path):
    kernel = load(elf32(((LOADED, BODY, 0x1000), (LOADED + 0x8000, b"data", 0x2000)), entry=LOADED + 12))
    first, second = kernel.blobs
    assert first.region == Region(0x100000, 0x1000, "kernel segment 0")
    assert first.content == FileSlice(path, 52 + 2 * 32, len(BODY))
    assert (second.guest_address, second.size_bytes, len(second.content)) == (0x108000, 0x2000, 4)
    assert (kernel.protocol, kernel.mode, kernel.entry) == ("multiboot", "protected", 0x10000C)
    assert (kernel.command_line_limit, kernel.initrd_limit) == (0xFFFF, 0xFFFFFFFF)


def test_an_elf_kernel_of_64_bits_is_entered_in_32_bit_code_as_well(load):
    kernel = load(elf(((LOADED, BODY, 0x1000),), entry=LOADED + 12))
    assert (kernel.protocol, kernel.mode, kernel.entry) == ("multiboot", "protected", 0x10000C)


def test_a_virtual_entry_is_the_physical_one_of_its_segment(load):
    two = ((LOADED, BODY, 0x1000), (LOADED + 0x8000, BODY, 0x1000))
    assert load(elf32(two, entry=LOADED + 0x8010, virtual=HIGH)).entry == 0x108010


def test_an_entry_that_is_physical_already_stays(load):
    image = bytearray(elf32(virtual=HIGH))
    struct.pack_into("<I", image, 0x18, LOADED + 12)
    assert load(bytes(image)).entry == 0x10000C


def test_a_header_with_addresses_places_the_whole_file(load, path):
    kernel = load(flat())
    assert [blob.region for blob in kernel.blobs] == [Region(0x100000, 32 + len(SPEAK), "kernel")]
    assert kernel.blobs[0].content == FileSlice(path, 0, 32 + len(SPEAK))
    assert (kernel.protocol, kernel.mode, kernel.entry) == ("multiboot", "protected", 0x100020)


def test_what_lies_before_load_addr_in_the_file_is_left_out(load):
    kernel = load(flat(before=bytes(64), skip=60))
    blob = kernel.blobs[0]
    assert (blob.guest_address, blob.content.offset, len(blob.content)) == (0x100000, 60, 4 + 32 + len(SPEAK))
    assert kernel.entry == 0x100000 + 4 + 32


def test_load_end_and_bss_end_bound_what_is_loaded_and_what_is_zero(load):
    blob = load(flat(SPEAK + b"debug info", load_end=LOADED + 32 + len(SPEAK), bss_end=LOADED + 0x3000)).blobs[0]
    assert (len(blob.content), blob.size_bytes) == (32 + len(SPEAK), 0x3000)
    whole = load(flat(bss_end=LOADED + 0x3000)).blobs[0]
    assert (len(whole.content), whole.size_bytes) == (32 + len(SPEAK), 0x3000)


def test_addresses_in_the_header_come_before_those_of_an_elf_file(load):
    at = LOADED + 52 + 32
    inner = header(ADDRESSES, at, LOADED, 0, 0, at + 32) + SPEAK
    kernel = load(elf32(((5 * MIB, inner, 0x1000),), entry=5 * MIB))
    assert [blob.guest_address for blob in kernel.blobs] == [LOADED]
    assert kernel.entry == LOADED + 52 + 32 + 32


@pytest.mark.parametrize("make", [elf32, flat, elf], ids=["elf32", "flat", "none"])
def test_what_gzip_has_packed_is_unpacked(make, path, load):
    if make is elf:
        path.write_bytes(gzip.compress(elf()))
        assert not speaks_multiboot(path)
        with pytest.raises(KernelImageError, match="in the unpacked kernel: has no multiboot header"):
            load_kernel(path, LAYOUT)
        return
    plain = load(make())
    content = [blob.read(0, len(blob.content)) for blob in plain.blobs]
    packed = load(gzip.compress(make()))
    assert speaks_multiboot(path)
    assert packed.entry == plain.entry
    assert [blob.region for blob in packed.blobs] == [blob.region for blob in plain.blobs]
    assert [
        blob.read(0, len(blob.content)).ljust(len(known), b"\0")
        for blob, known in zip(packed.blobs, content, strict=True)
    ] == content


def test_a_packed_header_that_cannot_be_packed_is_found(path):
    noise = b"".join(struct.pack("<I", (number * 2654435761) % (1 << 32)) for number in range((8192 - 12) // 4))
    path.write_bytes(gzip.compress(noise + header() + SPEAK, 0))
    assert speaks_multiboot(path)


@pytest.mark.parametrize("packed", [b"\x1f\x8b", b"\x1f\x8b\x08" + bytes(100), gzip.compress(elf32())[:40]])
def test_a_damaged_packed_file_speaks_nothing(packed, path, refused):
    path.write_bytes(packed)
    assert not speaks_multiboot(path)
    assert refused(packed)


def test_a_packed_kernel_may_not_unpack_to_more_than_ram(refused):
    assert "more than the 2M allowed" in str(
        refused(gzip.compress(flat() + bytes(3 * MIB)), Layout.for_memory(2 * MIB))
    )


def test_a_file_with_another_look_does_not_speak_multiboot(path):
    for other in (b"x", elf(), bytes(10000), flat(before=bytes(8192))):
        path.write_bytes(other)
        assert not speaks_multiboot(path)


@pytest.mark.parametrize(
    ("image", "words", "offset"),
    [
        (b"\0" * 100, "has no multiboot header in its first 8192 bytes", None),
        (bytes(64) + header(8) + SPEAK, "requires 0x8 in its flags", 68),
        (elf32(((LOADED, header(0x8003) + SPEAK, 0x1000),)), "requires 0x8000 in its flags", 88),
        (header(), "is no ELF file, and its multiboot header has no addresses", 4),
        (flat()[:31], "cut short at offset 0x1f, its flags want 32", 0),
        (header(7, 0, 0, 0, 0, 0, 0, 80, 25, 0) + SPEAK, "requires a graphics mode", 32),
        (b"\0\0\0\0" + header(ADDRESSES, LOADED, LOADED + 4, 0, 0, LOADED), "load_addr", 20),
        (b"\0\0\0\0" + header(ADDRESSES, LOADED + 8, LOADED, 0, 0, LOADED), "lies 0x8 behind load_addr", 20),
        (flat(load_end=LOADED + 4096), "asks for 4096 bytes from 0x0 on, which the file", 20),
        (flat(load_end=LOADED - 1), "asks for -1 bytes", 20),
        (flat(bss_end=LOADED + 40), "bss_end_addr 0x100028 lies before", 24),
        (flat(load=0x7C00), "below 0x100000, the lowest address for a kernel", 16),
        (flat(load=64 * MIB), "outside RAM", 16),
        (flat(bss_end=0xFFFFFFFF), "outside RAM", 16),
        (header(ADDRESSES, LOADED, LOADED, 0, 0, LOADED + 4096) + SPEAK, "entry 0x101000 is not in kernel", 28),
        (header(ADDRESSES, LOADED, LOADED, 0, 0, LOADED - 1) + SPEAK, "entry 0xfffff is not in kernel", 28),
        (elf32(entry=LOADED + 0x1000), "entry 0x101000 is in none of the loaded segments", 0x18),
        (elf32(((LOADED, BODY, 10),)), "bytes in the file for 10 in memory", 52),
    ],
)
def test_a_kernel_that_cannot_boot_is_refused_with_the_offset(refused, image, words, offset):
    error = refused(image)
    assert words in str(error)
    assert error.offset == offset


def test_a_kernel_for_text_mode_boots_without_a_display(load):
    at = 48
    fields = (LOADED, LOADED, 0, 0, LOADED + at, 1, 80, 25, 0)
    assert load(header(ADDRESSES | 4, *fields) + SPEAK).entry == LOADED + at
    assert load(elf32(((LOADED, header(7, 0, 0, 0, 0, 0, 1, 80, 25, 0) + SPEAK, 0x1000),))).entry == LOADED + 12


def test_optional_features_that_are_not_known_are_ignored(load):
    assert load(elf32(((LOADED, header(0xFFFE0003) + SPEAK, 0x1000),))).entry == LOADED + 12


def test_a_kernel_keeps_off_what_the_layout_reserves_and_off_high_ram(refused):
    hole = attrs.evolve(LAYOUT, reserved=(Region(LOADED + 40, 1, "hole"),))
    assert "overlaps hole" in str(refused(flat(), hole))
    far = elf(((5 * GIB, BODY, 0x1000),), entry=5 * GIB)
    assert "beyond 4 GiB" in str(refused(far, Layout.for_memory(8 * GIB)))


@pytest.mark.parametrize("form", FORMS)
def test_what_the_linker_makes_is_loaded(form, tmp_path):
    kernel = load_kernel(assemble(tmp_path, form), LAYOUT)
    assert kernel.blobs[0].guest_address == LOADED
    assert kernel.blobs[0].read(0, 4096)[kernel.entry - LOADED :].startswith(b"\xa3")  # mov [seen], eax


@pytest.mark.parametrize(("protocol", "provider"), [(None, "multiboot"), ("multiboot", "multiboot"), ("pvh", "pvh")])
def test_a_kernel_that_speaks_pvh_as_well_is_booted_by_multiboot_unless_pvh_is_asked_for(protocol, provider, path):
    path.write_bytes(elf(((LOADED, BODY, 0x1000),), entry=LOADED + 12, bits=32, notes=pvh_note(LOADED + 12)))
    plan = assemble_plan(MachineConfig(kernel=path, protocol=protocol), generic_facts("x86_64"))
    (taken,) = [step.provided_by for step in plan.steps if step.hook == "anyvisor_load_kernel"]
    assert taken == provider
