"""Which entry a Linux kernel is given: by its looks, by order, and as far as its header's version is to be believed."""

import pytest
from kernel_images import (
    CMDLINE_SIZE,
    ENTRY,
    INIT_SIZE,
    INITRD_ADDR_MAX,
    PACKERS,
    PREF_ADDRESS,
    RELOCATABLE,
    VERSION,
    XLOADFLAGS,
    Patch,
    bzimage,
    elf,
)

from anyvisor.errors import KernelImageError
from anyvisor.memory import MIB
from anyvisor.x86_64.bootparams import BootParams, boot_params
from anyvisor.x86_64.image import load_kernel
from anyvisor.x86_64.layout import Layout
from anyvisor.x86_64.setup_header import SetupHeader

LAYOUT = Layout.for_memory(128 * MIB)
NO_64_BIT_ENTRY, FIXED = Patch(XLOADFLAGS, "H", 0), Patch(RELOCATABLE, "B", 0)
CODE32_START = 0x214
VERSIONS = range(0x202, 0x210)


@pytest.fixture
def load(tmp_path):
    def write_and_load(data, **options):
        (tmp_path / "kernel").write_bytes(data)
        return load_kernel(tmp_path / "kernel", LAYOUT, **options)

    return write_and_load


def old(version, *patches):
    return bzimage(patches=[Patch(VERSION, "H", version), *patches])


# -- which entry -------------------------------------------------------------------------------------------------------


def entered(kernel):
    return kernel.protocol, kernel.mode, kernel.entry - kernel.blobs[0].guest_address


def test_a_64_bit_kernel_has_both_entries_and_prefers_the_64_bit_one(load):
    for protocol in (None, "linux64"):
        assert entered(load(bzimage(), protocol=protocol)) == ("linux64", "long", 0x200)
    assert entered(load(bzimage(), protocol="linux32")) == ("linux32", "protected", 0)


def test_an_i386_kernel_has_the_32_bit_entry(load):
    for protocol in (None, "linux32"):
        assert entered(load(bzimage(patches=[NO_64_BIT_ENTRY]), protocol=protocol)) == ("linux32", "protected", 0)
    with pytest.raises(KernelImageError, match=r"without a 64-bit entry, it has the 32-bit one \(linux32\)") as error:
        load(bzimage(patches=[NO_64_BIT_ENTRY]), protocol="linux64")
    assert error.value.offset == 0x236


@pytest.mark.parametrize("bits", [32, 64])
def test_an_elf_kernel_has_the_entry_of_its_class(bits, load):
    own, other = ("linux32", "linux64") if bits == 32 else ("linux64", "linux32")
    for protocol in (None, own):
        kernel = load(elf(bits=bits), protocol=protocol)
        assert (kernel.protocol, kernel.mode, kernel.entry) == (own, {32: "protected", 64: "long"}[bits], ENTRY)
    with pytest.raises(
        KernelImageError, match=f"is a {bits}-bit ELF kernel, .* no entry for {other}; enter it by {own}"
    ):
        load(elf(bits=bits), protocol=other)


def test_an_elf_kernel_for_i386_keeps_its_initrd_in_low_memory(load):
    assert load(elf(bits=32)).initrd_limit == 0x37FFFFFF


@pytest.mark.parametrize("unpack", [None, True])
def test_unpacked_a_kernel_has_the_entry_of_what_was_in_it(unpack, load):
    packed32 = bzimage(payload=PACKERS["gzip"](elf(bits=32)), patches=[NO_64_BIT_ENTRY])
    packed64 = bzimage(payload=PACKERS["gzip"](elf()))
    assert entered(load(packed32, unpack=unpack)) == ("linux32", "protected", 0)
    assert entered(load(packed64, unpack=unpack)) == ("linux64", "long", 0)
    assert load(packed32, unpack=unpack).setup_header[:4] == packed32[0x1F1:0x1F5]


def test_the_32_bit_entry_of_a_64_bit_kernel_is_in_its_unpacker(load):
    packed = bzimage(payload=PACKERS["gzip"](elf()))
    assert entered(load(packed, protocol="linux32", unpack=None)) == ("linux32", "protected", 0)
    with pytest.raises(KernelImageError, match="only the 64-bit entry; leave out `unpack`"):
        load(packed, protocol="linux32", unpack=True)


def test_the_64_bit_entry_of_an_i386_kernel_is_not_there_unpacked_either(load):
    packed = bzimage(payload=PACKERS["gzip"](elf(bits=32)), patches=[NO_64_BIT_ENTRY])
    for unpack in (None, True, False):
        with pytest.raises(KernelImageError, match="without a 64-bit entry"):
            load(packed, protocol="linux64", unpack=unpack)


# -- as far as the version says ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("version", VERSIONS)
def test_the_64_bit_entry_is_believed_from_2_12_on(version, load):
    assert load(old(version)).protocol == ("linux64" if version >= 0x20C else "linux32")
    if version < 0x20C:
        with pytest.raises(KernelImageError, match=rf"protocol 2.{version & 0xFF:02} has no 64-bit entry, only the 32"):
            load(old(version), protocol="linux64")


@pytest.mark.parametrize("version", [0x200, 0x201])
def test_protocols_without_a_command_line_pointer_are_refused(version, load):
    for protocol in (None, "linux32", "linux64"):
        with pytest.raises(KernelImageError, match=r"protocol 2\.02") as error:
            load(old(version), protocol=protocol)
        assert error.value.offset == 0x206


@pytest.mark.parametrize("version", VERSIONS)
def test_limits_are_believed_from_their_versions_on(version, load):
    kernel = load(old(version, Patch(CMDLINE_SIZE, "I", 1000), Patch(INITRD_ADDR_MAX, "I", 0x12345678)))
    assert kernel.command_line_limit == (1000 if version >= 0x206 else 255)
    assert kernel.initrd_limit == (0x12345678 if version >= 0x203 else 0x37FFFFFF)


@pytest.mark.parametrize("version", VERSIONS)
def test_the_place_is_believed_from_its_versions_on(version, load):
    """Relocatable kernels (2.05) go to where they prefer to be (2.10), or above 1 MiB; others where they start."""
    kernel = load(old(version, Patch(CODE32_START, "I", 0x300000), Patch(PREF_ADDRESS, "Q", 0x2000000)))
    expected = 0x2000000 if version >= 0x20A else 0x200000 if version >= 0x205 else 0x300000
    assert kernel.blobs[0].guest_address == expected
    fixed = load(old(version, FIXED, Patch(CODE32_START, "I", 0), Patch(PREF_ADDRESS, "Q", 0x2000000)))
    assert fixed.blobs[0].guest_address == (0x2000000 if version >= 0x20A else 0x100000)


@pytest.mark.parametrize("version", VERSIONS)
def test_the_room_is_believed_from_2_10_on(version, load):
    size_bytes = load(old(version, Patch(INIT_SIZE, "I", 0x700000))).blobs[0].size_bytes
    assert size_bytes == (0x700000 if version >= 0x20A else 0x1000)


@pytest.mark.parametrize("version", VERSIONS)
def test_the_payload_is_believed_from_2_08_on(version, load):
    packed = bzimage(payload=PACKERS["gzip"](elf(bits=32)), patches=[Patch(VERSION, "H", version), NO_64_BIT_ENTRY])
    if version >= 0x208:
        assert load(packed, unpack=True).entry == ENTRY
    else:
        with pytest.raises(KernelImageError, match="does not say where the packed kernel lies"):
            load(packed, unpack=True)
        assert load(packed, unpack=None).blobs[0].name == "kernel"


@pytest.mark.parametrize("version", [0x200, 0x201, *VERSIONS])
def test_no_field_of_a_later_version_is_read_or_handed_on(version):
    """Of a header full of ones, a version has the fields that boot.rst gives it, and the zero page has no others."""
    data = bytearray(b"\xff" * (0x290 - 0x1F1))
    data[0x206 - 0x1F1 : 0x208 - 0x1F1] = version.to_bytes(2, "little")
    header = SetupHeader.from_bytes(bytes(data))
    since = {
        "heap_end_ptr": 0x201, "cmd_line_ptr": 0x202, "ext_loader_ver": 0x202, "initrd_addr_max": 0x203,
        "syssize": 0x204, "kernel_alignment": 0x205, "relocatable_kernel": 0x205, "cmdline_size": 0x206,
        "hardware_subarch": 0x207, "hardware_subarch_data": 0x207, "payload_offset": 0x208, "payload_length": 0x208,
        "setup_data": 0x209, "min_alignment": 0x20A, "pref_address": 0x20A, "init_size": 0x20A,
        "handover_offset": 0x20B, "xloadflags": 0x20C, "kernel_info_offset": 0x20F,
    }  # fmt: skip
    assert {name: bool(getattr(header, name)) for name in since} == {
        name: version >= first for name, first in since.items()
    }


@pytest.mark.parametrize("version", VERSIONS)
def test_the_zero_page_of_an_old_kernel_holds_only_what_it_knows(version, load):
    kernel = load(old(version))
    page, _ = boot_params("console=ttyS0", LAYOUT, kernel)
    header = BootParams.from_bytes(page.content).header
    assert (header.version, header.cmd_line_ptr) == (version, 0x20000)
    beyond = {0x203: 0x22C, 0x205: 0x230, 0x206: 0x238, 0x208: 0x248, 0x20A: 0x258, 0x20C: 0x236}
    for first, offset in beyond.items():
        if version < first:
            assert page.content[offset : offset + 2] == b"\0\0"
