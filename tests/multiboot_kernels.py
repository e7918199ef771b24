"""Multiboot kernels for tests: headers and ELF files made by hand, and one that tells what it was given."""

from __future__ import annotations

import itertools
import os
import shutil
import struct
import subprocess
from collections.abc import Sequence
from pathlib import Path

import attrs
import pytest

import anyvisor
from anyvisor.config import MachineConfig

LOADED = 0x100000
"""Where kernels go here: to 1 MiB."""
MAGIC = 0x1BADB002
SOURCE = Path(__file__).with_name("multiboot_teller.S")
FORMS = ("elf32", "elf64", "kludge")
PAGE_ALIGN, MEMORY_INFO, VIDEO, ADDRESSES = 1, 2, 4, 0x10000
SEEN_BYTES, INFO_BYTES = 32, 88
QEMU_SECONDS = 30


def header(flags: int = PAGE_ALIGN | MEMORY_INFO, *rest: int) -> bytes:
    """A header with the right checksum; `rest` are the fields behind it."""
    return struct.pack(f"<{3 + len(rest)}I", MAGIC, flags, -(MAGIC + flags) % (1 << 32), *rest)


# fmt: off
SPEAK = bytes([0xBA, 0xE9, 0x00, 0x00, 0x00,        # mov edx, 0xe9
               *[0xEE, 0xC1, 0xE8, 0x08] * 4,       # out dx, al; shr eax, 8: four times
               0x89, 0xD8,                          # mov eax, ebx
               *[0xEE, 0xC1, 0xE8, 0x08] * 4,
               *[part for at in (0x00, 0x04, 0x08)  # flags, mem_lower, mem_upper
                 for part in (0x8B, 0x43, at, *[0xEE, 0xC1, 0xE8, 0x08] * 4)],  # mov eax, [ebx + at]
               0xB0, 0xFE, 0xE6, 0x64,              # mov al, 0xfe; out 0x64, al: the keyboard controller's reset
               0xF4, 0xEB, 0xFD])                   # hlt; jmp back to it
# fmt: on
"""Says EAX, EBX and the first three numbers of the structure there to the debug console, and resets the machine."""


def elf32(
    segments: Sequence[tuple[int, bytes, int]] = ((LOADED, header() + SPEAK, 0x1000),),
    *,
    entry: int = LOADED + 12,
    virtual: int = 0,
) -> bytes:
    """An ELF32 executable for i386; each segment is (guest address, bytes, bytes in memory).

    `virtual` is how far above its physical address each is linked.
    """
    ident = b"\x7fELF\x01\x01\x01" + bytes(9)
    fields = (2, 3, 1, entry + virtual, 52, 0, 0, 52, 32, len(segments), 0, 0, 0)
    table, data = b"", b""
    for address, content, memory_bytes in segments:
        offset = 52 + 32 * len(segments) + len(data)
        table += struct.pack("<8I", 1, offset, address + virtual, address, len(content), memory_bytes, 7, 4)
        data += content
    return struct.pack("<16sHHIIIIIHHHHHH", ident, *fields) + table + data


def flat(
    code: bytes = SPEAK, *, before: bytes = b"", load: int = LOADED, load_end: int = 0, bss_end: int = 0, skip: int = 0
) -> bytes:
    """A file of no format but a header with addresses, behind `before`, of which the first `skip` bytes stay out."""
    at = load + len(before) - skip
    return before + header(ADDRESSES, at, load, load_end, bss_end, at + 32) + code


def assemble(folder: Path, form: str, flags: int = PAGE_ALIGN | MEMORY_INFO) -> Path:
    """The kernel that tells, as the linker makes it: an ELF file of either class, or one whose header has addresses.

    The last is an ELF file as well, linked for another place than its header says.
    """
    if not (shutil.which("as") and shutil.which("ld")):
        assert os.environ.get("CI") != "true"
        pytest.skip("apt-get install binutils")
    kludge = form == "kludge"
    bits, emulation = ("64", "elf_x86_64") if form == "elf64" else ("32", "elf_i386")
    symbols = ["--defsym", f"FLAGS={flags | (ADDRESSES if kludge else 0):#x}", *(["--defsym", "KLUDGE=1"] * kludge)]
    unlinked, kernel = folder / f"{form}.o", folder / f"teller-{form}"
    subprocess.run(["as", f"--{bits}", *symbols, "-I", SOURCE.parent, "-o", unlinked, SOURCE], check=True, timeout=60)
    output = ["--oformat", "binary"] if kludge else []
    command = ["ld", "-m", emulation, "-N", "-Ttext", hex(LOADED), *output, "-o", kernel, unlinked]
    subprocess.run(command, check=True, timeout=60, stderr=subprocess.DEVNULL)  # code that can be written, it warns
    return kernel


@attrs.frozen
class Told:
    """What the kernel told: things in order, each an address and the bytes there."""

    things: tuple[tuple[int, bytes], ...]

    @classmethod
    def parse(cls, data: bytes) -> Told:
        """The things in what came out of the debug console."""
        things, at = [], 0
        while at < len(data):
            address, length = struct.unpack_from("<II", data, at)
            assert at + 8 + length <= len(data), f"{length} bytes at {address:#x} were to come, {len(data)} came in all"
            things.append((address, data[at + 8 : at + 8 + length]))
            at += 8 + length
        return cls(tuple(things))

    @property
    def seen(self) -> dict[str, int]:
        """The registers at the first instruction, and a word of memory that must be 0."""
        names = ("eax", "ebx", "eflags", "cr0", "cs", "ds", "ss", "bss")
        return dict(zip(names, struct.unpack("<8I", self.things[0][1]), strict=True))

    def read(self, address: int, size_bytes: int) -> bytes:
        """Guest memory, as far as it was told; zeros elsewhere."""
        found = bytearray(size_bytes)
        for start, data in self.things:
            for at in range(max(start, address), min(start + len(data), address + size_bytes)):
                found[at - address] = data[at - start]
        return bytes(found)


def told_by_qemu(kernel: Path, folder: Path, command_line: str, memory: str, modules: str = "") -> Told:
    """What the kernel tells on QEMU, whose own loader loads it."""
    console = folder / "debugcon"
    machine = ["-M", "pc", "-accel", "tcg", "-m", memory, "-nodefaults", "-display", "none", "-no-reboot"]
    command = [
        "qemu-system-x86_64", *machine, "-debugcon", f"file:{console}",
        "-kernel", str(kernel), "-append", command_line, *(["-initrd", modules] if modules else []),
    ]  # fmt: skip
    subprocess.run(command, check=True, timeout=QEMU_SECONDS, stdin=subprocess.DEVNULL)
    return Told.parse(console.read_bytes())


def spoken(config: MachineConfig, backend: object) -> bytes:
    """What a kernel says to the debug console of a machine that boots it, up to its reset."""
    with anyvisor.boot(config, backend=backend) as machine:
        assert machine.wait(20).reason == "reset"
        return machine.consoles["debug"].read_output()[0]


def check_told(told: Told, loader: str, command_line: str, module: bytes, memory_bytes: int) -> None:
    """What the specification promises a kernel, whoever its loader is; `memory_bytes` is all of the machine's RAM."""
    seen = told.seen
    assert seen["eax"] == 0x2BADB002
    assert (seen["cr0"] & 0x80000001, seen["eflags"] & 0x20200) == (1, 0)  # PE without PG; neither VM nor IF
    assert seen["cs"] not in (0, seen["ds"])
    assert seen["ds"] == seen["ss"] != 0
    assert seen["bss"] == 0

    address, info = told.things[1]
    assert address == seen["ebx"]
    flags, lower, upper, _, cmdline, mods_count, mods_addr = struct.unpack_from("<7I", info)
    mmap_length, mmap_addr = struct.unpack_from("<II", info, 44)
    assert flags & 0b1001001101 == 0b1001001101  # memory, command line, modules, memory map, loader's name
    assert _string(told, cmdline) == command_line
    assert _string(told, *struct.unpack_from("<I", info, 64)) == loader

    assert mods_count == 1
    start, end, string, _ = struct.unpack("<4I", told.read(mods_addr, 16))
    assert start % 4096 == 0
    assert told.read(start, end - start) == module
    assert Path(_string(told, string)).name == "module"
    ranges = list(struct.iter_unpack("<IQQI", told.read(mmap_addr, mmap_length)))
    assert {size for size, *_ in ranges} == {20}
    _check_memory(ranges, lower, upper, memory_bytes)


def _string(told: Told, address: int) -> str:
    return told.read(address, 1024).partition(b"\0")[0].decode()


def _check_memory(ranges: Sequence[tuple[int, int, int, int]], lower: int, upper: int, memory_bytes: int) -> None:
    """The memory map is sorted and has no overlaps; what the other fields say of RAM is what it says."""
    assert all(one[1] + one[2] <= two[1] for one, two in itertools.pairwise(ranges))
    ram = {start: length for _, start, length, kind in ranges if kind == 1}
    assert (ram[0], ram[LOADED]) == (lower << 10, upper << 10)
    assert lower <= 640
    assert 0 <= memory_bytes - (LOADED + ram[LOADED]) <= 1 << 20  # firmware keeps some for itself
