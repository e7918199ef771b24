"""Hostile files with notes in them: a kernel that fits RAM or a KernelImageError, in bounded memory and time."""

import contextlib
import itertools
import struct
import time
import tracemalloc

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from kernel_images import ENTRY, PACKERS, bzimage, elf, note, pvh_note

from anyvisor.errors import KernelImageError
from anyvisor.memory import MIB
from anyvisor.x86_64.image import load_kernel
from anyvisor.x86_64.layout import Layout
from anyvisor.x86_64.pvh import pvh_boot_params
from anyvisor.x86_64.pvh_image import load_pvh, speaks_pvh_first

LAYOUT = Layout.for_memory(64 * MIB)
NOTES = note(b"GNU\0", 3, b"0123456789") + pvh_note(ENTRY + 4) + note(b"Xen\0", 6, b"linux\0")
SEGMENTS = ((ENTRY, b"\xf4" * 400, 0x4000), (ENTRY + 0x8000, b"data", 4096))
ELVES = {bits: elf(SEGMENTS, notes=NOTES, bits=bits) for bits in (32, 64)}
MEMORY_LIMIT_BYTES = 24 * MIB
SECONDS = 30
"""On however slow a machine; read again and again, they take minutes."""
SETTINGS = settings(max_examples=100, deadline=2000)


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    return tmp_path_factory.mktemp("fuzz") / "kernel"


def load_safely(path, data):
    """Load the bytes every way there is; what comes out is sound, and little memory was used."""
    path.write_bytes(data)
    tracemalloc.start()
    try:
        speaks_pvh_first(path)
        for load in (load_pvh, load_kernel):
            with contextlib.suppress(KernelImageError):
                check(load(path, LAYOUT))
        _, peak_bytes = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak_bytes < MEMORY_LIMIT_BYTES


def check(kernel):
    regions = sorted(blob.region for blob in kernel.blobs)
    assert all(region.start >= MIB and region.end <= 64 * MIB for region in regions)
    assert all(one.end <= two.start for one, two in itertools.pairwise(regions))
    assert any(region.start <= kernel.entry < region.end for region in regions)
    info, _ = pvh_boot_params("", LAYOUT, kernel)
    assert len(info.content) < 4096


@pytest.mark.parametrize("bits", ELVES)
def test_the_sound_image_loads(path, bits):
    path.write_bytes(ELVES[bits])
    kernel = load_pvh(path, LAYOUT)
    assert kernel.entry == ENTRY + 4
    check(kernel)


@SETTINGS
@given(
    st.sampled_from(sorted(ELVES)),
    st.dictionaries(st.integers(4, 64 + 3 * 56), st.integers(0, 255), min_size=1, max_size=6),
)
def test_headers_with_wrong_bytes_load_safely(path, bits, changes):
    image = bytearray(ELVES[bits])
    for offset, value in changes.items():
        image[offset] = value
    load_safely(path, bytes(image))


@SETTINGS
@given(st.sampled_from(sorted(ELVES)), st.binary(max_size=len(NOTES)), st.integers(0, len(NOTES)))
def test_notes_with_wrong_bytes_load_safely(path, bits, data, at):
    changed = (NOTES[:at] + data + NOTES[at + len(data) :])[: len(NOTES)]
    load_safely(path, elf(SEGMENTS, notes=changed, bits=bits))


SIZES = st.sampled_from([0, 1, 3, 4, 8, 0x7FFFFFFF, 0xFFFFFFFC, 0xFFFFFFFF]) | st.integers(0, 64)


@SETTINGS
@given(
    st.lists(st.tuples(SIZES, SIZES, st.integers(0, 20), st.binary(max_size=20)), max_size=5), st.sampled_from([4, 8])
)
def test_notes_whose_sizes_lie_load_safely(path, rows, alignment):
    content = b"".join(struct.pack("<III", *sizes, kind) + data for *sizes, kind, data in rows)
    load_safely(path, elf(SEGMENTS, notes=content or b"\0", alignment=alignment))


def test_notes_that_are_claimed_again_and_again_are_not_read_again_and_again(path):
    """127 program headers that all claim the same 64 KiB of notes of no length, none of them Xen's."""
    content = struct.pack("<III", 0, 0, 1) * (65536 // 12)
    single = elf(SEGMENTS[:1], notes=content)
    header = single[64 + 56 : 64 + 2 * 56]
    image = bytearray(single)
    table = len(image)
    image += single[64 : 64 + 56] + header * 127
    struct.pack_into("<Q", image, 0x20, table)
    struct.pack_into("<H", image, 0x38, 128)
    began = time.monotonic()
    load_safely(path, bytes(image))
    with pytest.raises(KernelImageError, match="131064 bytes of notes"):
        load_pvh(path, LAYOUT)
    assert time.monotonic() - began < SECONDS


def test_notes_as_long_as_the_file_are_not_read(path):
    image = elf(SEGMENTS[:1], notes=bytes(30 * MIB))
    path.write_bytes(image)
    tracemalloc.start()
    try:
        with pytest.raises(KernelImageError, match="31457280 bytes of notes"):
            load_pvh(path, LAYOUT)
        assert tracemalloc.get_traced_memory()[1] < MIB
    finally:
        tracemalloc.stop()


@SETTINGS
@given(st.integers(0, len(ELVES[32])))
def test_every_length_loads_safely(path, length):
    load_safely(path, ELVES[32][:length])


@settings(max_examples=50, deadline=2000)
@given(st.dictionaries(st.integers(0, len(ELVES[64]) - 1), st.integers(0, 255), max_size=5))
def test_a_packed_vmlinux_with_wrong_bytes_loads_safely(path, changes):
    image = bytearray(ELVES[64])
    for offset, value in changes.items():
        image[offset] = value
    load_safely(path, bzimage(payload=PACKERS["gzip"](bytes(image))))
