"""The symbol table of an ELF file, and where its segments are linked, for any processor.

`x86_64.elf` loads kernels; this reads what is in none of their segments: section headers, of which one tells of the
symbol table (SHT_SYMTAB), whose `sh_link` is the section with the names. A stripped file has none.

ELF's layout: System V gABI, chapters 4 ("Sections", "Symbol Table") and 5. Each number in a file is checked before
anything is read by it.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import Self

import attrs

from anyvisor.image_file import ImageFile
from anyvisor.memory import MIB, format_size
from anyvisor.symbols import Row

MAGIC = b"\x7fELF"
MAX_TABLE_BYTES = 256 * MIB
"""The longest table that is read, many times that of a big kernel."""
MAX_NAME_BYTES = 511
"""That of Linux; a longer name is none."""
MAX_SYMBOLS = 2 << 20
_CLASS, _DATA, _LITTLE_ENDIAN = 4, 5, 1
_HEADERS = {32: "HHIIIIIHHHHHH", 64: "HHIQQQIHHHHHH"}
_SEGMENTS = {32: "8I", 64: "2I6Q"}
_SECTIONS = {32: "10I", 64: "2I4Q2I2Q"}
_SYMBOLS = {32: "IIIBBH", 64: "IBBHQQ"}
_PT_LOAD, _SHT_SYMTAB = 1, 2
_SHN_UNDEF, _SHN_ABS = 0, 0xFFF1
_PLACES = {0: "t", 1: "d", 2: "t", 10: "t"}
"""Types of symbols that are places in memory (NOTYPE, OBJECT, FUNC, IFUNC), and their letter."""
_WEAK = 2


@attrs.frozen
class Section:
    """What a section header says, as far as symbols need it."""

    kind: int
    offset: int
    size_bytes: int
    link: int


@attrs.frozen
class SymbolElf:
    """A little-endian ELF file of 32 or 64 `bits`."""

    image: ImageFile
    bits: int
    segments: tuple[tuple[int, int, int], ...]
    """Of each segment that is loaded: where in the file, how many bytes there, and for which address."""
    sections: tuple[Section, ...]

    @classmethod
    def read(cls, image: ImageFile) -> Self:
        """The ELF file in an image; KernelImageError when its headers cannot be."""
        start = image.read(0, 16)
        bits = {1: 32, 2: 64}.get(start[_CLASS])
        if bits is None or start[_DATA] != _LITTLE_ENDIAN:
            words = f"is an ELF file of class {start[_CLASS]} and byte order {start[_DATA]}"
            raise image.error(f"{words}; give a little-endian one of 32 or 64 bits", _CLASS)
        header = struct.Struct("<" + _HEADERS[bits])
        fields = header.unpack(image.read(16, header.size))
        segments = _table(image, "<" + _SEGMENTS[bits], fields[4], fields[8], fields[9])
        sections = _table(image, "<" + _SECTIONS[bits], fields[5], fields[10], fields[11])
        loaded = (_segment(each, bits) for each in segments if each[0] == _PT_LOAD)
        return cls(image, bits, tuple(loaded), tuple(Section(s[1], s[4], s[5], s[6]) for s in sections))

    def symbols(self) -> Iterator[Row]:
        """The symbols that name a place in memory; none where the file was stripped of them."""
        for section in [each for each in self.sections if each.kind == _SHT_SYMTAB][:1]:  # there is at most one
            if section.size_bytes:
                if section.link >= len(self.sections):
                    raise self.image.error("has a symbol table whose names are in no section", section.offset)
                yield from self._named(self._content(section), self._content(self.sections[section.link]))

    def virtual_address(self, file_offset: int) -> int | None:
        """For which address the byte at that offset of the file is linked; None if it is in no segment."""
        for start, size_bytes, address in self.segments:
            if start <= file_offset < start + size_bytes:
                return address + file_offset - start
        return None

    def _named(self, table: bytes, names: bytes) -> Iterator[Row]:
        shape = struct.Struct("<" + _SYMBOLS[self.bits])
        whole = memoryview(table)[: min(len(table) // shape.size, MAX_SYMBOLS) * shape.size]
        for fields in shape.iter_unpack(whole):
            if self.bits == 32:
                start, address, _, info, _, section = fields
            else:
                start, info, _, section, address, _ = fields
            kind = _PLACES.get(info & 0xF)
            if kind is None or section in (_SHN_UNDEF, _SHN_ABS):
                continue
            end = names.find(b"\0", start, start + MAX_NAME_BYTES + 1)
            name = names[start:end] if end >= 0 else b""
            if name and not name.startswith((b"$", b".L")):
                yield address, "w" if info >> 4 == _WEAK else kind, name.decode("utf-8", "replace")

    def _content(self, section: Section) -> bytes:
        if section.size_bytes > MAX_TABLE_BYTES:
            words = f"has a symbol table of {section.size_bytes} bytes"
            raise self.image.error(f"{words}, more than the {format_size(MAX_TABLE_BYTES)} allowed", section.offset)
        return self.image.read(section.offset, section.size_bytes)


def _table(image: ImageFile, shape: str, start: int, entry_bytes: int, count: int) -> list[tuple[int, ...]]:
    """The entries of a header table; none where the file has no such table."""
    entry = struct.Struct(shape)
    if not start or not count:
        return []
    if entry_bytes != entry.size:
        raise image.error(f"has headers of {entry_bytes} bytes, not {entry.size}", start)
    return list(entry.iter_unpack(image.read(start, entry_bytes * count)))


def _segment(fields: tuple[int, ...], bits: int) -> tuple[int, int, int]:
    """Where a segment is in the file, how many bytes it has there, and its virtual address."""
    return (fields[1], fields[4], fields[2]) if bits == 32 else (fields[2], fields[5], fields[3])
