"""Hostile multiboot images and structures: a kernel that fits RAM or a KernelImageError, in bounded memory."""

import contextlib
import gzip
import itertools
import tracemalloc

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from kernel_images import elf

from anyvisor.errors import KernelImageError, PlanError
from anyvisor.memory import MIB
from anyvisor.plan import FileSlice
from anyvisor.x86_64.layout import Layout
from anyvisor.x86_64.multiboot import Handover, Header, load_kernel, multiboot_params, speaks_multiboot
from multiboot_kernels import LOADED, SPEAK, elf32, flat, header

LAYOUT = Layout.for_memory(8 * MIB)
PADDED = header() + SPEAK + bytes(0x1000)
IMAGES = {
    "flat": flat(SPEAK + bytes(0x1000), load_end=LOADED + 0x1000, bss_end=LOADED + 0x4000),
    "before": flat(SPEAK + bytes(0x1000), before=bytes(64), skip=32),
    "elf32": elf32(((LOADED, PADDED, 0x4000), (LOADED + 0x8000, b"data", 0x1000)), virtual=0xC0000000),
    "elf64": elf(((LOADED, PADDED, 0x4000), (LOADED + 0x8000, b"data", 0x1000)), entry=LOADED + 12),
}
IMAGES |= {f"{name}.gz": gzip.compress(data) for name, data in IMAGES.items()}
MEMORY_LIMIT_BYTES = 24 * MIB
"""A packed kernel may unpack to as much as the guest has RAM, and is copied once."""
SETTINGS = settings(max_examples=150, deadline=2000)
BYTES = st.sampled_from([0, 1, 0x7F, 0x80, 0xFF]) | st.integers(0, 255)
AROUND = st.sampled_from([0, 1, 0xFFFF, LOADED, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF]) | st.integers(0, 1 << 24)
U32 = st.integers(0, (1 << 32) - 1)


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    return tmp_path_factory.mktemp("fuzz") / "kernel"


def load_safely(path, data):
    """Look at the bytes and load them; what comes out is sound, and little memory was used."""
    path.write_bytes(data)
    tracemalloc.start()
    try:
        speaks = speaks_multiboot(path)
        with contextlib.suppress(KernelImageError):
            check(load_kernel(path, LAYOUT), len(data))
            assert speaks
        _, peak_bytes = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak_bytes < MEMORY_LIMIT_BYTES


def check(kernel, file_bytes):
    regions = sorted(blob.region for blob in kernel.blobs)
    assert regions
    assert all(region.start >= MIB and region.end <= 8 * MIB for region in regions)
    assert all(one.end <= two.start for one, two in itertools.pairwise(regions))
    assert any(region.start <= kernel.entry < region.end for region in regions)
    for blob in kernel.blobs:
        if isinstance(blob.content, FileSlice):
            assert 0 <= blob.content.offset <= file_bytes - blob.content.size_bytes
    assert multiboot_params("", LAYOUT, kernel)


@pytest.mark.parametrize("name", IMAGES)
def test_the_sound_images_load(path, name):
    path.write_bytes(IMAGES[name])
    check(load_kernel(path, LAYOUT), len(IMAGES[name]))


@SETTINGS
@given(st.binary(min_size=1, max_size=2000))
def test_random_bytes_load_safely(path, data):
    load_safely(path, data)


@SETTINGS
@given(st.integers(0, 300), U32, st.lists(AROUND, min_size=9, max_size=9), st.binary(max_size=600))
def test_any_header_before_random_bytes_loads_safely(path, before, flags, fields, data):
    load_safely(path, bytes(before) + header(flags, *fields) + data)


@SETTINGS
@given(st.sampled_from([0x10000, 0x10003]), st.lists(AROUND, min_size=5, max_size=5), st.booleans())
def test_any_addresses_load_safely(path, flags, fields, packed):
    image = header(flags, *fields) + SPEAK + bytes(5000)
    load_safely(path, gzip.compress(image) if packed else image)


@SETTINGS
@given(st.sampled_from(sorted(IMAGES)), st.integers(0, 0x100), st.sampled_from([1, 2, 4]), AROUND)
def test_a_number_that_is_wrong_loads_safely(path, name, offset, width, value):
    image = bytearray(IMAGES[name])
    image[offset : offset + width] = (value % (1 << 8 * width)).to_bytes(width, "little")
    load_safely(path, bytes(image))


@SETTINGS
@given(st.sampled_from(sorted(IMAGES)), st.data())
def test_wrong_bytes_anywhere_load_safely(path, name, data):
    image = bytearray(IMAGES[name])
    for _ in range(3):
        image[data.draw(st.integers(0, len(image) - 1))] = data.draw(BYTES)
    load_safely(path, bytes(image))


@pytest.mark.parametrize("name", ["flat", "elf32", "elf32.gz"])
def test_every_length_loads_safely(path, name):
    image = IMAGES[name]
    for length in [*range(1, min(len(image), 0x120), 3), len(image) - 9, len(image) - 1]:
        load_safely(path, image[:length])


@pytest.mark.parametrize("claimed", [64 * MIB, 4096, 0xFFFFFFFF])
@pytest.mark.parametrize("make", [flat, elf32])
def test_zeros_behind_a_packed_kernel_are_not_unpacked_whatever_size_it_claims(path, make, claimed):
    packed = gzip.compress(make() + bytes(64 * MIB), 1)
    load_safely(path, packed[:-4] + claimed.to_bytes(4, "little"))


def reader(data):
    return lambda address, size_bytes: bytes(data[(address + i) % len(data)] for i in range(size_bytes))


@SETTINGS
@given(st.binary(min_size=88, max_size=400), U32)
def test_any_structure_is_read_or_refused(data, address):
    tracemalloc.start()
    try:
        with contextlib.suppress(PlanError):
            assert Handover.read(reader(data), address).describe() is not None
        _, peak_bytes = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak_bytes < MEMORY_LIMIT_BYTES


@SETTINGS
@given(st.binary(max_size=100))
def test_any_header_is_read_or_refused(data):
    with contextlib.suppress(PlanError):
        assert data.startswith(Header.decode(data).to_bytes())
