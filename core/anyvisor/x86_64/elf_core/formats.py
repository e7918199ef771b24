"""What kind of ELF file a core is: that of a 64-bit guest, or that of a 32-bit one.

Some facts about the kinds. A debugger reads a core together with the guest's kernel, and believes only one that is for
the same machine. So the processors decide, as in QEMU: 64-bit kernels run in long mode only (EFER.LMA), and nothing
else does. One processor in long mode is enough, whichever died: the others of such a guest are on their way there,
started in real mode, and a 64-bit file has room for their registers too. A guest none of whose processors is in long
mode has a 32-bit file, be it a 64-bit kernel that has died on its way.

A 32-bit file has 32 bits for an address and for a place in the file, too few for a PAE guest with RAM above 4 GiB. Its
core is a file of 64 bits for EM_386, which is what QEMU and kdump make of it; crash reads it, and so does a gdb for
x86_64, with the warning that it "may not match".
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Mapping, Sequence

import attrs

from anyvisor.memory import GIB, MIB, PAGE_BYTES, align_up
from anyvisor.states import VcpuState
from anyvisor.x86_64.elf_core.notes import I386_REGISTERS, X86_64_REGISTERS, RegistersNote
from anyvisor.x86_64.elf_core.segments import Piece, Segment
from anyvisor.x86_64.state import Sregs

NARROW_END = 4 * GIB - 64 * MIB
"""RAM that ends here leaves enough of what 32 bits can count for headers and notes."""

_HEADERS = {32: struct.Struct("<16sHHIIIIIHHHHHH"), 64: struct.Struct("<16sHHIQQQIHHHHHH")}
_PROGRAM_HEADERS = {32: struct.Struct("<8I"), 64: struct.Struct("<2I6Q")}
_CLASSES = {32: 1, 64: 2}
_LITTLE_ENDIAN = 1
_CORE, _386, _X86_64, _VERSION = 4, 3, 62, 1
_LOAD, _NOTE = 1, 4
_ALL = 7
"""The flags of memory that may be read, written and executed; cores do not tell."""
_NO_ALIGNMENT = 0
"""That of all segments, by which `crash` tells a kdump from a netdump."""


@attrs.frozen
class Format:
    """A kind of core file: its class in `bits`, its machine, what notes the registers are in.

    `physical_window` is the virtual address of the physical one 0 (see `segments`). What is beyond the last address
    of a 32-bit file is at the last one there: kexec does so with memory that a kernel has not mapped.
    """

    bits: int
    machine: int
    registers: RegistersNote
    physical_window: int

    def headers(self, notes: bytes, loads: Sequence[Segment]) -> bytes:
        """All that comes before RAM, with the notes, to the end of a page."""
        header, program_header = _HEADERS[self.bits], _PROGRAM_HEADERS[self.bits]
        count = len(loads) + 1
        notes_offset = header.size + count * program_header.size
        data_offset = align_up(notes_offset + len(notes), PAGE_BYTES)
        sizes = (header.size, program_header.size, count, 0, 0, 0)
        parts = [header.pack(self._identification, _CORE, self.machine, _VERSION, 0, header.size, 0, 0, *sizes)]
        parts += [self._program_header(_NOTE, 0, notes_offset, Segment(0, 0, 0, len(notes)), 4)]
        parts += [self._program_header(_LOAD, _ALL, data_offset, each, _NO_ALIGNMENT) for each in loads]
        return b"".join([*parts, notes]).ljust(data_offset, b"\0")

    @property
    def _identification(self) -> bytes:
        return bytes([*b"\x7fELF", _CLASSES[self.bits], _LITTLE_ENDIAN, _VERSION]).ljust(16, b"\0")

    def _program_header(self, kind: int, flags: int, offset: int, segment: Segment, alignment: int) -> bytes:
        """A segment's header; its bytes are counted from `offset` on. The classes have the flags in two places."""
        virtual_address = min(segment.virtual_address, (1 << self.bits) - 1)
        addresses = (offset + segment.file_offset, virtual_address, segment.physical_address)
        sizes = (segment.size_bytes, segment.size_bytes)
        first, last = ((flags,), ()) if self.bits == 64 else ((), (flags,))
        return _PROGRAM_HEADERS[self.bits].pack(kind, *first, *addresses, *sizes, *last, alignment)


X86_64 = Format(64, _X86_64, X86_64_REGISTERS, physical_window=1 << 62)
"""Bits 47 (or 56) to 63 of an address are all alike, so none is in the window."""
I386 = Format(32, _386, I386_REGISTERS, physical_window=0xFFFF_FFFF)
"""All addresses may be in use, so the window begins with the last one, which gdb does not read rightly for it."""
I386_WIDE = attrs.evolve(I386, bits=64)


def format_of(ram: Iterable[Piece], vcpus: Iterable[Mapping[type[VcpuState], VcpuState]]) -> Format:
    """The kind of core for a guest with that RAM and those processors; a 64-bit one where no registers are known."""
    registers = [sregs for states in vcpus if isinstance(sregs := states.get(Sregs), Sregs)]
    if not registers or any(sregs.efer.lma for sregs in registers):
        return X86_64
    return I386 if all(piece.region.end <= NARROW_END for piece in ram) else I386_WIDE
