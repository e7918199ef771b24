"""Where an initrd goes: the highest place that is free."""

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st
from kernel_images import bzimage

from anyvisor.errors import KernelImageError
from anyvisor.memory import GIB, KIB, MIB, Region
from anyvisor.plan import Blob, FileSlice
from anyvisor.x86_64.bootparams import place_initrd
from anyvisor.x86_64.image import load_kernel
from anyvisor.x86_64.layout import Layout
from anyvisor.x86_64.placement import highest_room

LAYOUT = Layout.for_memory(128 * MIB)


@pytest.fixture
def kernel(tmp_path):
    (tmp_path / "bzImage").write_bytes(bzimage())
    return load_kernel(tmp_path / "bzImage", LAYOUT)


@pytest.fixture
def initrd(tmp_path):
    def write(size_bytes):
        with (tmp_path / "initrd").open("wb") as file:
            file.truncate(size_bytes)
        return tmp_path / "initrd"

    return write


def test_an_initrd_goes_to_the_end_of_ram(kernel, initrd):
    path = initrd(5000)
    blob = place_initrd(path, LAYOUT, kernel)
    assert blob == Blob("initrd", 128 * MIB - 2 * 4096, FileSlice(path, 0, 5000))


def test_an_initrd_stays_below_the_mmio_gap_and_the_kernel_s_limit(kernel, initrd):
    layout = Layout.for_memory(8 * GIB)
    assert place_initrd(initrd(4096), layout, kernel).guest_address == 2 * GIB - 4096
    free = attrs.evolve(kernel, initrd_limit=(1 << 64) - 1)
    assert place_initrd(initrd(4096), layout, free).guest_address == 3 * GIB - 4096


def test_an_initrd_keeps_off_everything_else(kernel, initrd):
    taken = [Region(127 * MIB, 1 * MIB, "page tables"), Region(126 * MIB + 1, 4096, "acpi")]
    assert place_initrd(initrd(4096), LAYOUT, kernel, *taken).guest_address == 127 * MIB - 4096
    assert place_initrd(initrd(1 * MIB), LAYOUT, kernel, *taken).guest_address == 125 * MIB


def test_an_initrd_goes_below_the_kernel_when_there_is_no_room_above(kernel, initrd):
    layout = Layout.for_memory(24 * MIB)
    assert place_initrd(initrd(15 * MIB), layout, kernel).guest_address == 1 * MIB
    with pytest.raises(KernelImageError, match=r"initrd's 15364K do not fit into RAM .*0x100000-0x17fffff.* 8M"):
        place_initrd(initrd(15 * MIB + 4 * KIB), layout, kernel)


def test_an_initrd_never_goes_below_the_first_megabyte(kernel, initrd):
    """There is RAM down there, but firmware tables, page tables and the GDT have it."""
    all_of_it = Region(1 * MIB, 127 * MIB, "all the rest")
    with pytest.raises(KernelImageError, match="the initrd's 4K do not fit"):
        place_initrd(initrd(4096), LAYOUT, kernel, all_of_it)


def test_an_initrd_bigger_than_ram_is_refused(kernel, initrd):
    with pytest.raises(KernelImageError, match=r"the initrd's 1T do not fit.*more memory"):
        place_initrd(initrd(1 << 40), LAYOUT, kernel)


def test_an_initrd_that_is_no_file_is_refused(kernel, initrd, tmp_path):
    with pytest.raises(KernelImageError, match="cannot open the initrd: No such file"):
        place_initrd(tmp_path / "absent", LAYOUT, kernel)
    with pytest.raises(KernelImageError, match="is empty; give the initrd"):
        place_initrd(initrd(0), LAYOUT, kernel)
    with pytest.raises(KernelImageError, match="is a directory; give the initrd"):
        place_initrd(tmp_path, LAYOUT, kernel)


PAGES = st.integers(0, 60)


@given(st.integers(1, 30 * 4096), st.lists(st.tuples(PAGES, st.integers(0, 9 * 4096)), max_size=8))
def test_the_highest_free_place_is_found(size_bytes, taken):
    """Against the plain way: try every page from the top."""
    regions = [Region(page * 4096 + 100, length) for page, length in taken]
    found = highest_room(64 * 4096, size_bytes, 4096, regions)

    def free(address):
        whole = Region(address, size_bytes)
        return whole.end <= 64 * 4096 and not any(each.size_bytes and whole.overlaps(each) for each in regions)

    expected = next((page * 4096 for page in range(63, -1, -1) if free(page * 4096)), None)
    assert found == expected if expected is not None else found < 0
