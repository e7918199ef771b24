"""Core files of a guest: its memory and registers as an ELF file that gdb, `crash` and drgn open.

    gdb vmlinux guest.core

RAM is in the file once, and has a program header for each run of virtual addresses that the vCPUs' page tables map, so
that a debugger reads by virtual address, and one for each region, so that tools which walk page tables themselves read
by physical address. Zeros are holes: a core is as big as the guest's RAM and takes up as much of the disk as is used.

A guest in long mode has a 64-bit file for x86_64, and any other a 32-bit one for i386 (see `formats`).
"""

from __future__ import annotations

import os
import shlex
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import BinaryIO

import attrs

from anyvisor.memory import PAGE_BYTES, Region, align_down
from anyvisor.sparse import Extent, write_sparse
from anyvisor.states import VcpuState
from anyvisor.x86_64.elf_core.formats import Format, format_of
from anyvisor.x86_64.elf_core.notes import find_vmcoreinfo, note, qemu_note, vmcoreinfo_note
from anyvisor.x86_64.elf_core.segments import Piece, load_segments, pieces
from anyvisor.x86_64.msrs import Msrs
from anyvisor.x86_64.state import Regs, Sregs, Xsave

__all__ = ["STATES", "Core", "write_core"]

STATES: tuple[type[VcpuState], ...] = (Regs, Sregs, Xsave, Msrs)
"""The states of a vCPU that go into a core, as far as they are there."""


@attrs.frozen
class Core:
    """What was written: how many `segments`, how many bytes of RAM that are not in holes.

    `vmcoreinfo` is what Linux says of itself, by key, empty where its note was not found. `left_out` says what is not
    in the file, a sentence each.
    """

    segments: int
    data_bytes: int
    vmcoreinfo: Mapping[str, str] = attrs.field(factory=dict)
    left_out: tuple[str, ...] = ()

    @property
    def kernel_offset(self) -> int:
        """How far KASLR has moved Linux; 0 where that is not known."""
        return int(self.vmcoreinfo.get("KERNELOFFSET", "0"), 16)

    def debugger(self, path: os.PathLike[str] | str) -> str:
        """The command that opens the file at `path` in gdb."""
        place = shlex.quote(os.fspath(path))
        if self.kernel_offset:
            return f"gdb -ex 'symbol-file vmlinux -o {self.kernel_offset:#x}' -c {place}"
        return f"gdb vmlinux {place}"


def write_core(
    file: os.PathLike[str] | str | BinaryIO,
    regions: Iterable[tuple[Region, memoryview]],
    vcpus: Sequence[Mapping[type[VcpuState], VcpuState]],
    *,
    touched: Callable[[Region], Iterable[Extent]] | None = None,
    left_out: Iterable[str] = (),
) -> Core:
    """Write a core of that memory and those vCPUs, whose states are given in the order of their indices.

    `file` is where to write, a new file's path or an open one with nothing in it. `touched` names the parts of a region
    that may hold something, as offsets in it (see `anyvisor.sparse`); without it all of it is looked at. States that a
    vCPU does not have are zeros in the core. `left_out` says what the caller knows to be missing, a sentence each; it
    is told in the file, with what is found to be. FileExistsError, or what else writing raises.
    """
    if isinstance(file, str | os.PathLike):
        with Path(file).open("xb") as opened:
            return write_core(opened, regions, vcpus, touched=touched, left_out=left_out)
    ram = pieces(regions)
    form = format_of(ram, vcpus)
    extents = {piece.file_offset: _extents(piece, touched) for piece in ram}
    loads, unmapped = load_segments(ram, vcpus, form.physical_window)
    missing = (*left_out, *_unknown(vcpus), *unmapped)
    vmcoreinfo = find_vmcoreinfo(_pages(ram, extents))
    headers = form.headers(_notes(form, vcpus, vmcoreinfo, missing), loads)
    file.write(headers)
    data_bytes = sum(
        write_sparse(file, len(headers) + piece.file_offset, piece.view, extents[piece.file_offset]) for piece in ram
    )
    file.truncate(len(headers) + sum(piece.region.size_bytes for piece in ram))
    file.flush()
    return Core(len(loads), data_bytes, _parsed(vmcoreinfo), missing)


def _extents(piece: Piece, touched: Callable[[Region], Iterable[Extent]] | None) -> list[Extent]:
    return list(touched(piece.region)) if touched else [(0, piece.region.size_bytes)]


def _pages(ram: Iterable[Piece], extents: Mapping[int, Iterable[Extent]]) -> Iterator[memoryview]:
    """The pages that may hold something, each with all of its region that is behind it."""
    for piece in ram:
        for start, end in extents[piece.file_offset]:
            for offset in range(align_down(start, PAGE_BYTES), end, PAGE_BYTES):
                yield piece.view[offset:]


def _unknown(vcpus: Iterable[Mapping[type[VcpuState], VcpuState]]) -> Iterator[str]:
    for index, states in enumerate(vcpus):
        if missing := [kind.__name__ for kind in (Regs, Sregs) if kind not in states]:
            yield f"{' and '.join(missing)} of vCPU {index} are not known: its registers of those are 0"


def _notes(
    form: Format, vcpus: Sequence[Mapping[type[VcpuState], VcpuState]], vmcoreinfo: bytes, missing: Sequence[str]
) -> bytes:
    """All notes. Those of a kind are together, in the order of the vCPUs, by which `crash` and drgn number them."""
    registers = [form.registers.notes(index, states) for index, states in enumerate(vcpus)]
    remarks = [note(b"ANYVISOR", 0, remark.encode()) for remark in missing]
    linux = [vmcoreinfo_note(vmcoreinfo)] if vmcoreinfo else []
    return b"".join([*registers, *map(qemu_note, vcpus), *linux, *remarks])


def _parsed(vmcoreinfo: bytes) -> dict[str, str]:
    lines = vmcoreinfo.decode("utf-8", "replace").splitlines()
    return {key: value for key, separator, value in (line.partition("=") for line in lines) if separator}
