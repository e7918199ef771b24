"""bzImages made by hand: where they go, which limits they give, and how each broken field is named."""

import attrs
import pytest
from kernel_images import (
    ALIGNMENT,
    BOOT_FLAG,
    CMDLINE_SIZE,
    INIT_SIZE,
    INITRD_ADDR_MAX,
    JUMP,
    LOADFLAGS,
    PREF_ADDRESS,
    RELOCATABLE,
    SETUP_SECTS,
    SYSSIZE,
    VERSION,
    Patch,
    bzimage,
)

from anyvisor.errors import KernelImageError
from anyvisor.memory import GIB, KIB, MIB, Region
from anyvisor.plan import FileSlice
from anyvisor.x86_64.image import load_kernel
from anyvisor.x86_64.layout import Layout

LAYOUT = Layout.for_memory(128 * MIB)


@pytest.fixture
def load(tmp_path):
    def write_and_load(*patches, layout=LAYOUT, cut=None):
        (tmp_path / "bzImage").write_bytes(bzimage(patches=patches)[:cut])
        return load_kernel(tmp_path / "bzImage", layout)

    return write_and_load


def test_a_bzimage_goes_to_the_address_it_prefers(load, tmp_path):
    kernel = load()
    (blob,) = kernel.blobs
    assert kernel.protocol == "linux64"
    assert blob.region == Region(0x1000000, 0x800000, "kernel")
    assert blob.content == FileSlice(tmp_path / "bzImage", 1024, 0x1000)
    assert kernel.entry == 0x1000200
    assert kernel.command_line_limit == 2047
    assert kernel.initrd_limit == 0x7FFFFFFF


def test_the_setup_header_is_kept_as_the_file_has_it(load, tmp_path):
    header = load().setup_header
    assert len(header) == 0x202 + 0x6A - 0x1F1
    assert header == (tmp_path / "bzImage").read_bytes()[0x1F1:0x26C]


def test_a_setup_header_never_reaches_beyond_its_place_in_the_zero_page(load):
    assert len(load(Patch(JUMP, "H", 0xFFEB)).setup_header) == 0x290 - 0x1F1


def test_no_setup_sectors_mean_four(load):
    (blob,) = load(Patch(SETUP_SECTS, "B", 0), Patch(SYSSIZE, "I", 1)).blobs
    assert blob.content.offset == 5 * 512


def test_a_relocatable_kernel_goes_where_it_would_move_itself(load):
    assert load(Patch(PREF_ADDRESS, "Q", 0x1000001)).blobs[0].guest_address == 0x1200000
    assert load(Patch(PREF_ADDRESS, "Q", 0x1000)).blobs[0].guest_address == 0x200000
    high = attrs.evolve(LAYOUT, kernel=33 * MIB)
    assert load(layout=high).blobs[0].guest_address == 34 * MIB


def test_a_fixed_kernel_goes_nowhere_else(load):
    fixed = Patch(RELOCATABLE, "B", 0)
    assert load(fixed, Patch(ALIGNMENT, "I", 3)).blobs[0].guest_address == 0x1000000
    with pytest.raises(KernelImageError, match="below 0x2100000, the lowest address"):
        load(fixed, layout=attrs.evolve(LAYOUT, kernel=33 * MIB))


def test_room_is_kept_for_a_file_longer_than_init_size(load):
    assert load(Patch(INIT_SIZE, "I", 0)).blobs[0].size_bytes == 0x1000


def test_ram_that_just_holds_the_kernel_is_enough(load):
    assert load(layout=Layout.for_memory(24 * MIB)).end == 24 * MIB
    with pytest.raises(KernelImageError, match=r"kernel 0x1000000-0x17fffff \(8M\) is outside RAM .* more memory"):
        load(layout=Layout.for_memory(24 * MIB - 4 * KIB))


def test_missing_limits_have_their_old_meaning(load):
    kernel = load(Patch(CMDLINE_SIZE, "I", 0), Patch(INITRD_ADDR_MAX, "I", 0))
    assert kernel.command_line_limit == 255
    assert kernel.initrd_limit == 0x37FFFFFF


@pytest.mark.parametrize(
    ("patch", "words", "offset"),
    [
        (Patch(SETUP_SECTS, "B", 255), "setup code of 131072 bytes leaves nothing", 0x1F1),
        (Patch(SYSSIZE, "I", 0x101), "cut short: 5120 of 5136 bytes", 0x1F4),
        (Patch(SYSSIZE, "I", 0xFFFFFFFF), "cut short", 0x1F4),
        (Patch(BOOT_FLAG, "H", 0x55AA), "boot flag is 0x55aa", 0x1FE),
        (Patch(JUMP, "B", 0x90), "no jump over its setup header, but 0x90", 0x200),
        (Patch(VERSION, "H", 0x201), r"protocol 2.01 has no command line that a loader could give.*Linux 2.4", 0x206),
        (Patch(LOADFLAGS, "B", 0x80), "zImage", 0x211),
        (Patch(ALIGNMENT, "I", 0), "alignment of 0x0", 0x230),
        (Patch(ALIGNMENT, "I", 0x300000), "alignment of 0x300000", 0x230),
        (Patch(ALIGNMENT, "I", 16), "alignment of 0x10", 0x230),
        (Patch(ALIGNMENT, "I", 0x80000000), "alignment of 0x80000000", 0x230),
        (Patch(PREF_ADDRESS, "Q", (1 << 64) - 1), "beyond 4 GiB", 0x258),
        (Patch(PREF_ADDRESS, "Q", 129 * MIB), "outside RAM", 0x258),
        (Patch(INIT_SIZE, "I", 0xFFFFFFFF), "beyond 4 GiB", 0x260),
        (Patch(INIT_SIZE, "I", 0x7000001), "outside RAM", 0x260),
    ],
)
def test_a_broken_field_is_named_with_its_offset(load, patch, words, offset):
    with pytest.raises(KernelImageError, match=words) as error:
        load(patch)
    assert error.value.offset == offset


def test_a_kernel_does_not_go_beyond_4_gib_even_if_there_is_ram(load):
    layout = Layout.for_memory(8 * GIB)
    with pytest.raises(KernelImageError, match="beyond 4 GiB"):
        load(Patch(PREF_ADDRESS, "Q", 4 * GIB), layout=layout)
    with pytest.raises(KernelImageError, match="outside RAM"):
        load(Patch(PREF_ADDRESS, "Q", 3 * GIB), layout=layout)


def test_a_kernel_keeps_off_what_the_layout_reserves(load):
    layout = attrs.evolve(LAYOUT, reserved=(Region(0x1400000, 0x1000, "hole"),))
    with pytest.raises(KernelImageError, match="overlaps hole"):
        load(layout=layout)


def test_a_header_that_ends_early_lacks_the_fields_behind(load):
    """The jump ends the header at 0x236, before xloadflags: what follows is code, and is not believed."""
    assert load().protocol == "linux64"
    assert load(Patch(JUMP, "H", 0x34EB)).protocol == "linux32"


@pytest.mark.parametrize("cut", [0x206, 0x207, 0x238, 0x268, 1023, 1024, 1025, 0x1000, 5119])
def test_a_file_cut_short_is_refused(load, cut):
    with pytest.raises(KernelImageError):
        load(cut=cut)
