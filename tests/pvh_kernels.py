"""Kernels with a PVH entry for tests, as the linker makes them: they tell what they were given."""

from __future__ import annotations

import os
import shutil
import struct
import subprocess
from pathlib import Path

import pytest

from anyvisor.x86_64.e820 import E820Type
from anyvisor.x86_64.pvh import Handover
from multiboot_kernels import Told

SOURCE = Path(__file__).with_name("pvh_teller.S")
FORMS = ("elf32", "elf64", "elf32 wide", "elf64 wide")
"""ELF files of either class, with a note of 4 bytes or of 8."""
LOADED, NOTES = 0x100000, 0x110000
SEEN = ("ebx", "eflags", "cr0", "cr4", "efer", "tr", "cs", "ds", "ss", "bss")


def assemble(folder: Path, form: str) -> Path:
    """The kernel that tells, in that form."""
    if not (shutil.which("as") and shutil.which("ld")):
        assert os.environ.get("CI") != "true"
        pytest.skip("apt-get install binutils")
    bits, emulation = ("64", "elf_x86_64") if "elf64" in form else ("32", "elf_i386")
    unlinked, kernel = folder / f"{form}.o", folder / form.replace(" ", "-")
    wide = ["--defsym", f"WIDE={int('wide' in form)}"]
    subprocess.run(["as", f"--{bits}", *wide, "-I", SOURCE.parent, "-o", unlinked, SOURCE], check=True, timeout=60)
    places = ["-Ttext", hex(LOADED), f"--section-start=.note.Xen={NOTES:#x}"]
    command = ["ld", "-m", emulation, "-N", *places, "-o", kernel, unlinked]
    subprocess.run(command, check=True, timeout=60, stderr=subprocess.DEVNULL)  # code that can be written, it warns
    return kernel


def seen(told: Told) -> dict[str, int]:
    """The registers at the first instruction, and a word of memory that must be 0."""
    return dict(zip(SEEN, struct.unpack("<10I", told.things[0][1]), strict=True))


def check_told(told: Told, command_line: str, module: bytes, memory_bytes: int) -> Handover:
    """What the ABI promises a kernel, whoever its loader is; `memory_bytes` is all of the machine's RAM."""
    registers = seen(told)
    assert (registers["cr0"] & 0xFFFFFFEF, registers["cr4"], registers["efer"]) == (1, 0, 0)
    assert registers["eflags"] & 0x20300 == 0  # neither VM nor IF nor TF
    assert 0 not in (registers["cs"], registers["ds"])
    assert registers["bss"] == 0
    assert told.things[1][0] == registers["ebx"]

    handover = Handover.read(told.read, registers["ebx"])
    assert handover.command_line(told.read) == command_line
    (found,) = handover.modules
    assert found.paddr % 4096 == 0
    assert told.read(found.paddr, found.size) == module
    assert told.read(handover.rsdp_paddr, 8) == b"RSD PTR "
    ram = [each for each in handover.memmap if each.type is E820Type.RAM]
    assert 0 <= memory_bytes - max(each.end for each in ram) <= 1 << 20  # firmware keeps some for itself
    assert any(each.start <= LOADED < each.end for each in ram)
    return handover
