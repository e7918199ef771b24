"""Load an ELF kernel, such as the `vmlinux` that a Linux build leaves beside its bzImage.

Some facts about vmlinux. Its program headers say which bytes go where: `p_paddr` is the guest-physical
address, `p_filesz` how many bytes the file has for it, `p_memsz` how many it takes (the rest is zero). It is
linked for one physical address and must lie there, and its `e_entry` is a physical address as well: the
64-bit entry of the boot protocol. It has no setup header, so its limits are those of every x86_64 kernel: a
command line of 2047 bytes (COMMAND_LINE_SIZE less the NUL), and an initrd below 2 GiB, the `initrd_addr_max`
that x86_64 kernels write in the bzImage around them.

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
    guest_address: int
    file_bytes: int
    memory_bytes: int

    @classmethod
    def read(cls, header: bytes, offset: int) -> Self | None:
        """The segment that a program header tells of; None for one that is not loaded or takes no memory."""
        kind, _, file_offset, _, guest_address, file_bytes, memory_bytes, _ = _PROGRAM_HEADER.unpack(header)
        if kind != _PT_LOAD or not (file_bytes or memory_bytes):
            return None
        return cls(offset, file_offset, guest_address, file_bytes, memory_bytes)


def load_elf(image: ImageFile, layout: Layout) -> Kernel:
    """The kernel in an ELF file, each segment where the file says; KernelImageError when it cannot boot."""
    header = image.read(0, _HEADER.size)
    _check_identity(image, header)
    fields = _HEADER.unpack(header)
    entry, table, entry_bytes, count = fields[4], fields[5], fields[9], fields[10]
    segments = _segments(image, table, entry_bytes, count)
    blobs = tuple(_blob(image, layout, index, segment) for index, segment in enumerate(segments))
    _check_overlaps(image, segments, blobs)
    if not any(blob.region.contains(entry) for blob in blobs):
        raise image.error(f"the entry {entry:#x} is in none of the loaded segments", _ENTRY)
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
    offsets = range(0, len(data), _PROGRAM_HEADER.size)
    found = (Segment.read(data[each : each + _PROGRAM_HEADER.size], table + each) for each in offsets)
    if not (segments := [segment for segment in found if segment]):
        raise image.error("has no loadable segment; give a linked kernel (vmlinux)", _PHNUM)
    return segments


def _blob(image: ImageFile, layout: Layout, index: int, segment: Segment) -> Blob:
    if segment.file_bytes > segment.memory_bytes:
        words = f"segment {index} has {segment.file_bytes} bytes in the file for {segment.memory_bytes} in memory"
        raise image.error(words, segment.offset)
    if segment.file_bytes and not image.has(segment.file_offset, segment.file_bytes):
        end = segment.file_offset + segment.file_bytes
        raise image.error(f"segment {index} ends at {end:#x}, beyond the end of the file", segment.offset)
    name = f"kernel segment {index}"
    check_room(image, layout, Region(segment.guest_address, segment.memory_bytes, name), segment.offset)
    content = image.content(segment.file_offset, segment.file_bytes) if segment.file_bytes else b""
    if isinstance(content, bytes):
        content = content.rstrip(b"\0")  # the rest of a blob is zero anyway, and may stay untouched
    return Blob(name, segment.guest_address, content, segment.memory_bytes)


def _check_overlaps(image: ImageFile, segments: list[Segment], blobs: tuple[Blob, ...]) -> None:
    in_order = sorted(zip(blobs, segments, strict=True), key=lambda pair: pair[0].guest_address)
    for (first, _), (second, segment) in itertools.pairwise(in_order):
        if first.region.overlaps(second.region):
            raise image.error(f"{first.region} overlaps {second.region}", segment.offset)
