"""The zero page, field by field, and the command line beside it."""

import struct

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st
from kernel_images import bzimage, elf

from anyvisor.errors import ConfigError, PlanError
from anyvisor.memory import MIB, Region
from anyvisor.plan import FirmwareTables
from anyvisor.x86_64.bootparams import BootParams, boot_params
from anyvisor.x86_64.e820 import E820Entry, E820Type, e820
from anyvisor.x86_64.image import load_kernel
from anyvisor.x86_64.layout import Layout
from anyvisor.x86_64.setup_header import LoadFlags, SetupHeader

LAYOUT = Layout.for_memory(128 * MIB)


@pytest.fixture
def kernel(tmp_path):
    (tmp_path / "bzImage").write_bytes(bzimage())
    return load_kernel(tmp_path / "bzImage", LAYOUT)


@pytest.fixture
def elf_kernel(tmp_path):
    (tmp_path / "vmlinux").write_bytes(elf())
    return load_kernel(tmp_path / "vmlinux", LAYOUT)


def test_the_pieces_are_a_page_and_a_command_line_with_its_nul(kernel):
    page, line = boot_params("console=ttyS0", LAYOUT, kernel)
    assert (page.name, page.guest_address, len(page.content)) == ("zero page", 0x7000, 4096)
    assert (line.name, line.guest_address, line.content) == ("command line", 0x20000, b"console=ttyS0\0")


def test_the_header_is_the_image_s_own_with_the_loader_s_answers(kernel, tmp_path):
    page, _ = boot_params("", LAYOUT, kernel)
    image, ours = (tmp_path / "bzImage").read_bytes(), page.content
    answers = {0x210, 0x228, 0x229, 0x22A, 0x22B}
    differing = {at for at in range(0x1F1, 0x290) if ours[at] != (image[at] if at < 0x26C else 0)}
    assert differing == {0x210, 0x22A}
    assert differing <= answers
    assert ours[:0x1E8] == bytes(0x1E8)


def test_an_elf_kernel_gets_a_header_it_can_read(elf_kernel):
    page, _ = boot_params("", LAYOUT, elf_kernel)
    data = page.content
    assert data[0x1FE:0x200] == b"\x55\xaa"
    assert data[0x202:0x206] == b"HdrS"
    assert struct.unpack_from("<H", data, 0x206) == (0x20F,)
    assert (data[0x210], data[0x211]) == (0xFF, 1)
    assert struct.unpack_from("<II", data, 0x22C) == (0x7FFFFFFF, 0x1000000)
    assert struct.unpack_from("<I", data, 0x238) == (2047,)


def test_what_a_file_says_in_the_loader_s_fields_is_not_passed_on(kernel):
    header = SetupHeader.from_bytes(kernel.setup_header)
    lies = attrs.evolve(
        header,
        ramdisk_image=1,
        ramdisk_size=2,
        setup_data=3,
        loadflags=0x81,
        ext_loader_ver=4,
        ext_loader_type=5,
    )
    page, _ = boot_params("", LAYOUT, attrs.evolve(kernel, setup_header=lies.to_bytes()))
    params = BootParams.from_bytes(page.content)
    assert params.initrd is None
    assert params.header.loadflags == LoadFlags(loaded_high=True)
    assert [getattr(params.header, each) for each in ("setup_data", "ext_loader_ver", "ext_loader_type")] == [0] * 3


def test_fields_unknown_here_are_passed_on(kernel):
    newer = kernel.setup_header + b"newer field"
    page, _ = boot_params("", LAYOUT, attrs.evolve(kernel, setup_header=newer))
    assert page.content[0x26C : 0x26C + 11] == b"newer field"


def test_fields_that_an_old_protocol_lacks_read_as_zero(kernel):
    old = bytearray(kernel.setup_header)
    old[0x206 - 0x1F1 : 0x208 - 0x1F1] = b"\x05\x02"
    header = SetupHeader.from_bytes(bytes(old))
    assert (header.kernel_alignment, header.relocatable_kernel) == (0x200000, 1)
    assert (header.cmdline_size, header.xloadflags, header.pref_address, header.init_size) == (0, 0, 0, 0)


def test_a_command_line_beyond_4_gib_has_its_high_half_in_ext(kernel):
    layout = attrs.evolve(LAYOUT, command_line=Region(0x1_0002_0000, 4096, "command line"))
    page, _ = boot_params("x", layout, kernel)
    params = BootParams.from_bytes(page.content)
    assert params.command_line_address == 0x1_0002_0000
    assert (params.header.cmd_line_ptr, params.ext_cmd_line_ptr) == (0x20000, 1)


def test_a_command_line_too_long_is_refused_with_both_lengths(kernel):
    boot_params("x" * 2047, LAYOUT, kernel)
    with pytest.raises(ConfigError, match="has 2048 bytes, this kernel takes 2047"):
        boot_params("x" * 2048, LAYOUT, kernel)
    little = attrs.evolve(LAYOUT, command_line=Region(0x20000, 16, "command line"))
    boot_params("x" * 15, little, kernel)
    with pytest.raises(ConfigError, match="has 16 bytes, there is room for 15"):
        boot_params("x" * 16, little, kernel)


@pytest.mark.parametrize("text", ["caf\xe9", "a\0b"])
def test_a_command_line_that_is_no_plain_text_is_refused(kernel, text):
    with pytest.raises(ConfigError, match="command_line"):
        boot_params(text, LAYOUT, kernel)


def test_describe_names_what_is_set(kernel):
    page, _ = boot_params("", LAYOUT, kernel, acpi=FirmwareTables(0xE0000, ()))
    text = BootParams.from_bytes(page.content).describe()
    for line in (
        "0x070  acpi_rsdp_addr        0xe0000",
        "0x210  type_of_loader        0xff",
        "0x236  xloadflags            0x1  kernel_64",
        "0x2d0  e820  0x000000000000-0x00000009dfff  RAM (632K)",
        "0x2e4  e820  0x00000009e000-0x0000000fffff  RESERVED (392K)",
    ):
        assert line in text.splitlines()
    assert "setup_data" not in text


NUMBER = {width: st.integers(0, (1 << 8 * width) - 1) for width in (1, 2, 4, 8)}
ENTRIES = st.builds(E820Entry, NUMBER[8], NUMBER[8], st.sampled_from(E820Type))
HEADERS = st.fixed_dictionaries(
    {
        each.name: NUMBER[struct.calcsize(each.metadata["form"])]
        for each in attrs.fields(SetupHeader)
        if each.metadata and each.name != "version"
    }
).map(lambda values: SetupHeader(version=0x20F, **values))


@given(
    st.builds(
        BootParams,
        HEADERS,
        st.lists(ENTRIES, max_size=128).map(tuple),
        NUMBER[8],
        NUMBER[4],
        NUMBER[4],
        NUMBER[4],
    )
)
def test_decoding_gives_back_what_was_encoded(params):
    assert BootParams.from_bytes(params.to_bytes()) == params


@given(st.binary(max_size=400), st.sampled_from([0, 0x1E0, 0x1F1, 0x2C0]))
def test_any_page_decodes_or_is_refused(data, at):
    page = (bytes(at) + data).ljust(4096, b"\0")
    try:
        BootParams.from_bytes(page).describe()
    except PlanError:
        assert page[0x1E8] > 0


def test_pages_that_are_none_are_refused():
    with pytest.raises(PlanError, match="4096 bytes, not 4095"):
        BootParams.from_bytes(bytes(4095))
    page = bytearray(4096)
    page[0x1E8] = 129
    with pytest.raises(PlanError, match="claims 129"):
        BootParams.from_bytes(bytes(page))
    page[0x1E8] = 1
    with pytest.raises(PlanError, match="type 0"):
        BootParams.from_bytes(bytes(page))


def test_values_that_do_not_fit_are_refused_by_name():
    with pytest.raises(PlanError, match="syssize is 0x100000000"):
        SetupHeader(syssize=1 << 32)
    with pytest.raises(PlanError, match="acpi_rsdp_addr=0x10000000000000000"):
        BootParams(SetupHeader(), acpi_rsdp_addr=1 << 64).to_bytes()
    with pytest.raises(PlanError, match="37 unknown bytes"):
        SetupHeader(unknown=bytes(37))
    with pytest.raises(PlanError, match="129 memory map entries"):
        BootParams(SetupHeader(), (E820Entry(0, 1, E820Type.RAM),) * 129).to_bytes()


def test_the_memory_map_is_that_of_the_layout(kernel):
    page, _ = boot_params("", LAYOUT, kernel)
    assert BootParams.from_bytes(page.content).e820 == e820(LAYOUT)
