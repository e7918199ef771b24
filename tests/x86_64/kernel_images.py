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


HEADER_BYTES, PROGRAM_HEADER_BYTES = {32: 52, 64: 64}, {32: 32, 64: 56}


def elf(segments=((ENTRY, b"\xf4" * 64, 4096),), *, entry=ENTRY, patches=(), bits=64, notes=b"", alignment=4):
    """An ELF executable for x86_64 or i386; each segment is (guest address, bytes, bytes in memory).

    `notes` become a last program header, of the kind PT_NOTE, whose bytes come after those of the segments.
    """
    start, each_bytes, count = HEADER_BYTES[bits], PROGRAM_HEADER_BYTES[bits], len(segments) + bool(notes)
    ident = b"\x7fELF" + bytes([bits // 32, 1, 1]) + bytes(9)
    form, machine = ("<16sHHIIIIIHHHHHH", 3) if bits == 32 else ("<16sHHIQQQIHHHHHH", 62)
    header = struct.pack(form, ident, 2, machine, 1, entry, start, 0, 0, start, each_bytes, count, 0, 0, 0)
    table, data = b"", b""
    for address, content, memory_bytes in segments:
        offset = start + each_bytes * count + len(data)
        table += _program_header(bits, 1, offset, address, len(content), memory_bytes, 0x1000)
        data += content
    if notes:
        data += bytes(-(start + each_bytes * count + len(data)) % 8)
        offset = start + each_bytes * count + len(data)
        table += _program_header(bits, 4, offset, 0, len(notes), len(notes), alignment)
    image = bytearray(header + table + data + notes)
    for patch in patches:
        patch.apply(image)
    return bytes(image)


def _program_header(bits, kind, offset, address, file_bytes, memory_bytes, alignment):
    if bits == 32:
        return struct.pack("<8I", kind, offset, address, address, file_bytes, memory_bytes, 7, alignment)
    return struct.pack("<IIQQQQQQ", kind, 7, offset, address, address, file_bytes, memory_bytes, alignment)


def note(name, kind, descriptor, alignment=4):
    """An ELF note, filled up to the alignment."""
    head = struct.pack("<III", len(name), len(descriptor), kind) + name
    head += bytes(-len(head) % alignment)
    return head + descriptor + bytes(-len(descriptor) % alignment)


def pvh_note(entry=ENTRY, width=4, **more):
    """The note that names a PVH entry."""
    return note(b"Xen\0", 18, entry.to_bytes(width, "little"), **more)


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
