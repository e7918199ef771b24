"""Taking vmlinux out of a bzImage: six formats, lies about sizes, bombs, and packages that are not there."""

import gzip
import lzma
import struct
import sys
import tracemalloc
import zlib

import pytest
from kernel_images import ENTRY, PACKERS, PAYLOAD_LENGTH, PAYLOAD_OFFSET, VERSION, Patch, bzimage, elf

from anyvisor.errors import KernelImageError
from anyvisor.memory import GIB, KIB, MIB
from anyvisor.x86_64.image import load_kernel
from anyvisor.x86_64.layout import Layout

LAYOUT = Layout.for_memory(64 * MIB)
CODE = bytes(range(256)) * 40 + b"\xf4"
VMLINUX = elf(((ENTRY, CODE, 0x10000), (ENTRY + 0x20000, b"data" + bytes(96), 4096)), entry=ENTRY + 16)
BOMB_LIMIT_BYTES = 32 * MIB
WITH_RELOCATIONS = VMLINUX + b"relocation table"


@pytest.fixture
def load(tmp_path):
    def write_and_load(payload, *patches, layout=LAYOUT):
        (tmp_path / "bzImage").write_bytes(bzimage(payload=payload, patches=patches))
        return load_kernel(tmp_path / "bzImage", layout, unpack=True)

    return write_and_load


@pytest.mark.parametrize("name", PACKERS)
def test_every_format_is_unpacked(load, name):
    kernel = load(PACKERS[name](WITH_RELOCATIONS))
    first, second = kernel.blobs
    assert (first.guest_address, first.content, first.size_bytes) == (ENTRY, CODE, 0x10000)
    assert (second.guest_address, second.size_bytes) == (ENTRY + 0x20000, 4096)
    assert kernel.entry == ENTRY + 16


def test_zeros_at_a_segment_s_end_are_left_to_the_fresh_memory(load):
    assert load(PACKERS["gzip"](VMLINUX)).blobs[1].content == b"data"


@pytest.mark.parametrize("name", PACKERS)
def test_more_than_one_chunk_and_block_is_unpacked(load, name):
    noise = zlib.compress(bytes(1)) + b"".join(
        struct.pack("<Q", n * 0x9E3779B97F4A7C15 % 2**64) for n in range(1 << 17)
    )
    times = 9 if name == "lz4" else 2  # over 9 MiB: more than an LZ4 block; else more than a chunk, also when packed
    code = noise * times + b"\xf4"
    kernel = load(PACKERS[name](elf(((ENTRY, code, 16 * MIB),))))
    assert kernel.blobs[0].content == code


def test_the_limits_still_come_from_the_setup_header(load):
    kernel = load(PACKERS["xz"](VMLINUX), Patch(0x238, "I", 99), Patch(0x22C, "I", 0x37FFFFFF))
    assert (kernel.command_line_limit, kernel.initrd_limit) == (99, 0x37FFFFFF)
    assert len(kernel.setup_header) == 123


def test_protocol_2_08_is_enough(load):
    assert load(PACKERS["gzip"](VMLINUX), Patch(VERSION, "H", 0x208)).blobs[0].content == CODE


def test_older_protocols_do_not_say_where_the_payload_is(load):
    with pytest.raises(KernelImageError, match=r"protocol 2.07 does not say .*leave out `unpack`"):
        load(PACKERS["gzip"](VMLINUX), Patch(VERSION, "H", 0x207))


@pytest.mark.parametrize("name", PACKERS)
def test_a_payload_cut_short_is_refused(load, name):
    packed = PACKERS[name](WITH_RELOCATIONS)
    for keep in (len(packed) // 2, len(packed) - 12, 16, 9):
        with pytest.raises(KernelImageError):
            load(packed[:keep] + struct.pack("<I", len(WITH_RELOCATIONS)))


@pytest.mark.parametrize("name", PACKERS)
def test_a_damaged_payload_is_refused_or_unpacks_to_what_it_says(load, name):
    packed, refused = PACKERS[name](WITH_RELOCATIONS), 0
    for at in range(0, len(packed), max(1, len(packed) // 50)):
        damaged = bytearray(packed)
        damaged[at] ^= 0x55
        try:
            load(bytes(damaged))
        except KernelImageError:
            refused += 1
    assert refused > 10


@pytest.mark.parametrize(
    ("start", "length", "words", "offset"),
    [
        (0x1000, 0xFFFFFFFF, "beyond the end of the file", 0x248),
        (0xFFFFFFFF, 0x10, "beyond the end of the file", 0x248),
        (0x1000, 4, "4 bytes long, too short", 0x1400),
        (0x10, 0x20, "packed in a way not known here .*f4 f4.*leave out `unpack`", 0x410),
    ],
)
def test_a_payload_that_is_not_where_it_should_be_is_refused(load, start, length, words, offset):
    with pytest.raises(KernelImageError, match=words) as error:
        load(gzip.compress(VMLINUX), Patch(PAYLOAD_OFFSET, "I", start), Patch(PAYLOAD_LENGTH, "I", length))
    assert error.value.offset == offset


def test_what_the_payload_says_of_its_size_must_be_true(load):
    packed = PACKERS["xz"](VMLINUX)[:-4]
    with pytest.raises(KernelImageError, match=rf"unpacks to {len(VMLINUX)} bytes where it says {len(VMLINUX) + 1}"):
        load(packed + struct.pack("<I", len(VMLINUX) + 1))
    with pytest.raises(KernelImageError, match=rf"more than the {len(VMLINUX) - 1} bytes that it says"):
        load(packed + struct.pack("<I", len(VMLINUX) - 1))


def test_a_kernel_bigger_than_ram_is_not_unpacked_at_all(load):
    packed = PACKERS["gzip"](VMLINUX)[:-4] + struct.pack("<I", 64 * MIB + 1)
    with pytest.raises(KernelImageError, match="unpacks to 67108865 bytes, more than the 64M allowed"):
        load(packed)


def _bomb(name):
    """Zeros that claim to be a thousand bytes: at least twice as many as may be held in memory."""
    zeros, count = bytes(MIB), 2 * BOMB_LIMIT_BYTES // MIB
    if name == "gzip":
        packer = zlib.compressobj(wbits=31)
    elif name == "lz4":
        block = PACKERS["lz4"](bytes(8 * MIB))[4:-4]
        return b"\x02\x21\x4c\x18" + block * (count // 8) + struct.pack("<I", 1000)
    else:
        packer = lzma.LZMACompressor(lzma.FORMAT_XZ, preset=0)
    packed = b"".join(packer.compress(zeros) for _ in range(count)) + packer.flush()
    return packed + struct.pack("<I", 1000)


@pytest.mark.parametrize("name", ["gzip", "xz", "lz4"])
def test_a_bomb_is_stopped_at_the_size_it_claims(load, name):
    bomb = _bomb(name)
    tracemalloc.start()
    try:
        with pytest.raises(KernelImageError, match="more than the 1000 bytes"):
            load(bomb)
        _, peak_bytes = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak_bytes < BOMB_LIMIT_BYTES


def _overlapping(address_step):
    """24 MiB of ones, and a hundred program headers that each ask for all of them: 30 KB when packed."""
    count, content = 100, b"\xff" * (24 * MIB)
    headers = [(ENTRY + index * address_step, b"", len(content)) for index in range(count)]
    start = 64 + 56 * count
    patches = [
        Patch(64 + 56 * index + field, "Q", value)
        for index in range(count)
        for field, value in ((8, start), (32, len(content)))
    ]
    return gzip.compress(elf(headers, patches=patches) + content)


@pytest.mark.parametrize(
    ("address_step", "layout", "words"),
    [
        (0, LAYOUT, "kernel segment 0 .* overlaps kernel segment 1"),
        (24 * MIB, Layout.for_memory(3 * GIB), "kernel segment 1 shares bytes of the file with kernel segment 0"),
    ],
    ids=["in one place", "side by side"],
)
def test_segments_that_share_their_bytes_are_refused_before_any_is_copied(load, address_step, layout, words):
    bomb = _overlapping(address_step)
    assert len(bomb) < 64 * KIB
    tracemalloc.start()
    try:
        with pytest.raises(KernelImageError, match=words):
            load(bomb, layout=layout)
        _, peak_bytes = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak_bytes < 64 * MIB


def test_a_stream_that_wants_too_big_a_dictionary_is_refused(load):
    packed = bytearray(PACKERS["lzma"](VMLINUX))
    packed[1:5] = struct.pack("<I", 0xC0000000)
    with pytest.raises(KernelImageError, match=r"damaged: .*[Mm]emory"):
        load(bytes(packed))


def test_an_lz4_block_longer_than_the_format_allows_is_refused(load):
    frame = b"\x02\x21\x4c\x18" + struct.pack("<I", 0x7FFFFFFF) + bytes(64) + struct.pack("<I", 1000)
    with pytest.raises(KernelImageError, match="longer than the format allows"):
        load(frame)


@pytest.mark.parametrize(
    ("name", "modules", "extra"),
    [
        ("lz4", ["lz4.block"], r"LZ4, .* pip install 'anyvisor\[lz4\]'; or leave out `unpack`"),
        (
            "zstd",
            ["compression.zstd", "backports.zstd"],
            r"zstd, .* pip install 'anyvisor\[zstd\]'; or leave out",
        ),
    ],
)
def test_a_missing_package_is_named(load, monkeypatch, name, modules, extra):
    packed = PACKERS[name](VMLINUX)
    for module in modules:
        monkeypatch.setitem(sys.modules, module, None)  # an import of it fails
    with pytest.raises(KernelImageError, match=extra):
        load(packed)


def test_trouble_in_the_unpacked_kernel_is_said_to_be_there(load):
    with pytest.raises(KernelImageError, match="in the unpacked kernel: is an ELF file for aarch64") as error:
        load(gzip.compress(elf(patches=[Patch(0x12, "H", 183)])))
    assert error.value.offset == 0x12
    with pytest.raises(KernelImageError, match=r"in the unpacked kernel: is no ELF file .it begins 6e 6f 74"):
        load(gzip.compress(b"not an ELF file, whatever the header says" * 9))
