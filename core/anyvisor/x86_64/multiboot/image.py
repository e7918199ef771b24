"""Load a multiboot kernel: by the addresses in its header, or by those of its ELF program headers.

Some facts about addresses (GNU Multiboot Specification 0.6.96, 3.1.3). A header with bit 16 says where the file's
bytes go, whatever format they have: the header itself belongs at `header_addr`, and what lies before it in the file
before it in memory, from `load_addr` on. Without that bit the file is ELF. Kernels that are linked for the upper half
of memory have virtual addresses in there; the loader puts segments at their physical ones, and takes an entry that is
a virtual address of a segment to be meant in that segment, as GRUB and QEMU do.

Distributions pack multiboot kernels with gzip (Xen is one), since GRUB unpacks every file it reads. So does this.
"""

from __future__ import annotations

import contextlib
import os
import zlib

import attrs

from anyvisor.errors import PlanError
from anyvisor.image_file import ImageFile
from anyvisor.memory import Region
from anyvisor.plan import Blob, Kernel
from anyvisor.x86_64 import elf
from anyvisor.x86_64.elf import Elf
from anyvisor.x86_64.layout import Layout
from anyvisor.x86_64.multiboot.header import SEARCHED_BYTES, TEXT_MODE, Header, find_header
from anyvisor.x86_64.placement import check_room
from anyvisor.x86_64.unpack import MAX_UNPACKED_BYTES, unpack

PROTOCOL = "multiboot"
INITRD_LIMIT = 0xFFFFFFFF
"""Modules have 32-bit addresses, and no limit but that."""

_GZIP = b"\x1f\x8b"
_FLAGS, _MODE_TYPE = 4, 32
_HEADER_ADDR, _LOAD_ADDR, _LOAD_END_ADDR, _BSS_END_ADDR, _ENTRY_ADDR = range(12, 32, 4)
"""Offsets in the header."""


def speaks_multiboot(path: os.PathLike[str] | str) -> bool:
    """Whether a file, unpacked if it is packed with gzip, has a multiboot header; KernelImageError if unreadable."""
    image = ImageFile.open(path)
    return find_header(_start(image)) is not None


def load_kernel(path: os.PathLike[str] | str, layout: Layout) -> Kernel:
    """Read a multiboot kernel and give it a place in guest RAM.

    Only headers are read, unless it is packed; the contents stay references to the file. KernelImageError when the file
    is no multiboot kernel, requires what is not there, or cannot be in the RAM of `layout`, saying where it says so.
    """
    image = _unpacked(ImageFile.open(path), layout)
    start = image.start(SEARCHED_BYTES)
    offset = find_header(start)
    if offset is None:
        words = f"has no multiboot header in its first {SEARCHED_BYTES} bytes (a magic number with its checksum)"
        raise image.error(f"{words}; give a multiboot kernel, or leave its protocol to be found out")
    try:
        header = Header.decode(start[offset:])
    except PlanError as error:
        raise image.error(str(error), offset) from error
    _check_requirements(image, header, offset)
    made = _by_header(image, header, offset, layout) if header.flags.addresses else _by_elf(image, layout, offset)
    return attrs.evolve(made, command_line_limit=layout.command_line.size_bytes - 1)


def _start(image: ImageFile) -> bytes:
    """The start of the image, unpacked if need be; of a damaged one as far as it goes."""
    start = image.start(2 * SEARCHED_BYTES)  # twice: packed, what cannot be packed is some bytes longer
    if start.startswith(_GZIP):
        with contextlib.suppress(zlib.error):
            return zlib.decompressobj(wbits=zlib.MAX_WBITS | 16).decompress(start, SEARCHED_BYTES)
    return start


def _unpacked(image: ImageFile, layout: Layout) -> ImageFile:
    """The image itself, or what gzip has packed; no more than would fit into RAM."""
    if not image.start(len(_GZIP)).startswith(_GZIP):
        return image
    return unpack(image, 0, image.size_bytes, min(MAX_UNPACKED_BYTES, sum(ram.size_bytes for ram in layout.ram)))


def _check_requirements(image: ImageFile, header: Header, offset: int) -> None:
    """KernelImageError when the kernel requires what this loader does not have."""
    if unknown := header.unknown_requirements:
        words = f"its multiboot header requires {unknown:#x} in its flags, which the specification does not have"
        raise image.error(words, offset + _FLAGS)
    if header.flags.video_mode and header.mode_type != TEXT_MODE:
        words = "its multiboot header requires a graphics mode, and this machine has no display"
        raise image.error(
            f"{words}; build the kernel for text mode (mode_type 1), or without bit 2", offset + _MODE_TYPE
        )


def _by_elf(image: ImageFile, layout: Layout, offset: int) -> Kernel:
    """The kernel in an ELF file of 32 or 64 bits, entered in 32-bit code either way."""
    if not image.start(len(elf.MAGIC)).startswith(elf.MAGIC):
        words = "is no ELF file, and its multiboot header has no addresses (bit 16 of its flags)"
        raise image.error(f"{words}; where should it go?", offset + _FLAGS)
    file = Elf.read(image)
    entry = _physical(file)
    return Kernel(PROTOCOL, entry, file.load(layout, entry), 0, INITRD_LIMIT, mode="protected")


def _physical(file: Elf) -> int:
    """The entry as a physical address."""
    for each in file.program_headers:
        if each.is_loaded and Region(each.virtual_address, each.memory_bytes).contains(file.entry):
            return each.guest_address + file.entry - each.virtual_address
    return file.entry


def _by_header(image: ImageFile, header: Header, offset: int, layout: Layout) -> Kernel:
    """The kernel in any file whose header says which bytes go where."""
    before = header.header_addr - header.load_addr
    if not 0 <= before <= offset:
        words = f"its header at {header.header_addr:#x} lies {before:#x} behind load_addr, in the file only {offset:#x}"
        raise image.error(f"{words} behind its start", offset + _LOAD_ADDR)
    from_file = image.size_bytes - (offset - before)
    if header.load_end_addr:
        from_file = header.load_end_addr - header.load_addr
    if from_file <= 0 or not image.has(offset - before, from_file):
        words = f"load_end_addr {header.load_end_addr:#x} asks for {from_file} bytes from {offset - before:#x} on"
        raise image.error(f"{words}, which the file does not have", offset + _LOAD_END_ADDR)
    region = Region(header.load_addr, _memory_bytes(image, header, offset, from_file), "kernel")
    check_room(image, layout, region, offset + _LOAD_ADDR)
    if not region.contains(header.entry_addr):
        raise image.error(f"the entry {header.entry_addr:#x} is not in {region}", offset + _ENTRY_ADDR)
    blob = Blob(region.name, region.start, image.content(offset - before, from_file), region.size_bytes)
    return Kernel(PROTOCOL, header.entry_addr, (blob,), 0, INITRD_LIMIT, mode="protected")


def _memory_bytes(image: ImageFile, header: Header, offset: int, from_file: int) -> int:
    """How much memory the kernel takes: what comes from the file, and the zeros up to `bss_end_addr`."""
    if not header.bss_end_addr:
        return from_file
    memory_bytes = header.bss_end_addr - header.load_addr
    if memory_bytes < from_file:
        words = f"bss_end_addr {header.bss_end_addr:#x} lies before {header.load_addr + from_file:#x}"
        raise image.error(f"{words}, where what is loaded ends", offset + _BSS_END_ADDR)
    return memory_bytes
