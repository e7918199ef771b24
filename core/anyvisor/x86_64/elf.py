"""Load an ELF kernel, such as the `vmlinux` that a Linux build leaves beside its bzImage.

Some facts about vmlinux. Its program headers say which bytes go where: `p_paddr` is the guest-physical
address, `p_filesz` how many bytes the file has for it, `p_memsz` how many it takes (the rest is zero). It is
linked for one physical address and must lie there, and its `e_entry` is a physical address as well: the entry of the
boot protocol, the 64-bit one for x86_64 and the 32-bit one for i386. It has no setup header, so its limits are those
of every kernel of its kind: a command line of 2047 bytes (COMMAND_LINE_SIZE less the NUL), and an initrd below 2 GiB
for x86_64, in the first 896 MiB for i386: the `initrd_addr_max` that kernels write in the bzImage around them.

Of a file, segments are references. Of an unpacked image they are copies, so everything that headers can be checked
for is checked before the first is made, and no two may be of the same bytes: a few KiB of headers could otherwise
ask for any amount of memory.

ELF's layout: System V gABI, chapters 4 and 5. Its two classes, of 32 and 64 bits, have the same fields in other
places.
"""

from __future__ import annotations

import itertools
import struct
from typing import Self

import attrs

from anyvisor.image_file import ImageFile
from anyvisor.memory import Region
from anyvisor.plan import Blob, Kernel
from anyvisor.x86_64.layout import Layout
from anyvisor.x86_64.placement import check_room

MAGIC = b"\x7fELF"
COMMAND_LINE_LIMIT = 2047
INITRD_LIMITS = {32: 0x37FFFFFF, 64: 0x7FFFFFFF}
PT_LOAD, PT_NOTE = 1, 4
"""Kinds of program headers: a segment to load, and notes."""

_HEADERS = {32: struct.Struct("<16sHHIIIIIHHHHHH"), 64: struct.Struct("<16sHHIQQQIHHHHHH")}
_PROGRAM_HEADERS = {32: struct.Struct("<8I"), 64: struct.Struct("<2I6Q")}
_PHOFF, _PHENTSIZE, _PHNUM = {32: 0x1C, 64: 0x20}, {32: 0x2A, 64: 0x36}, {32: 0x2C, 64: 0x38}
_CLASS, _DATA, _TYPE, _MACHINE, _ENTRY = 4, 5, 0x10, 0x12, 0x18
_CLASSES = {1: 32, 2: 64}
_BYTE_ORDERS = {1: "little-endian", 2: "big-endian"}
_TYPES = {1: "a relocatable object file", 2: "an executable", 3: "position-independent", 4: "a core dump"}
_MACHINES = {3: "x86", 8: "MIPS", 20: "PowerPC", 21: "PowerPC64", 22: "S/390", 40: "ARM", 62: "x86_64",
             183: "aarch64", 243: "RISC-V", 258: "LoongArch"}  # fmt: skip
_EXECUTABLES = (2, 3)
_X86, _X86_64 = 3, 62
_PN_XNUM = 0xFFFF
MAX_PROGRAM_HEADERS = 128
"""More than any kernel has; a limit on what a hostile file can make us do."""


@attrs.frozen
class ProgramHeader:
    """A program header; `offset` is where it lies in the image, the rest is what it says."""

    offset: int
    kind: int
    file_offset: int
    virtual_address: int
    guest_address: int
    file_bytes: int
    memory_bytes: int
    alignment: int

    @classmethod
    def read(cls, data: bytes, offset: int, bits: int) -> Self:
        """The program header in those bytes of a file of that class, where they lie at `offset`."""
        fields = _PROGRAM_HEADERS[bits].unpack(data)
        if bits == 32:
            kind, file_offset, virtual, address, file_bytes, memory_bytes, _, alignment = fields
        else:
            kind, _, file_offset, virtual, address, file_bytes, memory_bytes, alignment = fields
        return cls(offset, kind, file_offset, virtual, address, file_bytes, memory_bytes, alignment)

    @property
    def is_loaded(self) -> bool:
        """Whether it tells of a segment that takes memory."""
        return self.kind == PT_LOAD and bool(self.file_bytes or self.memory_bytes)

    @property
    def file_end(self) -> int:
        """Where its bytes end in the file."""
        return self.file_offset + self.file_bytes


@attrs.frozen
class Elf:
    """An executable for x86, of 32 or 64 `bits`: its entry, and what its program headers say."""

    image: ImageFile
    bits: int
    entry: int
    program_headers: tuple[ProgramHeader, ...]

    @classmethod
    def read(cls, image: ImageFile) -> Self:
        """The ELF file in an image; KernelImageError, in words, when it is no executable for x86_64 or i386."""
        bits = _check_identity(image)
        fields = _HEADERS[bits].unpack(image.read(0, _HEADERS[bits].size))
        entry, table, entry_bytes, count = fields[4], fields[5], fields[9], fields[10]
        return cls(image, bits, entry, _program_headers(image, bits, table, entry_bytes, count))

    def load(self, layout: Layout, entry: int | None = None, entry_offset: int = _ENTRY) -> tuple[Blob, ...]:
        """Its segments as pieces, each where the file says.

        `entry` must be in one of them: the file's own, or one that the file names at `entry_offset`. KernelImageError
        when a segment cannot be in the RAM of `layout`.
        """
        loaded = [each for each in self.program_headers if each.is_loaded]
        if not loaded:
            raise self.image.error("has no loadable segment; give a linked kernel (vmlinux)", _PHNUM[self.bits])
        segments = [(each, _region(each, number)) for number, each in enumerate(loaded)]
        for header, region in segments:
            _check_segment(self.image, layout, header, region)
        _check_overlaps(self.image, segments)
        first = self.entry if entry is None else entry
        if not any(region.contains(first) for _, region in segments):
            raise self.image.error(f"the entry {first:#x} is in none of the loaded segments", entry_offset)
        return tuple(_blob(self.image, header, region) for header, region in segments)


def load_elf(image: ImageFile, layout: Layout) -> Kernel:
    """The kernel in an ELF file, each segment where the file says; KernelImageError when it cannot boot.

    One of 64 bits is entered by the 64-bit Linux boot protocol, one of 32 bits by the 32-bit one.
    """
    elf = Elf.read(image)
    protocol, mode = ("linux64", "long") if elf.bits == 64 else ("linux32", "protected")
    return Kernel(protocol, elf.entry, elf.load(layout), COMMAND_LINE_LIMIT, INITRD_LIMITS[elf.bits], mode=mode)


def _check_identity(image: ImageFile) -> int:
    """The bits of an executable for x86_64 or i386; KernelImageError, in words, for anything else."""
    header = image.read(0, min(_HEADERS[32].size, image.size_bytes))
    if not header.startswith(MAGIC):
        raise image.error(f"is no ELF file (it begins {header[:8].hex(' ')})", 0)
    header = image.read(0, _HEADERS[32].size)
    order, bits = header[_DATA], _CLASSES.get(header[_CLASS])
    if _BYTE_ORDERS.get(order) != "little-endian":
        raise image.error(f"is a {_BYTE_ORDERS.get(order, f'{order:#x}-endian')} ELF file, not an x86_64 one", _DATA)
    machine, kind = struct.unpack_from("<H", header, _MACHINE)[0], struct.unpack_from("<H", header, _TYPE)[0]
    if machine not in {_X86, _X86_64}:
        name = _MACHINES.get(machine, f"machine {machine}")
        raise image.error(f"is an ELF file for {name}; give a kernel built for x86_64", _MACHINE)
    if bits is None or (machine, bits) == (_X86_64, 32):
        found = f"{bits}-bit" if bits else f"class {header[_CLASS]}"
        raise image.error(f"is a {found} ELF file, not a 64-bit one", _CLASS)
    if (machine, bits) == (_X86, 64):
        raise image.error("is a 64-bit ELF file for x86; give a kernel built for x86_64, or for i386", _MACHINE)
    if kind not in _EXECUTABLES:
        name = _TYPES.get(kind, f"of type {kind}")
        raise image.error(f"is an ELF file that is {name}; give a linked kernel (vmlinux)", _TYPE)
    return bits


def _program_headers(
    image: ImageFile, bits: int, table: int, entry_bytes: int, count: int
) -> tuple[ProgramHeader, ...]:
    """The program headers, `count` of them from `table` on."""
    wanted = _PROGRAM_HEADERS[bits].size
    if count == _PN_XNUM or count > MAX_PROGRAM_HEADERS:
        words = f"claims {count} program headers; a kernel has at most {MAX_PROGRAM_HEADERS}"
        raise image.error(words, _PHNUM[bits])
    if entry_bytes != wanted and count:
        raise image.error(f"has program headers of {entry_bytes} bytes, not {wanted}", _PHENTSIZE[bits])
    if not image.has(table, count * entry_bytes):
        words = f"its {count} program headers at {table:#x} lie beyond the end of the file"
        raise image.error(words, _PHOFF[bits])
    data = image.read(table, count * entry_bytes)
    starts = range(0, len(data), wanted)
    return tuple(ProgramHeader.read(data[at : at + wanted], table + at, bits) for at in starts)


def _region(header: ProgramHeader, number: int) -> Region:
    return Region(header.guest_address, header.memory_bytes, f"kernel segment {number}")


def _check_segment(image: ImageFile, layout: Layout, header: ProgramHeader, region: Region) -> None:
    """KernelImageError unless the file has the segment's bytes, and guest RAM has room for it."""
    name, memory_bytes = region.name, region.size_bytes
    if header.file_bytes > memory_bytes:
        raise image.error(
            f"{name} has {header.file_bytes} bytes in the file for {memory_bytes} in memory", header.offset
        )
    if header.file_bytes and not image.has(header.file_offset, header.file_bytes):
        raise image.error(f"{name} ends at {header.file_end:#x}, beyond the end of the file", header.offset)
    check_room(image, layout, region, header.offset)


def _check_overlaps(image: ImageFile, segments: list[tuple[ProgramHeader, Region]]) -> None:
    """KernelImageError when segments share guest memory, or bytes of an image of which each would get a copy."""
    for (_, first), (header, second) in itertools.pairwise(sorted(segments, key=lambda each: each[1])):
        if first.overlaps(second):
            raise image.error(f"{first} overlaps {second}", header.offset)
    copied = [each for each in segments if each[0].file_bytes and image.unpacked is not None]
    for (before, one), (after, two) in itertools.pairwise(sorted(copied, key=lambda each: each[0].file_offset)):
        if after.file_offset < before.file_end:
            raise image.error(f"{two.name} shares bytes of the file with {one.name}", after.offset)


def _blob(image: ImageFile, header: ProgramHeader, region: Region) -> Blob:
    """A segment whose header has been checked; of an unpacked image it has a copy of its bytes."""
    content = image.content(header.file_offset, header.file_bytes) if header.file_bytes else b""
    if isinstance(content, bytes):
        content = content.rstrip(b"\0")  # the rest of a blob is zero anyway, and may stay untouched
    return Blob(region.name, region.start, content, region.size_bytes)
