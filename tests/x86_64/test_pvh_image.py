"""Kernels with a PVH entry: found by their note, placed by their headers, refused in words."""

import os
import re
import shutil
import subprocess

import pytest
from kernel_images import ENTRY, PACKERS, Patch, bzimage, elf, note, pvh_note

from anyvisor.errors import HypervisorUnavailable, KernelImageError
from anyvisor.image_file import ImageFile
from anyvisor.memory import MIB, Region
from anyvisor.x86_64.bzimage import BzImage
from anyvisor.x86_64.layout import Layout
from anyvisor.x86_64.pvh_image import load_pvh, speaks_pvh_first
from guests.debian import cloud_kernel, generic_kernel

LAYOUT = Layout.for_memory(128 * MIB)


@pytest.fixture
def load(tmp_path):
    def write_and_load(data, **options):
        (tmp_path / "kernel").write_bytes(data)
        return load_pvh(tmp_path / "kernel", LAYOUT, **options)

    return write_and_load


@pytest.mark.parametrize("bits", [32, 64])
@pytest.mark.parametrize("width", [4, 8])
def test_a_kernel_is_entered_where_its_note_says(bits, width, load):
    kernel = load(elf(notes=pvh_note(ENTRY + 0x123, width), bits=bits))
    assert (kernel.protocol, kernel.mode, kernel.entry) == ("pvh", "protected", 0x1000123)
    assert [blob.region for blob in kernel.blobs] == [Region(ENTRY, 4096, "kernel segment 0")]
    assert (kernel.command_line_limit, kernel.setup_header) == (2047, b"")
    assert kernel.initrd_limit == (0x7FFFFFFF if bits == 64 else 0x37FFFFFF)


def test_the_entry_of_the_elf_header_plays_no_part(load):
    assert load(elf(notes=pvh_note(), entry=0xFFFFFFFF81000000)).entry == ENTRY


def test_other_notes_are_passed_over_and_the_first_entry_counts(load):
    others = note(b"Xen\0", 6, b"linux\0") + note(b"GNU\0", 18, b"\0\0\0\0") + note(b"GNU\0", 3, b"id")
    assert load(elf(notes=others + pvh_note(ENTRY + 8) + pvh_note(ENTRY + 16))).entry == ENTRY + 8


@pytest.mark.parametrize("packer", ["gzip", "xz"])
def test_out_of_a_bzimage_the_vmlinux_is_unpacked(packer, load):
    packed = bzimage(payload=PACKERS[packer](elf(notes=pvh_note())))
    for unpack in (None, True):
        kernel = load(packed, unpack=unpack)
        assert (kernel.protocol, kernel.entry) == ("pvh", ENTRY)
        assert kernel.blobs[0].content == b"\xf4" * 64
    with pytest.raises(KernelImageError, match=r"in the vmlinux that it packs; .*leave out `unpack`.* by linux64"):
        load(packed, unpack=False)


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (elf(), "no PVH entry .*XEN_ELFNOTE_PHYS32_ENTRY.*; enter it by linux64"),
        (elf(bits=32), "no PVH entry .*; enter it by linux32"),
        (elf(notes=note(b"XenX\0", 18, b"1234")), "no PVH entry"),
        (bzimage(payload=PACKERS["gzip"](elf())), "in the unpacked kernel: has no PVH entry"),
        (bzimage(), "too short|is 0 bytes|does not say where the packed kernel lies"),
        (elf(notes=note(b"Xen\0", 18, b"")), "PVH entry has 0 bytes where an address has 4 or 8"),
        (elf(notes=note(b"Xen\0", 18, bytes(16))), "PVH entry has 16 bytes"),
        (elf(notes=pvh_note(1 << 32, 8)), "0x100000000 is beyond 4 GiB"),
        (elf(notes=pvh_note(ENTRY - 1)), "entry 0xffffff is in none of the loaded segments"),
        (elf(notes=pvh_note(0)), "entry 0x0 is in none"),
        (elf(((0x8000, b"\xf4", 1),), notes=pvh_note(0x8000)), "below 0x100000, the lowest"),
        (b"\x1f\x8b" + bytes(600), "looks like gzip-compressed"),
        (bytes(600), "neither a bzImage nor an ELF vmlinux"),
    ],
)
def test_what_cannot_be_entered_by_pvh_is_refused_and_told_what_it_has(data, words, load):
    with pytest.raises(KernelImageError, match=words):
        load(data)


def test_a_wrong_entry_is_named_with_the_note_s_offset(load):
    data = elf(notes=note(b"GNU\0", 3, b"id") + pvh_note(0x2000000))
    with pytest.raises(KernelImageError) as error:
        load(data)
    assert error.value.offset == len(data) - len(pvh_note())


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (elf(bits=32, notes=pvh_note()), True),
        (elf(bits=32), False),
        (elf(notes=pvh_note()), False),
        (bzimage(payload=PACKERS["gzip"](elf(bits=32, notes=pvh_note()))), False),
        (elf(bits=32, notes=pvh_note(), patches=(Patch(0x12, "H", 40),)), False),
        (b"", False),
        (b"\x7fELF", False),
        (bytes(4096), False),
    ],
)
def test_by_its_looks_only_a_32_bit_kernel_with_the_note_is_for_pvh(data, expected, tmp_path):
    (tmp_path / "kernel").write_bytes(data)
    assert speaks_pvh_first(tmp_path / "kernel") is expected


def test_a_file_that_is_not_there_is_for_others_to_refuse(tmp_path):
    assert not speaks_pvh_first(tmp_path / "none")
    with pytest.raises(KernelImageError, match="cannot open the kernel"):
        load_pvh(tmp_path / "none", LAYOUT)


def skip(reason):
    assert os.environ.get("CI") != "true", reason
    pytest.skip(reason)


@pytest.mark.parametrize("provide", [generic_kernel, cloud_kernel], ids=["generic", "cloud"])
def test_a_real_kernel_has_the_entry_that_readelf_reads_in_its_notes(provide, tmp_path):
    try:
        vmlinuz = provide().vmlinuz
    except HypervisorUnavailable as error:
        skip(f"no Debian kernel: {error}")
    if not shutil.which("readelf"):
        skip("apt-get install binutils")
    layout = Layout.for_memory(512 * MIB)
    (tmp_path / "vmlinux").write_bytes(BzImage.read(ImageFile.open(vmlinuz)).vmlinux(layout).unpacked)
    listing = subprocess.check_output(["readelf", "-nW", tmp_path / "vmlinux"], text=True, timeout=60)
    (words,) = re.findall(r"Xen +0x0000000[48].*\(0x00000012\)\s+description data: ([0-9a-f ]+)", listing)
    kernel = load_pvh(vmlinuz, layout)
    assert kernel.entry == int.from_bytes(bytes.fromhex(words), "little")
    assert [blob.region for blob in load_pvh(tmp_path / "vmlinux", layout).blobs] == [
        blob.region for blob in kernel.blobs
    ]
