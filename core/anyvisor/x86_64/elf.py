"""Load an ELF kernel, such as the `vmlinux` that a Linux build leaves beside its bzImage.

Some facts about vmlinux. Its program headers say which bytes go where: `p_paddr` is the guest-physical
address, `p_filesz` how many bytes the file has for it, `p_memsz` how many it takes (the rest is zero). It is
linked for one physical address and must lie there, and its `e_entry` is a physical address as well: the
64-bit entry of the boot protocol. It has no setup header, so its limits are those of every x86_64 kernel: a
command line of 2047 bytes (COMMAND_LINE_SIZE less the NUL), and an initrd below 2 GiB, the `initrd_addr_max`
that x86_64 kernels write in the bzImage around them.

Of a file, segments are references. Of an unpacked image they are copies, so everything that headers can be checked
for is checked before the first is made, and no two may be of the same bytes: a few KiB of headers could otherwise
ask for any amount of memory.

ELF's layout: System V gABI, chapters 4 and 5.
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
INITRD_LIMIT = 0x7FFFFFFF

_HEADER = struct.Struct("<16sHHIQQQIHHHHHH")
_PROGRAM_HEADER = struct.Struct("<IIQQQQQQ")
_CLASS, _DATA, _TYPE, _MACHINE, _ENTRY, _PHOFF, _PHENTSIZE, _PHNUM = 4, 5, 0x10, 0x12, 0x18, 0x20, 0x36, 0x38
_CLASSES = {1: "32-bit", 2: "64-bit"}
_BYTE_ORDERS = {1: "little-endian", 2: "big-endian"}
_TYPES = {1: "a relocatable object file", 2: "an executable", 3: "position-independent", 4: "a core dump"}
_MACHINES = {3: "x86", 8: "MIPS", 20: "PowerPC", 21: "PowerPC64", 22: "S/390", 40: "ARM", 62: "x86_64",
             183: "aarch64", 243: "RISC-V", 258: "LoongArch"}  # fmt: skip
_EXECUTABLES = (2, 3)
_X86_64 = 62
_PT_LOAD = 1
_PN_XNUM = 0xFFFF
MAX_PROGRAM_HEADERS = 128
"""More than any kernel has; a limit on what a hostile file can make us do."""


@attrs.frozen
class Segment:
    """A loadable segment; `offset` is where its program header lies in the image."""

    offset: int
    file_offset: int
    file_bytes: int
    region: Region

    @classmethod
    def read(cls, header: bytes, offset: int, name: str) -> Self | None:
        """The segment that a program header tells of; None for one that is not loaded or takes no memory."""
        kind, _, file_offset, _, guest_address, file_bytes, memory_bytes, _ = _PROGRAM_HEADER.unpack(header)
        if kind != _PT_LOAD or not (file_bytes or memory_bytes):
            return None
        return cls(offset, file_offset, file_bytes, Region(guest_address, memory_bytes, name))

    @property
    def file_end(self) -> int:
        """Where its bytes end in the file."""
        return self.file_offset + self.file_bytes


def load_elf(image: ImageFile, layout: Layout) -> Kernel:
    """The kernel in an ELF file, each segment where the file says; KernelImageError when it cannot boot."""
    header = image.read(0, _HEADER.size)
    _check_identity(image, header)
    fields = _HEADER.unpack(header)
    entry, table, entry_bytes, count = fields[4], fields[5], fields[9], fields[10]
    segments = _segments(image, table, entry_bytes, count)
    for segment in segments:
        _check_segment(image, layout, segment)
    _check_overlaps(image, segments)
    if not any(segment.region.contains(entry) for segment in segments):
        raise image.error(f"the entry {entry:#x} is in none of the loaded segments", _ENTRY)
    blobs = tuple(_blob(image, segment) for segment in segments)
    return Kernel("linux64", entry, blobs, COMMAND_LINE_LIMIT, INITRD_LIMIT)


def _check_identity(image: ImageFile, header: bytes) -> None:
    """KernelImageError, in words, unless this is an x86_64 executable."""
    if not header.startswith(MAGIC):
        raise image.error(f"is no ELF file (it begins {header[:8].hex(' ')})", 0)
    bits, order = header[_CLASS], header[_DATA]
    if _BYTE_ORDERS.get(order) != "little-endian":
        raise image.error(f"is a {_BYTE_ORDERS.get(order, f'{order:#x}-endian')} ELF file, not an x86_64 one", _DATA)
    machine, kind = struct.unpack_from("<H", header, _MACHINE)[0], struct.unpack_from("<H", header, _TYPE)[0]
    if machine != _X86_64:
        name = _MACHINES.get(machine, f"machine {machine}")
        raise image.error(f"is an ELF file for {name}; give a kernel built for x86_64", _MACHINE)
    if _CLASSES.get(bits) != "64-bit":
        raise image.error(f"is a {_CLASSES.get(bits, f'class {bits}')} ELF file, not a 64-bit one", _CLASS)
    if kind not in _EXECUTABLES:
        name = _TYPES.get(kind, f"of type {kind}")
        raise image.error(f"is an ELF file that is {name}; give a linked kernel (vmlinux)", _TYPE)


def _segments(image: ImageFile, table: int, entry_bytes: int, count: int) -> list[Segment]:
    """What the program headers say is to be loaded."""
    if count == _PN_XNUM or count > MAX_PROGRAM_HEADERS:
        raise image.error(f"claims {count} program headers; a kernel has at most {MAX_PROGRAM_HEADERS}", _PHNUM)
    if entry_bytes != _PROGRAM_HEADER.size and count:
        raise image.error(f"has program headers of {entry_bytes} bytes, not {_PROGRAM_HEADER.size}", _PHENTSIZE)
    if not image.has(table, count * entry_bytes):
        raise image.error(f"its {count} program headers at {table:#x} lie beyond the end of the file", _PHOFF)
    data = image.read(table, count * entry_bytes)
    segments: list[Segment] = []
    for at in range(0, len(data), _PROGRAM_HEADER.size):
        name = f"kernel segment {len(segments)}"
        if segment := Segment.read(data[at : at + _PROGRAM_HEADER.size], table + at, name):
            segments.append(segment)
    if not segments:
        raise image.error("has no loadable segment; give a linked kernel (vmlinux)", _PHNUM)
    return segments


def _check_segment(image: ImageFile, layout: Layout, segment: Segment) -> None:
    """KernelImageError unless the file has the segment's bytes, and guest RAM has room for it."""
    name, memory_bytes = segment.region.name, segment.region.size_bytes
    if segment.file_bytes > memory_bytes:
        raise image.error(
            f"{name} has {segment.file_bytes} bytes in the file for {memory_bytes} in memory", segment.offset
        )
    if segment.file_bytes and not image.has(segment.file_offset, segment.file_bytes):
        raise image.error(f"{name} ends at {segment.file_end:#x}, beyond the end of the file", segment.offset)
    check_room(image, layout, segment.region, segment.offset)


def _check_overlaps(image: ImageFile, segments: list[Segment]) -> None:
    """KernelImageError when segments share guest memory, or bytes of an image of which each would get a copy."""
    for first, second in itertools.pairwise(sorted(segments, key=lambda each: each.region)):
        if first.region.overlaps(second.region):
            raise image.error(f"{first.region} overlaps {second.region}", second.offset)
    copied = [each for each in segments if each.file_bytes and image.unpacked is not None]
    for first, second in itertools.pairwise(sorted(copied, key=lambda each: each.file_offset)):
        if second.file_offset < first.file_end:
            words = f"{second.region.name} shares bytes of the file with {first.region.name}"
            raise image.error(words, second.offset)


def _blob(image: ImageFile, segment: Segment) -> Blob:
    """A segment whose header has been checked; of an unpacked image it has a copy of its bytes."""
    content = image.content(segment.file_offset, segment.file_bytes) if segment.file_bytes else b""
    if isinstance(content, bytes):
        content = content.rstrip(b"\0")  # the rest of a blob is zero anyway, and may stay untouched
    return Blob(segment.region.name, segment.region.start, content, segment.region.size_bytes)
