"""Take the ELF vmlinux out of a bzImage on the host, which is faster than letting the guest unpack itself.

Some facts about the payload. From protocol 2.08 on, the setup header says where in the protected-mode part it
lies. It is the vmlinux, packed by one of six programs, and its last four bytes are the unpacked size: gzip
ends that way by itself, for the other formats the kernel's build appends them. LZ4 comes in the "legacy"
frame: a magic, then blocks of a length word and data, each unpacking to at most 8 MiB. Behind the unpacked
ELF there can be a relocation table, which only the kernel's own unpacker needs.
"""

from __future__ import annotations

import bz2
import importlib
import lzma
import struct
import zlib
from collections.abc import Callable, Iterator
from typing import Any, Protocol

from anyvisor.errors import KernelImageError
from anyvisor.image_file import ImageFile
from anyvisor.memory import GIB, MIB, format_size

MAX_UNPACKED_BYTES = 1 * GIB
MAX_DICTIONARY_BYTES = 256 * MIB
"""How much memory an LZMA stream may ask for; the kernel's build uses up to 64 MiB."""
CHUNK_BYTES = 1 * MIB
SIZE_WORD_BYTES = 4
LZ4_BLOCK_BYTES = 8 * MIB
LZ4_MAX_PACKED_BYTES = LZ4_BLOCK_BYTES + LZ4_BLOCK_BYTES // 255 + 16
"""The most that a block of incompressible bytes grows to."""


class _Decompressor(Protocol):
    """What the standard library's incremental decompressors have in common."""

    @property
    def eof(self) -> bool: ...
    @property
    def needs_input(self) -> bool: ...
    def decompress(self, data: bytes, max_length: int = -1) -> bytes: ...


Unpacker = Callable[[ImageFile, Iterator[bytes]], Iterator[bytes]]


def unpack(image: ImageFile, offset: int, size_bytes: int, cap_bytes: int = MAX_UNPACKED_BYTES) -> ImageFile:
    """What the compressed payload at `offset` of an image unpacks to, as an image of its own.

    KernelImageError when the format is unknown or needs a package that is absent, when the stream is damaged
    or cut short, or when it would unpack to more than `cap_bytes`.
    """
    if size_bytes <= SIZE_WORD_BYTES:
        raise image.error(f"its compressed kernel is {size_bytes} bytes long, too short to be one", offset)
    packed, unpacker = _unpacker(image, offset, size_bytes)
    size_word = image.read(offset + size_bytes - SIZE_WORD_BYTES, SIZE_WORD_BYTES)
    expected = int.from_bytes(size_word, "little")
    if expected > cap_bytes:
        limit = format_size(cap_bytes)
        raise image.error(f"its kernel unpacks to {expected} bytes, more than the {limit} allowed here", offset)
    unpacked = _collect(image, unpacker(image, _chunks(image, offset, packed)), offset, expected)
    return ImageFile(image.path, len(unpacked), unpacked)


def _unpacker(image: ImageFile, offset: int, size_bytes: int) -> tuple[int, Unpacker]:
    """How many bytes the packed stream has, and what unpacks it."""
    start = image.read(offset, min(size_bytes, 8))
    for magic, name, unpacker in _FORMATS:
        if start.startswith(magic):
            return size_bytes if name == "gzip" else size_bytes - SIZE_WORD_BYTES, unpacker
    words = f"its kernel is packed in a way not known here (it begins {start.hex(' ')})"
    raise image.error(f"{words}; leave out `unpack`, then the guest unpacks itself", offset)


def _chunks(image: ImageFile, offset: int, size_bytes: int) -> Iterator[bytes]:
    for done in range(0, size_bytes, CHUNK_BYTES):
        yield image.read(offset + done, min(CHUNK_BYTES, size_bytes - done))


def _collect(image: ImageFile, pieces: Iterator[bytes], offset: int, expected: int) -> bytearray:
    """The pieces joined; KernelImageError when they are not `expected` bytes or cannot be unpacked."""
    unpacked = bytearray()
    try:
        for piece in pieces:
            unpacked += piece
            if len(unpacked) > expected:
                raise image.error(f"its kernel unpacks to more than the {expected} bytes that it says", offset)
    except KernelImageError:
        raise
    except Exception as error:  # six decompressors, each with errors of its own
        raise image.error(f"its compressed kernel is damaged: {error}", offset) from error
    if len(unpacked) != expected:
        raise image.error(f"its kernel unpacks to {len(unpacked)} bytes where it says {expected}", offset)
    return unpacked


def _stream(decompressor: _Decompressor, chunks: Iterator[bytes]) -> Iterator[bytes]:
    """Unpack piece by piece, so that a small file cannot fill the memory in one step."""
    for chunk in chunks:
        yield decompressor.decompress(chunk, CHUNK_BYTES)
        while not decompressor.eof and not decompressor.needs_input:
            yield decompressor.decompress(b"", CHUNK_BYTES)
        if decompressor.eof:
            return
    raise EOFError("it is cut short")


class _Gzip:
    """zlib's decompressor with the interface that the other ones have."""

    def __init__(self) -> None:
        self._zlib = zlib.decompressobj(wbits=zlib.MAX_WBITS | 16)

    @property
    def eof(self) -> bool:
        return self._zlib.eof

    @property
    def needs_input(self) -> bool:
        return not self._zlib.unconsumed_tail

    def decompress(self, data: bytes, max_length: int = -1) -> bytes:
        return self._zlib.decompress(self._zlib.unconsumed_tail + data, max_length)


def _gzip(_: ImageFile, chunks: Iterator[bytes]) -> Iterator[bytes]:
    return _stream(_Gzip(), chunks)


def _xz(_: ImageFile, chunks: Iterator[bytes]) -> Iterator[bytes]:
    return _stream(lzma.LZMADecompressor(lzma.FORMAT_XZ, MAX_DICTIONARY_BYTES), chunks)


def _lzma(_: ImageFile, chunks: Iterator[bytes]) -> Iterator[bytes]:
    return _stream(lzma.LZMADecompressor(lzma.FORMAT_ALONE, MAX_DICTIONARY_BYTES), chunks)


def _bzip2(_: ImageFile, chunks: Iterator[bytes]) -> Iterator[bytes]:
    return _stream(bz2.BZ2Decompressor(), chunks)


def _zstd(image: ImageFile, chunks: Iterator[bytes]) -> Iterator[bytes]:
    zstd = _import(image, ("compression.zstd", "backports.zstd"), "zstd", "anyvisor[zstd]")
    return _stream(zstd.ZstdDecompressor(), chunks)


def _lz4(image: ImageFile, chunks: Iterator[bytes]) -> Iterator[bytes]:
    lz4 = _import(image, ("lz4.block",), "LZ4", "anyvisor[lz4]")
    return (lz4.decompress(block, uncompressed_size=LZ4_BLOCK_BYTES) for block in _lz4_blocks(chunks))


def _lz4_blocks(chunks: Iterator[bytes]) -> Iterator[bytes]:
    """The packed blocks of a legacy frame."""
    stream = _Reader(chunks)
    stream.take(4)
    while length := stream.take(4, or_nothing=True):
        size_bytes = struct.unpack("<I", length)[0]
        if size_bytes > LZ4_MAX_PACKED_BYTES:
            raise ValueError(f"an LZ4 block of {size_bytes} bytes is longer than the format allows")
        yield stream.take(size_bytes)


class _Reader:
    """Exact reads from a stream of chunks."""

    def __init__(self, chunks: Iterator[bytes]):
        self._chunks = chunks
        self._have = bytearray()

    def take(self, size_bytes: int, *, or_nothing: bool = False) -> bytes:
        """The next `size_bytes` bytes; EOFError for fewer, unless `or_nothing` and none are left."""
        while len(self._have) < size_bytes and (chunk := next(self._chunks, b"")):
            self._have += chunk
        if len(self._have) < size_bytes and not (or_nothing and not self._have):
            raise EOFError("it is cut short")
        taken = bytes(self._have[:size_bytes])
        del self._have[:size_bytes]
        return taken


def _import(image: ImageFile, modules: tuple[str, ...], form: str, package: str) -> Any:
    for module in modules:
        try:
            return importlib.import_module(module)
        except ImportError:
            continue
    words = f"its kernel is packed with {form}, for which a package is missing here: pip install '{package}'"
    raise image.error(f"{words}; or leave out `unpack`, then the guest unpacks itself")


_FORMATS: tuple[tuple[bytes, str, Unpacker], ...] = (
    (b"\x1f\x8b", "gzip", _gzip),
    (b"\xfd7zXZ\0", "xz", _xz),
    (b"\x5d\0\0", "lzma", _lzma),
    (b"BZh", "bzip2", _bzip2),
    (b"\x02\x21\x4c\x18", "lz4", _lz4),
    (b"\x28\xb5\x2f\xfd", "zstd", _zstd),
)
