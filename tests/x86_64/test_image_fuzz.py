"""Hostile files: whatever the bytes, a kernel that fits RAM or a KernelImageError, in bounded memory."""

import contextlib
import itertools
import tracemalloc

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from kernel_images import ENTRY, PACKERS, bzimage, elf

from anyvisor.errors import KernelImageError
from anyvisor.memory import MIB
from anyvisor.plan import FileSlice
from anyvisor.x86_64.bootparams import boot_params
from anyvisor.x86_64.image import load_kernel
from anyvisor.x86_64.layout import Layout

LAYOUT = Layout.for_memory(64 * MIB)
VMLINUX = elf(((ENTRY, b"\xf4" * 4000 + bytes(range(256)), 0x4000), (ENTRY + 0x8000, b"data", 4096)))
PACKED = {name: bzimage(payload=pack(VMLINUX)) for name, pack in PACKERS.items()}
IMAGES = {"elf": VMLINUX, **PACKED}
MEMORY_LIMIT_BYTES = 24 * MIB
"""LZ4 unpacks into blocks of 8 MiB; nothing else here is longer than a few pages."""
SETTINGS = settings(max_examples=150, deadline=2000)


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    return tmp_path_factory.mktemp("fuzz") / "kernel"


def load_safely(path, data):
    """Load the bytes both ways; what comes out is sound, and little memory was used."""
    path.write_bytes(data)
    tracemalloc.start()
    try:
        for unpack in (False, True):
            with contextlib.suppress(KernelImageError):
                check(load_kernel(path, LAYOUT, unpack=unpack), len(data))
        _, peak_bytes = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak_bytes < MEMORY_LIMIT_BYTES


def check(kernel, file_bytes):
    regions = sorted(blob.region for blob in kernel.blobs)
    assert regions
    assert all(region.start >= MIB and region.end <= 64 * MIB for region in regions)
    assert all(one.end <= two.start for one, two in itertools.pairwise(regions))
    assert any(region.start <= kernel.entry < region.end for region in regions)
    for blob in kernel.blobs:
        if isinstance(blob.content, FileSlice):
            assert 0 <= blob.content.offset <= file_bytes - blob.content.size_bytes
    zero_page, _ = boot_params("", LAYOUT, kernel)
    assert len(zero_page.content) == 4096


@pytest.mark.parametrize("name", IMAGES)
def test_the_sound_images_load(path, name):
    path.write_bytes(IMAGES[name])
    for unpack in (False, True):
        check(load_kernel(path, LAYOUT, unpack=unpack), len(IMAGES[name]))


@SETTINGS
@given(st.binary(max_size=2000))
def test_random_bytes_load_safely(path, data):
    load_safely(path, data)


@SETTINGS
@given(st.binary(max_size=600), st.sampled_from(["elf", "xz"]))
def test_random_bytes_behind_the_right_magic_load_safely(path, data, name):
    magic_end = 6 if name == "elf" else 0x206
    load_safely(path, IMAGES[name][:magic_end] + data)


NUMBERS = st.sampled_from([0, 1, 0x7F, 0x80, 0xFF]) | st.integers(0, 255)
AROUND = st.sampled_from([0, 1, 0xFFFF, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF, 1 << 62, 1 << 63, (1 << 64) - 1])
HEADER = st.integers(0x1F1, 0x26C)


@SETTINGS
@given(st.sampled_from(sorted(PACKED)), st.dictionaries(HEADER, NUMBERS, min_size=1, max_size=5))
def test_a_setup_header_with_wrong_bytes_loads_safely(path, name, changes):
    image = bytearray(IMAGES[name])
    for offset, value in changes.items():
        image[offset] = value
    load_safely(path, bytes(image))


@SETTINGS
@given(
    st.sampled_from(sorted(IMAGES)),
    st.integers(0, 0x280),
    st.sampled_from([2, 4, 8]),
    AROUND | st.integers(0, 1 << 30),
)
def test_a_number_that_is_wrong_loads_safely(path, name, offset, width, value):
    image = bytearray(IMAGES[name])
    image[offset : offset + width] = (value % (1 << 8 * width)).to_bytes(width, "little")
    load_safely(path, bytes(image))


@SETTINGS
@given(st.sampled_from(sorted(PACKED)), st.data())
def test_a_payload_with_wrong_bytes_loads_safely(path, name, data):
    image = bytearray(IMAGES[name])
    for _ in range(3):
        image[data.draw(st.integers(1024 + 0x1000, len(image) - 1))] = data.draw(NUMBERS)
    load_safely(path, bytes(image))


@pytest.mark.parametrize("name", ["elf", "xz"])
def test_every_length_up_to_the_header_s_end_loads_safely(path, name):
    image = IMAGES[name]
    for length in [*range(0, 0x270, 3), 1023, 1024, 1025, len(image) - 1]:
        load_safely(path, image[:length])
