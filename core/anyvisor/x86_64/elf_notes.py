"""The notes in an ELF file: small named records by which a program tells a loader what it is.

Some facts about notes (System V gABI, chapter 5, "Note Section"). A program header of the kind PT_NOTE says where they
lie. Each has three words, the sizes of its name and of its descriptor and its type, then the name and the descriptor,
each filled up to 4 bytes, or to 8 where the program header asks for an alignment of 8. The type means something only
together with the name: it is the name's owner who numbers types.

Sizes are the file's word, so they are checked before anything is read, and only so much of a file is looked at.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator

import attrs

from anyvisor.errors import KernelImageError
from anyvisor.image_file import ImageFile
from anyvisor.memory import KIB, align_up
from anyvisor.x86_64.elf import PT_NOTE, Elf, ProgramHeader

MAX_NOTES_BYTES = 64 * KIB
"""More notes than any kernel has; a limit on what a hostile file can make us read."""

_HEAD = struct.Struct("<III")


@attrs.frozen
class Note:
    """A note: whose it is, its type, its content; `offset` is where it lies in the file."""

    name: bytes
    type: int
    descriptor: bytes
    offset: int


def notes(elf: Elf) -> Iterator[Note]:
    """The notes of an ELF file in their order; KernelImageError for one that is not all there."""
    total_bytes = 0
    for header in elf.program_headers:
        if header.kind == PT_NOTE:
            total_bytes += header.file_bytes
            if total_bytes > MAX_NOTES_BYTES:
                words = f"claims {total_bytes} bytes of notes; a kernel has a few hundred"
                raise elf.image.error(words, header.offset)
            yield from _segment(elf.image, header)


def _segment(image: ImageFile, header: ProgramHeader) -> Iterator[Note]:
    if not image.has(header.file_offset, header.file_bytes):
        raise image.error(f"its notes end at {header.file_end:#x}, beyond the end of the file", header.offset)
    data = image.read(header.file_offset, header.file_bytes)
    unit = 8 if header.alignment == 8 else 4
    at = 0
    while at + _HEAD.size <= len(data):
        name_bytes, descriptor_bytes, kind = _HEAD.unpack_from(data, at)
        name_end = at + _HEAD.size + name_bytes
        start = align_up(name_end, unit)
        end = start + descriptor_bytes
        if end > len(data):
            raise _too_long(image, header, at)
        name = data[at + _HEAD.size : name_end].rstrip(b"\0")
        yield Note(name, kind, data[start:end], header.file_offset + at)
        at = align_up(end, unit)


def _too_long(image: ImageFile, header: ProgramHeader, at: int) -> KernelImageError:
    return image.error("has a note that reaches beyond the end of its notes", header.file_offset + at)
