"""Kernel images made by hand for the tests, at the offsets that boot.rst and the ELF gABI give."""

import bz2
import gzip
import lzma
import struct

import attrs

SETUP_SECTS, SYSSIZE, BOOT_FLAG, JUMP, VERSION, LOADFLAGS = 0x1F1, 0x1F4, 0x1FE, 0x200, 0x206, 0x211
INITRD_ADDR_MAX, ALIGNMENT, RELOCATABLE, XLOADFLAGS, CMDLINE_SIZE = 0x22C, 0x230, 0x234, 0x236, 0x238
PAYLOAD_OFFSET, PAYLOAD_LENGTH, PREF_ADDRESS, INIT_SIZE = 0x248, 0x24C, 0x258, 0x260
ENTRY = 0x1000000


@attrs.frozen
class Patch:
    """A number to write over an image: at an offset, in a struct format."""

    offset: int
    form: str
    value: int

    def apply(self, image):
        struct.pack_into(f"<{self.form}", image, self.offset, self.value)


def bzimage(code=b"\xf4" * 0x1000, *, payload=b"", patches=()):
    """A relocatable 64-bit bzImage of protocol 2.15 with one setup sector; `payload` comes after `code`."""
    code += bytes(-len(code) % 16)
    body = code + payload
    body += bytes(-len(body) % 16)
    image = bytearray(1024) + body
    standard = [
        Patch(SETUP_SECTS, "B", 1),
        Patch(SYSSIZE, "I", len(body) // 16),
        Patch(BOOT_FLAG, "H", 0xAA55),
        Patch(JUMP, "H", 0x6AEB),
        Patch(0x202, "I", 0x53726448),
        Patch(VERSION, "H", 0x020F),
        Patch(LOADFLAGS, "B", 1),
        Patch(INITRD_ADDR_MAX, "I", 0x7FFFFFFF),
        Patch(ALIGNMENT, "I", 0x200000),
        Patch(RELOCATABLE, "B", 1),
        Patch(XLOADFLAGS, "H", 1),
        Patch(CMDLINE_SIZE, "I", 2047),
        Patch(PAYLOAD_OFFSET, "I", len(code)),
        Patch(PAYLOAD_LENGTH, "I", len(payload)),
        Patch(PREF_ADDRESS, "Q", ENTRY),
        Patch(INIT_SIZE, "I", 0x800000),
    ]
    for patch in [*standard, *patches]:
        patch.apply(image)
    return bytes(image)


def elf(segments=((ENTRY, b"\xf4" * 64, 4096),), *, entry=ENTRY, patches=()):
    """An ELF64 executable for x86_64; each segment is (guest address, bytes, bytes in memory)."""
    ident = b"\x7fELF\x02\x01\x01" + bytes(9)
    header = struct.pack("<16sHHIQQQIHHHHHH", ident, 2, 62, 1, entry, 64, 0, 0, 64, 56, len(segments), 0, 0, 0)
    table, data = b"", b""
    for address, content, memory_bytes in segments:
        offset = 64 + 56 * len(segments) + len(data)
        table += struct.pack("<IIQQQQQQ", 1, 7, offset, address, address, len(content), memory_bytes, 0x1000)
        data += content
    image = bytearray(header + table + data)
    for patch in patches:
        patch.apply(image)
    return bytes(image)


def _size_word(data):
    return struct.pack("<I", len(data))


def _lz4(data):
    block = __import__("lz4.block").block
    blocks = [data[at : at + (8 << 20)] for at in range(0, len(data), 8 << 20)]
    packed = [block.compress(each, store_size=False) for each in blocks]
    return b"\x02\x21\x4c\x18" + b"".join(struct.pack("<I", len(each)) + each for each in packed)


def _zstd(data):
    try:
        from compression import zstd
    except ImportError:
        from backports import zstd
    return zstd.compress(data)


PACKERS = {
    "gzip": gzip.compress,
    "xz": lambda data: lzma.compress(data, lzma.FORMAT_XZ, check=lzma.CHECK_CRC32) + _size_word(data),
    "lzma": lambda data: lzma.compress(data, lzma.FORMAT_ALONE) + _size_word(data),
    "bzip2": lambda data: bz2.compress(data) + _size_word(data),
    "lz4": lambda data: _lz4(data) + _size_word(data),
    "zstd": lambda data: _zstd(data) + _size_word(data),
}
"""Each way in which a kernel's build packs vmlinux, by its name."""
