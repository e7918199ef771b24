"""PVH, Xen's way of starting a kernel directly: what the kernel is told, written and read back.

Some facts about PVH (Xen: docs/misc/pvh.pandoc, and the public header arch-x86/hvm/start_info.h). The kernel is entered
in 32-bit protected mode without paging, and EBX holds the guest-physical address of a small structure, the start
info. It leads to everything else: the command line, a list of modules (Linux takes the first for its initrd), the
ACPI RSDP, and from version 1 on a memory map. An address of 0 means that there is none. Entries of the memory map have
the types of the BIOS call E820h, but 24 bytes each.

Nothing in it is Xen's alone: KVM and QEMU start kernels this way as well, and the kernel finds out by CPUID where it
is.

>>> handover = Handover(cmdline_paddr=0x20000, modules=(Module(0x8000000, 4096),))
>>> data = handover.to_bytes(0x6000)
>>> print(StartInfo.decode(data).describe())
magic           0x336ec578
version         1
nr_modules      1
modlist_paddr   0x6038
cmdline_paddr   0x20000
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import Self

import attrs

from anyvisor.errors import PlanError
from anyvisor.plan import Blob, FirmwareTables, Kernel
from anyvisor.x86_64.bootparams import command_line_bytes
from anyvisor.x86_64.e820 import ENTRY, E820Entry, e820
from anyvisor.x86_64.layout import Layout

MAGIC = 0x336EC578
"""The letters `xEn3` with the highest bit of the E set."""
VERSION = 1
MAX_ENTRIES = 1024
"""As many modules or memory map entries as are read; more than any machine has."""
COMMAND_LINE_READ_BYTES = 4096

_OLD = struct.Struct("<4I3Q")
_HEAD = struct.Struct("<4I3QQII")
_MODULE = struct.Struct("<4Q")
_MEMMAP = struct.Struct("<QQII")

Read = Callable[[int, int], bytes]
"""Reads guest memory: `read(address, size_bytes)`."""


@attrs.frozen
class StartInfo:
    """`struct hvm_start_info` by its own field names; the fields of version 1 are 0 in one of version 0."""

    flags: int = 0
    nr_modules: int = 0
    modlist_paddr: int = 0
    cmdline_paddr: int = 0
    rsdp_paddr: int = 0
    memmap_paddr: int = 0
    memmap_entries: int = 0
    reserved: int = 0
    version: int = VERSION

    def to_bytes(self) -> bytes:
        """Its 56 bytes, or 40 of version 0; PlanError when a value does not fit."""
        *numbers, version = attrs.astuple(self)
        try:
            if version == 0:
                return _OLD.pack(MAGIC, version, *numbers[:5])
            return _HEAD.pack(MAGIC, version, *numbers)
        except struct.error as error:
            raise PlanError(f"PVH start info: {self!r} does not fit its fields: {error}") from error

    @classmethod
    def decode(cls, data: bytes) -> Self:
        """The start info that the bytes begin with; of what its version does not have, nothing is believed.

        PlanError, with the offset, when they are none.
        """
        if len(data) < _OLD.size:
            raise PlanError(f"a PVH start info has at least {_OLD.size} bytes, not {len(data)} (at offset 0)")
        magic, version = struct.unpack_from("<II", data)
        if magic != MAGIC:
            raise PlanError(f"{magic:#x} is not the magic number of a PVH start info, {MAGIC:#x} (at offset 0)")
        layout = _HEAD if version else _OLD
        if len(data) < layout.size:
            words = f"a PVH start info of version {version} has {layout.size} bytes, not {len(data)}"
            raise PlanError(f"{words} (at offset {_OLD.size:#x})")
        names = [each.name for each in attrs.fields(cls) if each.name != "version"]
        return cls(**dict(zip(names, layout.unpack_from(data)[2:], strict=False)), version=version)

    def describe(self) -> str:
        """The fields that are not 0, one a line."""
        rows = [(each.name, getattr(self, each.name)) for each in attrs.fields(type(self)) if each.name != "version"]
        lines = [f"{'magic':<16}{MAGIC:#x}", f"{'version':<16}{self.version}"]
        return "\n".join([*lines, *(f"{name:<16}{_word(name, value)}" for name, value in rows if value)])


def _word(name: str, value: int) -> str:
    return f"{value:#x}" if name.endswith("paddr") or name == "flags" else str(value)


@attrs.frozen
class Module:
    """An entry of the module list: where the module's bytes lie, how many they are, and its command line if any."""

    paddr: int
    size: int
    cmdline_paddr: int = 0
    reserved: int = 0

    def to_bytes(self) -> bytes:
        """Its 32 bytes; PlanError when a value does not fit."""
        try:
            return _MODULE.pack(*attrs.astuple(self))
        except struct.error as error:
            raise PlanError(f"PVH: {self!r} does not fit its fields: {error}") from error

    def __str__(self) -> str:
        text = f", its command line at {self.cmdline_paddr:#x}" if self.cmdline_paddr else ""
        return f"module at {self.paddr:#x} of {self.size} bytes{text}"


@attrs.frozen
class Handover:
    """All that a PVH kernel is told: the start info, and what it leads to."""

    memmap: tuple[E820Entry, ...] = ()
    modules: tuple[Module, ...] = ()
    cmdline_paddr: int = 0
    rsdp_paddr: int = 0
    flags: int = 0

    def start_info(self, guest_address: int) -> StartInfo:
        """The start info at that address; the module list comes behind it, then the memory map."""
        modlist = guest_address + _HEAD.size
        memmap = modlist + len(self.modules) * _MODULE.size
        return StartInfo(
            flags=self.flags,
            nr_modules=len(self.modules),
            modlist_paddr=modlist if self.modules else 0,
            cmdline_paddr=self.cmdline_paddr,
            rsdp_paddr=self.rsdp_paddr,
            memmap_paddr=memmap if self.memmap else 0,
            memmap_entries=len(self.memmap),
        )

    def to_bytes(self, guest_address: int) -> bytes:
        """The start info, the module list and the memory map in one piece, to lie at that address."""
        parts = [self.start_info(guest_address).to_bytes(), *(each.to_bytes() for each in self.modules)]
        return b"".join([*parts, *(_MEMMAP.pack(each.start, each.size_bytes, each.type, 0) for each in self.memmap)])

    @classmethod
    def read(cls, read: Read, guest_address: int) -> Self:
        """What a start info at that address leads to; PlanError when there is none, or it leads astray."""
        info = StartInfo.decode(read(guest_address, _HEAD.size))
        modules = _list(read, "nr_modules", info.nr_modules, info.modlist_paddr, _MODULE)
        memmap = _list(read, "memmap_entries", info.memmap_entries, info.memmap_paddr, _MEMMAP)
        starts = range(0, len(memmap), _MEMMAP.size)
        entries = tuple(E820Entry.from_bytes(memmap[each : each + ENTRY.size]) for each in starts)
        found = tuple(Module(*fields) for fields in _MODULE.iter_unpack(modules))
        return cls(entries, found, info.cmdline_paddr, info.rsdp_paddr, info.flags)

    def command_line(self, read: Read) -> str:
        """The command line that it leads to; empty if to none."""
        if not self.cmdline_paddr:
            return ""
        return read(self.cmdline_paddr, COMMAND_LINE_READ_BYTES).partition(b"\0")[0].decode("ascii", "replace")

    def describe(self) -> str:
        """What the kernel is told, in words, a line each."""
        lines = [f"flags {self.flags:#x}"] if self.flags else []
        if self.cmdline_paddr:
            lines.append(f"command line at {self.cmdline_paddr:#x}")
        if self.rsdp_paddr:
            lines.append(f"ACPI RSDP at {self.rsdp_paddr:#x}")
        return "\n".join([*lines, *map(str, self.modules), *(f"memmap  {each}" for each in self.memmap)])


def _list(read: Read, name: str, count: int, guest_address: int, layout: struct.Struct) -> bytes:
    """The bytes of a list that the start info leads to; none for one at address 0, which means that it is absent."""
    if count > MAX_ENTRIES:
        offset = {"nr_modules": 0xC, "memmap_entries": 0x30}[name]
        raise PlanError(f"PVH start info: {name} is {count}, more than {MAX_ENTRIES} (at offset {offset:#x})")
    return read(guest_address, count * layout.size) if guest_address else b""


def pvh_boot_params(
    command_line: str,
    layout: Layout,
    kernel: Kernel,
    initrd: Blob | None = None,
    acpi: FirmwareTables | None = None,
) -> tuple[Blob, ...]:
    """The start info and the command line for a kernel, as the pieces `PVH start info` and `command line`.

    ConfigError when the command line is longer than the kernel takes or than there is room for, PlanError when the
    memory map is longer than `layout.boot_info`.
    """
    text = command_line_bytes(command_line, layout, kernel)
    handover = Handover(
        memmap=e820(layout),
        modules=(Module(initrd.guest_address, len(initrd.content)),) if initrd else (),
        cmdline_paddr=layout.command_line.start,
        rsdp_paddr=acpi.pointer if acpi else 0,
    )
    place = layout.boot_info
    data = handover.to_bytes(place.start)
    if len(data) > place.size_bytes:
        words = f"the PVH start info and its lists have {len(data)} bytes, {place} has {place.size_bytes}"
        raise PlanError(f"{words}; reserve fewer ranges in anyvisor_memory_layout")
    return (
        Blob("PVH start info", place.start, data),
        Blob("command line", layout.command_line.start, text),
    )
