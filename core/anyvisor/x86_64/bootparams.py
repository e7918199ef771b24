"""The zero page: what a boot loader tells a Linux kernel on x86 (`struct boot_params`).

Some facts about it (Documentation/arch/x86/boot.rst, zero-page.rst). It is one page, and RSI points to it at
the kernel's first instruction. All of it is zero but the setup header, copied from the image, and what the
loader has to say: the memory map, the command line, the initrd, the ACPI tables. The byte `sentinel` tells a
kernel that a loader copied more of the image than its header; it stays 0. Addresses beyond 4 GiB have their
high half in fields called `ext_`.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable
from typing import TYPE_CHECKING

import attrs

from anyvisor.errors import ConfigError, PlanError
from anyvisor.image_file import ImageFile
from anyvisor.memory import PAGE_BYTES, Region, format_size
from anyvisor.plan import Blob, FileSlice, FirmwareTables, Kernel
from anyvisor.x86_64 import setup_header
from anyvisor.x86_64.e820 import ENTRY, MAX_ENTRIES, E820Entry, e820
from anyvisor.x86_64.layout import Layout
from anyvisor.x86_64.placement import highest_room
from anyvisor.x86_64.setup_header import LoadFlags, SetupHeader

if TYPE_CHECKING:
    from anyvisor.config import MachineConfig
    from anyvisor.facts import HostFacts

SIZE_BYTES = 4096
ACPI_RSDP_ADDR, EXT_RAMDISK_IMAGE, EXT_RAMDISK_SIZE, EXT_CMD_LINE_PTR = 0x070, 0x0C0, 0x0C4, 0x0C8
E820_ENTRIES, SENTINEL, E820_TABLE = 0x1E8, 0x1EF, 0x2D0
UNDEFINED_LOADER = 0xFF
"""`type_of_loader` of a loader that has no number of its own."""
LOW_HALF = (1 << 32) - 1
MOST_COMMAND_LINE_BYTES = 1 << 16
"""As much of a command line as is read, whatever the header says; no kernel takes more."""

ELF_HEADER = SetupHeader(
    boot_flag=setup_header.BOOT_FLAG,
    header=setup_header.SIGNATURE,
    version=0x20F,
    loadflags=LoadFlags(loaded_high=True),
    kernel_alignment=0x1000000,
)
"""The setup header for a kernel that brings none."""


@attrs.frozen
class BootParams:
    """The zero page as a value: the setup header, the memory map, and the other fields that we fill in."""

    header: SetupHeader
    e820: tuple[E820Entry, ...] = ()
    acpi_rsdp_addr: int = 0
    ext_ramdisk_image: int = 0
    ext_ramdisk_size: int = 0
    ext_cmd_line_ptr: int = 0

    @property
    def command_line_address(self) -> int:
        """Where the command line lies."""
        return self.ext_cmd_line_ptr << 32 | self.header.cmd_line_ptr

    def command_line(self, read: Callable[[int, int], bytes]) -> str:
        """The command line that it leads to; `read(guest_address, size_bytes)` reads guest memory."""
        longest = min(self.header.cmdline_size, MOST_COMMAND_LINE_BYTES) + 1
        return read(self.command_line_address, longest).partition(b"\0")[0].decode("ascii", "replace")

    @property
    def initrd(self) -> Region | None:
        """Where the initrd lies, if there is one."""
        start = self.ext_ramdisk_image << 32 | self.header.ramdisk_image
        size_bytes = self.ext_ramdisk_size << 32 | self.header.ramdisk_size
        return Region(start, size_bytes, "initrd") if size_bytes else None

    def with_command_line(self, guest_address: int) -> BootParams:
        """The same with the command line at that address."""
        header = attrs.evolve(self.header, cmd_line_ptr=guest_address & LOW_HALF)
        return attrs.evolve(self, header=header, ext_cmd_line_ptr=guest_address >> 32)

    def with_initrd(self, initrd: Blob) -> BootParams:
        """The same with that initrd."""
        address, size_bytes = initrd.guest_address, len(initrd.content)
        header = attrs.evolve(self.header, ramdisk_image=address & LOW_HALF, ramdisk_size=size_bytes & LOW_HALF)
        return attrs.evolve(self, header=header, ext_ramdisk_image=address >> 32, ext_ramdisk_size=size_bytes >> 32)

    def to_bytes(self) -> bytes:
        """The page. PlanError when there are more than 128 memory map entries or a value does not fit."""
        if len(self.e820) > MAX_ENTRIES:
            raise PlanError(f"{len(self.e820)} memory map entries do not fit the zero page's {MAX_ENTRIES}")
        page = bytearray(SIZE_BYTES)
        for offset, width, name in _NUMBERS:
            page[offset : offset + width] = _number(name, getattr(self, name), width)
        page[E820_ENTRIES] = len(self.e820)
        table = b"".join(entry.to_bytes() for entry in self.e820)
        page[E820_TABLE : E820_TABLE + len(table)] = table
        header = self.header.to_bytes()
        page[setup_header.START : setup_header.START + len(header)] = header
        return bytes(page)

    @classmethod
    def from_bytes(cls, page: bytes) -> BootParams:
        """The value of a zero page; PlanError when it is none."""
        if len(page) != SIZE_BYTES:
            raise PlanError(f"a zero page has {SIZE_BYTES} bytes, not {len(page)}")
        if page[E820_ENTRIES] > MAX_ENTRIES:
            raise PlanError(f"zero page claims {page[E820_ENTRIES]} memory map entries of at most {MAX_ENTRIES}")
        end = E820_TABLE + page[E820_ENTRIES] * ENTRY.size
        starts = range(E820_TABLE, end, ENTRY.size)
        entries = tuple(E820Entry.from_bytes(page[each : each + ENTRY.size]) for each in starts)
        header = SetupHeader.from_bytes(page[setup_header.START : setup_header.END_LIMIT])
        known = attrs.evolve(header, unknown=header.unknown.rstrip(b"\0"))
        numbers = {name: int.from_bytes(page[at : at + width], "little") for at, width, name in _NUMBERS}
        return cls(known, entries, **numbers)

    def describe(self) -> str:
        """The page as text: the setup header's fields that are not 0 by name, the rest, the memory map."""
        numbers = [(at, name, getattr(self, name)) for at, _, name in _NUMBERS]
        lines = [f"{at:#05x}  {name:<22}{value:#x}" for at, name, value in numbers if value]
        starts = itertools.count(E820_TABLE, ENTRY.size)
        e820_lines = (f"{at:#05x}  e820  {entry}" for at, entry in zip(starts, self.e820, strict=False))
        return "\n".join([*lines, self.header.describe(), *e820_lines])


_NUMBERS = (
    (ACPI_RSDP_ADDR, 8, "acpi_rsdp_addr"),
    (EXT_RAMDISK_IMAGE, 4, "ext_ramdisk_image"),
    (EXT_RAMDISK_SIZE, 4, "ext_ramdisk_size"),
    (EXT_CMD_LINE_PTR, 4, "ext_cmd_line_ptr"),
)


def tell_tsc(command_line: str, tsc_khz: int) -> str:
    """The command line with the TSC's speed in front, for a kernel that could not measure it; 0 leaves it as it is.

    A kernel that is told so already, by `tsc=` or `tsc_early_khz=`, is not told again.
    """
    if not tsc_khz or any(word.startswith(("tsc=", "tsc_early_khz=")) for word in command_line.split()):
        return command_line
    return f"tsc=reliable tsc_early_khz={tsc_khz} {command_line}".rstrip()


def told_command_line(config: MachineConfig, facts: HostFacts) -> str:
    """The configured command line, with the speed of a TSC that the guest could not measure."""
    return tell_tsc(config.command_line, 0 if config.deterministic else facts.tsc_khz)


def boot_params(
    command_line: str,
    layout: Layout,
    kernel: Kernel,
    initrd: Blob | None = None,
    acpi: FirmwareTables | None = None,
) -> tuple[Blob, ...]:
    """The zero page and the command line for a kernel, as the pieces `zero page` and `command line`.

    ConfigError when the command line is longer than the kernel takes or than there is room for.
    """
    text = command_line_bytes(command_line, layout, kernel)
    params = BootParams(
        header=_loader_header(kernel), e820=e820(layout), acpi_rsdp_addr=acpi.pointer if acpi else 0
    ).with_command_line(layout.command_line.start)
    if initrd:
        params = params.with_initrd(initrd)
    return (
        Blob("zero page", layout.zero_page, params.to_bytes()),
        Blob("command line", layout.command_line.start, text),
    )


def place_initrd(path: os.PathLike[str] | str, layout: Layout, kernel: Kernel, *avoid: Region) -> Blob:
    """The initrd in a file, page aligned, clear of `avoid`, as high as the kernel allows below the MMIO gap.

    KernelImageError when the file cannot be read, is empty, or there is no room for it.
    """
    image = ImageFile.open(path, "initrd")
    below = min(kernel.initrd_limit + 1, layout.low_ram_end)
    taken = [*(blob.region for blob in kernel.blobs), *avoid, *layout.reserved]
    address = highest_room(below, image.size_bytes, PAGE_BYTES, taken)
    if address < layout.kernel:
        room = f"{layout.kernel:#x}-{below - 1:#x}, less the kernel's {format_size(_size(kernel))}"
        words = f"the initrd's {format_size(image.size_bytes)} do not fit into RAM ({room})"
        raise image.error(f"{words}; give the machine more memory")
    return Blob("initrd", address, FileSlice(image.path, 0, image.size_bytes))


def _size(kernel: Kernel) -> int:
    return sum(blob.size_bytes for blob in kernel.blobs)


def command_line_bytes(command_line: str, layout: Layout, kernel: Kernel) -> bytes:
    """The command line's bytes with the closing NUL; ConfigError when it is no plain text, or too long."""
    try:
        text = command_line.encode("ascii")
    except UnicodeEncodeError as error:
        raise ConfigError(f"command_line: {command_line[error.start]!r} is not ASCII; write it escaped") from error
    if b"\0" in text:
        raise ConfigError("command_line: there is a NUL in it, where the kernel would stop reading; remove it")
    limit = min(kernel.command_line_limit, layout.command_line.size_bytes - 1)
    if len(text) > limit:
        whose = "this kernel takes" if limit == kernel.command_line_limit else "there is room for"
        raise ConfigError(f"command_line: has {len(text)} bytes, {whose} {limit}; make it shorter")
    return text + b"\0"


def _loader_header(kernel: Kernel) -> SetupHeader:
    """The kernel's setup header with the loader's answers in it."""
    if kernel.setup_header:
        header = SetupHeader.from_bytes(kernel.setup_header)
    else:
        header = attrs.evolve(ELF_HEADER, cmdline_size=kernel.command_line_limit, initrd_addr_max=kernel.initrd_limit)
    return attrs.evolve(
        header,
        type_of_loader=UNDEFINED_LOADER,
        ext_loader_ver=0,
        ext_loader_type=0,
        loadflags=header.loadflags.replace(can_use_heap=False),
        ramdisk_image=0,
        ramdisk_size=0,
        setup_data=0,
    )


def _number(name: str, value: int, width: int) -> bytes:
    try:
        return value.to_bytes(width, "little")
    except OverflowError as error:
        raise PlanError(f"zero page: {name}={value:#x} does not fit in {width} bytes") from error
