"""What a multiboot loader hands the kernel: the information structure, and all that it leads to.

Some facts about it (GNU Multiboot Specification 0.6.96, 3.3). The sizes of memory below and above 1 MiB are in KiB,
that above only up to the first hole. An entry of the memory map begins with its own length, not counting that number,
so that entries can grow; its types are the first five of the BIOS call E820h, and any other means reserved. A module's
end is the address behind its last byte.

What a command line begins with, the specification leaves open. GRUB's first version and QEMU put the kernel's file name
there, as a shell does, and kernels skip it; GRUB 2 does not, and kernels that care look at the loader's name for it:
Xen skips the first word unless the loader is called GRUB 2. So the name goes first here, too, and a module's string is
its file name. GRUB's are whole paths; here only the last part, for a path of the host is not the guest's business.

>>> handover = Handover(loader="anyvisor", modules=(Module(0x800000, 0x801000, "initrd.img"),))
>>> print(handover.describe())
loader anyvisor
module 0x800000-0x800fff "initrd.img"
>>> data = handover.to_bytes(0x6000)
>>> Handover.read(lambda address, size: data[address - 0x6000 :][:size], 0x6000) == handover
True
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator, Sequence
from typing import Self

import attrs

from anyvisor.errors import PlanError
from anyvisor.memory import KIB, MIB, align_up
from anyvisor.plan import Blob, FileSlice, Kernel
from anyvisor.x86_64.bootparams import command_line_bytes
from anyvisor.x86_64.e820 import ENTRY, E820Entry, E820Type, e820
from anyvisor.x86_64.layout import Layout
from anyvisor.x86_64.multiboot.information import SIZE_BYTES, InfoFlags, MultibootInfo

LOADER = "anyvisor"
MAX_LIST_BYTES = 0x10000
"""As much of a list or a string as is read; more than any machine has."""

_MODULE = struct.Struct("<4I")
_LENGTH = struct.Struct("<I")
_STRING_STEP_BYTES = 64
_KNOWN_TYPES = (E820Type.RAM, E820Type.RESERVED, E820Type.ACPI, E820Type.NVS, E820Type.UNUSABLE)

Read = Callable[[int, int], bytes]
"""Reads guest memory: `read(address, size_bytes)`."""


@attrs.frozen
class Module:
    """A file that the loader put into memory for the kernel, and the string that goes with it."""

    mod_start: int
    mod_end: int
    string: str = ""

    def to_bytes(self, string_address: int) -> bytes:
        """Its 16 bytes in the list of modules; PlanError when a value does not fit."""
        try:
            return _MODULE.pack(self.mod_start, self.mod_end, string_address, 0)
        except struct.error as error:
            raise PlanError(f"multiboot: {self} does not fit its 32-bit fields: {error}") from error

    def __str__(self) -> str:
        return f'module {self.mod_start:#x}-{max(self.mod_end - 1, self.mod_start):#x} "{self.string}"'


@attrs.frozen
class Handover:
    """All that a multiboot kernel is told. `cmdline` is where its command line lies, 0 for none.

    `mem_lower` and `mem_upper` are the KiB of RAM below and above 1 MiB, None for a loader that does not say.
    """

    memory_map: tuple[E820Entry, ...] = ()
    modules: tuple[Module, ...] = ()
    cmdline: int = 0
    loader: str = ""
    mem_lower: int | None = None
    mem_upper: int | None = None

    def to_bytes(self, guest_address: int) -> bytes:
        """The structure, memory map, list of modules and strings in one piece, to lie at that address."""
        ranges = b"".join(map(_range_bytes, self.memory_map))
        mmap_addr = guest_address + align_up(SIZE_BYTES, 8)
        mods_addr = mmap_addr + len(ranges)
        strings = [_string_bytes(each) for each in (self.loader, *(module.string for module in self.modules))]
        places = list(_places(mods_addr + len(self.modules) * _MODULE.size, strings))
        info = MultibootInfo(
            flags=self._flags,
            mem_lower=self.mem_lower or 0,
            mem_upper=self.mem_upper or 0,
            cmdline=self.cmdline,
            mods_count=len(self.modules),
            mods_addr=mods_addr if self.modules else 0,
            mmap_length=len(ranges),
            mmap_addr=mmap_addr if ranges else 0,
            boot_loader_name=places[0] if self.loader else 0,
        )
        modules = b"".join(each.to_bytes(place) for each, place in zip(self.modules, places[1:], strict=True))
        head = info.to_bytes().ljust(mmap_addr - guest_address, b"\0")
        return b"".join([head, ranges, modules, *strings])

    @property
    def _flags(self) -> InfoFlags:
        return InfoFlags(
            memory=self.mem_lower is not None or self.mem_upper is not None,
            command_line=bool(self.cmdline),
            modules=bool(self.modules),
            memory_map=bool(self.memory_map),
            loader_name=bool(self.loader),
        )

    @classmethod
    def read(cls, read: Read, guest_address: int) -> Self:
        """What a structure at that address leads to, as far as its flags say; PlanError when it leads astray."""
        info = MultibootInfo.decode(read(guest_address, SIZE_BYTES))
        flags = info.flags
        return cls(
            tuple(_ranges(read, info)) if flags.memory_map else (),
            tuple(_modules(read, info)) if flags.modules else (),
            info.cmdline if flags.command_line else 0,
            read_string(read, info.boot_loader_name) if flags.loader_name else "",
            info.mem_lower if flags.memory else None,
            info.mem_upper if flags.memory else None,
        )

    def command_line(self, read: Read) -> str:
        """The command line that it leads to; empty if to none."""
        return read_string(read, self.cmdline) if self.cmdline else ""

    def describe(self) -> str:
        """What the kernel is told, in words, a line each."""
        lines = [f"loader {self.loader}"] if self.loader else []
        if self.cmdline:
            lines.append(f"command line at {self.cmdline:#x}")
        if self.mem_lower is not None or self.mem_upper is not None:
            lines.append(f"memory {self.mem_lower} KiB from 0, {self.mem_upper} KiB from 1 MiB")
        return "\n".join([*lines, *map(str, self.modules), *(f"mmap  {each}" for each in self.memory_map)])


def multiboot_params(
    command_line: str, layout: Layout, kernel: Kernel, initrd: Blob | None = None, *, name: str = "kernel"
) -> tuple[Blob, ...]:
    """The information structure and the command line, as the pieces `multiboot information` and `command line`.

    The command line begins with the kernel's `name`; the initrd is the first module. ConfigError when the command line
    is longer than there is room for, PlanError when the rest is longer than `layout.boot_info`.
    """
    text = command_line_bytes(f"{_word(name)} {command_line}".rstrip(), layout, kernel)
    ranges = e820(layout)
    handover = Handover(
        memory_map=ranges,
        modules=(_module(initrd),) if initrd else (),
        cmdline=layout.command_line.start,
        loader=LOADER,
        mem_lower=_kib_from(0, ranges),
        mem_upper=_kib_from(MIB, ranges),
    )
    place = layout.boot_info
    data = handover.to_bytes(place.start)
    if len(data) > place.size_bytes:
        words = f"the multiboot information and its lists have {len(data)} bytes, {place} has {place.size_bytes}"
        raise PlanError(f"{words}; reserve fewer ranges in anyvisor_memory_layout")
    return Blob("multiboot information", place.start, data), Blob("command line", layout.command_line.start, text)


def read_string(read: Read, address: int) -> str:
    """The text at an address, up to its NUL; PlanError when there is no end to it."""
    found = bytearray()
    while len(found) < MAX_LIST_BYTES:
        at = address + len(found)
        piece = read(at, _STRING_STEP_BYTES - at % _STRING_STEP_BYTES)  # aligned, it does not reach beyond RAM's end
        text, end, _ = piece.partition(b"\0")
        found += text
        if end:
            return found.decode("utf-8", "backslashreplace")
        if not piece:
            break
    raise PlanError(f"multiboot: the string at {address:#x} does not end")


def _module(initrd: Blob) -> Module:
    name = initrd.content.path.name if isinstance(initrd.content, FileSlice) else initrd.name
    return Module(initrd.guest_address, initrd.guest_address + len(initrd.content), _word(name))


def _word(name: str) -> str:
    """A file's name as one word of ASCII, as which a kernel can skip it."""
    return "".join(letter if letter.isascii() and letter.isprintable() and letter != " " else "_" for letter in name)


def _kib_from(start: int, ranges: Sequence[E820Entry]) -> int:
    """How many KiB of RAM there are from that address up to the first hole."""
    found = (each.end - start for each in ranges if each.type == E820Type.RAM and each.start <= start < each.end)
    return next(found, 0) // KIB


def _string_bytes(text: str) -> bytes:
    data = text.encode("utf-8", "surrogateescape")
    if b"\0" in data:
        raise PlanError(f"multiboot: there is a NUL in {text!r}, where the kernel would stop reading; remove it")
    return data + b"\0"


def _places(start: int, strings: Sequence[bytes]) -> Iterator[int]:
    """Where each string lies, one behind the other."""
    for each in strings:
        yield start
        start += len(each)


def _range_bytes(entry: E820Entry) -> bytes:
    kind = entry.type if entry.type in _KNOWN_TYPES else E820Type.RESERVED
    return _LENGTH.pack(ENTRY.size) + attrs.evolve(entry, type=kind).to_bytes()


def _ranges(read: Read, info: MultibootInfo) -> Iterator[E820Entry]:
    """The entries of the memory map, each as long as it says; what it says beyond an entry's fields is skipped."""
    data = _list(read, "mmap", info.mmap_addr, info.mmap_length)
    at = 0
    while at < len(data):
        size_bytes = int.from_bytes(data[at : at + _LENGTH.size], "little")
        entry = data[at + _LENGTH.size : at + _LENGTH.size + ENTRY.size]
        if size_bytes < ENTRY.size or len(entry) < ENTRY.size:
            raise PlanError(f"multiboot: memory map entry of {size_bytes} bytes (at offset {at:#x} of the map)")
        start, length, kind = ENTRY.unpack(entry)
        yield E820Entry(start, length, E820Type(kind) if kind in _KNOWN_TYPES else E820Type.RESERVED)
        at += _LENGTH.size + size_bytes


def _modules(read: Read, info: MultibootInfo) -> Iterator[Module]:
    data = _list(read, "mods", info.mods_addr, info.mods_count * _MODULE.size)
    for start, end, string, _ in _MODULE.iter_unpack(data):
        yield Module(start, end, read_string(read, string) if string else "")


def _list(read: Read, name: str, address: int, size_bytes: int) -> bytes:
    if size_bytes > MAX_LIST_BYTES:
        raise PlanError(f"multiboot: {name} has {size_bytes} bytes, more than {MAX_LIST_BYTES}")
    data = read(address, size_bytes)
    if len(data) < size_bytes:
        raise PlanError(f"multiboot: {name} at {address:#x} has {size_bytes} bytes, {len(data)} of them there")
    return data
