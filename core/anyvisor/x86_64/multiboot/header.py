"""The header by which a kernel image asks to be booted by multiboot: looked for, read, written.

Some facts about it (GNU Multiboot Specification 0.6.96, 3.1). It lies at a multiple of 4 bytes, all of it in the first
8192 bytes of the file, wherever in there: a loader has to look. A magic number, flags and a checksum that makes the
three sum to 0 mark it. Of the flags, bits 0 to 15 are requirements: a loader that does not know one must not boot the
kernel. The others may be ignored. Addresses (bit 16) and the wish for a video mode (bit 2) stand at fixed offsets, and
mean nothing where their bit is clear; the header ends behind the last that is asked for.
"""

from __future__ import annotations

import struct

import attrs

from anyvisor.bits import Bits, bit
from anyvisor.errors import PlanError

MAGIC = 0x1BADB002
SEARCHED_BYTES = 8192
ALIGNMENT = 4
TEXT_MODE = 1
"""`mode_type` of a kernel that writes characters, not pixels."""

_MARK = struct.Struct("<III")
_ADDRESSES = struct.Struct("<5I")
_VIDEO = struct.Struct("<4I")


class HeaderFlags(Bits):
    """What a kernel requires (bits 0 to 15) and tells (the others). 3.1.2."""

    page_aligned_modules = bit(0)
    memory_information = bit(1)
    video_mode = bit(2)
    addresses = bit(16)


KNOWN = HeaderFlags(page_aligned_modules=True, memory_information=True, video_mode=True)
"""The requirements that the specification has."""


def _u32() -> int:
    return attrs.field(default=0)


@attrs.frozen(kw_only=True)
class Header:
    """A multiboot header by the specification's field names; the checksum follows from the rest.

    Only `flags` says which of the other fields mean something. PlanError when a value does not fit in 32 bits.
    """

    flags: HeaderFlags = attrs.field(default=HeaderFlags(0), converter=HeaderFlags)
    header_addr: int = _u32()
    load_addr: int = _u32()
    load_end_addr: int = _u32()
    bss_end_addr: int = _u32()
    entry_addr: int = _u32()
    mode_type: int = _u32()
    width: int = _u32()
    height: int = _u32()
    depth: int = _u32()

    def __attrs_post_init__(self) -> None:
        for field in attrs.fields(Header):
            if not 0 <= (value := getattr(self, field.name)) < 1 << 32:
                raise PlanError(f"multiboot header: {field.name} is {value:#x}, which does not fit in 32 bits")

    @property
    def size_bytes(self) -> int:
        """Where it ends: behind the last field that the flags say is there."""
        if self.flags.video_mode:
            return _MARK.size + _ADDRESSES.size + _VIDEO.size
        return _MARK.size + _ADDRESSES.size if self.flags.addresses else _MARK.size

    @property
    def unknown_requirements(self) -> HeaderFlags:
        """The flags that a loader would have to know, and that the specification does not have."""
        return HeaderFlags(self.flags & 0xFFFF & ~KNOWN)

    def to_bytes(self) -> bytes:
        """The header as it lies in the image."""
        rest = [getattr(self, field.name) for field in attrs.fields(Header)[1:]]
        words = struct.pack("<12I", MAGIC, self.flags, -(MAGIC + self.flags) % (1 << 32), *rest)
        return words[: self.size_bytes]

    @classmethod
    def decode(cls, data: bytes) -> Header:
        """The header that the bytes begin with; PlanError with the offset of what is wrong with it."""
        if len(data) < _MARK.size or not is_marked(data, 0):
            raise PlanError("multiboot header: no magic number with its checksum at offset 0x0")
        flags = HeaderFlags(_MARK.unpack_from(data)[1])
        size_bytes = cls(flags=flags).size_bytes
        if len(data) < size_bytes:
            raise PlanError(f"multiboot header: cut short at offset {len(data):#x}, its flags want {size_bytes} bytes")
        rest = struct.unpack_from(f"<{(size_bytes - _MARK.size) // 4}I", data, _MARK.size)
        names = [field.name for field in attrs.fields(Header)[1:]]
        return cls(flags=flags, **dict(zip(names, rest, strict=False)))

    def describe(self) -> str:
        """The fields that mean something, one a line, as `offset name value`."""
        lines = [
            f"0x000  magic            {MAGIC:#x}",
            f"0x004  flags            {self.flags:#x}  {self.flags.words()}",
        ]
        lines[1] = lines[1].rstrip()
        for offset, field in zip(range(_MARK.size, self.size_bytes, 4), attrs.fields(Header)[1:], strict=False):
            if self.flags.addresses or offset >= _MARK.size + _ADDRESSES.size:
                lines.append(f"{offset:#05x}  {field.name:<17}{getattr(self, field.name):#x}")
        return "\n".join(lines)


def is_marked(data: bytes, offset: int) -> bool:
    """Whether a header begins at that offset: the magic number, and a checksum that is right."""
    magic, flags, checksum = _MARK.unpack_from(data, offset)
    return bool(magic == MAGIC and (magic + flags + checksum) % (1 << 32) == 0)


def find_header(start: bytes) -> int | None:
    """The offset of the header in the start of an image, of which 8192 bytes are looked at; None if it has none.

    >>> find_header(bytes(64) + Header().to_bytes())
    64
    """
    places = range(0, min(len(start), SEARCHED_BYTES) - _MARK.size + 1, ALIGNMENT)
    return next((offset for offset in places if is_marked(start, offset)), None)
