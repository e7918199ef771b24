"""The notes of a core file: what the processors' registers were, and what the kernel says of itself.

Some facts about the notes of cores. NT_PRSTATUS of the name CORE is what every debugger reads: the registers of a
thread in the order of Linux's `struct user_regs_struct`. Here a thread is a vCPU, whose index plus 1 is its number,
since no thread has number 0. Control registers are not in it; for those who want them (`crash` does) there is the note
of the name QEMU, one a vCPU as well, in the form of QEMU's `dump-guest-memory`. NT_FPREGSET is an FXSAVE area.

Linux keeps a note of the name VMCOREINFO in its memory for kdump, at the beginning of a page: lines of `KEY=value` that
tell its release, how far KASLR has moved it, and how its structures look.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Mapping

from anyvisor.memory import align_up
from anyvisor.states import VcpuState
from anyvisor.x86_64.msr_index import Msr
from anyvisor.x86_64.msrs import Msrs
from anyvisor.x86_64.state import DescriptorTable, Regs, SegmentRegister, Sregs, Xsave

States = Mapping[type[VcpuState], VcpuState]

NT_PRSTATUS, NT_FPREGSET = 1, 2
FXSAVE_BYTES = 512
NO_SYSTEM_CALL = (1 << 64) - 1
"""In place of the number of the system call that the thread is in."""
QEMU_VERSION = 1
VMCOREINFO = b"VMCOREINFO"
MAX_VMCOREINFO_BYTES = 4096

_HEAD = struct.Struct("<III")
_PRSTATUS = struct.Struct("<3ih2x2Q4i8Q27Qi4x")
_QEMU_SEGMENT = struct.Struct("<3I4xQ")
_QEMU = struct.Struct(f"<2I18Q{10 * _QEMU_SEGMENT.size}s6Q")
_NO_SEGMENT, _NO_TABLE = SegmentRegister(), DescriptorTable()


def note(name: bytes, kind: int, descriptor: bytes) -> bytes:
    """A note in an ELF file (System V gABI, chapter 5, "Note Section")."""
    padded = (part.ljust(align_up(len(part), 4), b"\0") for part in (name + b"\0", descriptor))
    return _HEAD.pack(len(name) + 1, len(descriptor), kind) + b"".join(padded)


def registers_notes(index: int, states: States) -> bytes:
    """What debuggers read of a vCPU; registers whose states are not there are 0."""
    xsave = states.get(Xsave)
    area = xsave.area[:FXSAVE_BYTES] if isinstance(xsave, Xsave) else b""
    number = index + 1
    status = _PRSTATUS.pack(*(0,) * 6, number, *(0,) * 11, *_user_registers(states), bool(area))
    return note(b"CORE", NT_PRSTATUS, status) + (note(b"CORE", NT_FPREGSET, area) if area else b"")


def _user_registers(states: States) -> Iterable[int]:
    """The registers in the order of `struct user_regs_struct`."""
    regs, sregs = _regs(states), states.get(Sregs)
    before = ("r15", "r14", "r13", "r12", "rbp", "rbx", "r11", "r10", "r9", "r8", "rax", "rcx", "rdx", "rsi", "rdi")
    yield from (getattr(regs, name) for name in before)
    yield from (NO_SYSTEM_CALL, regs.rip, _segment(sregs, "cs").selector, regs.rflags, regs.rsp)
    yield from (_segment(sregs, "ss").selector, _segment(sregs, "fs").base, _segment(sregs, "gs").base)
    yield from (_segment(sregs, name).selector for name in ("ds", "es", "fs", "gs"))


def qemu_note(states: States) -> bytes:
    """What QEMU's `dump-guest-memory` says of a vCPU."""
    regs, sregs, msrs = _regs(states), states.get(Sregs), states.get(Msrs)
    names = ("rax", "rbx", "rcx", "rdx", "rsi", "rdi", "rsp", "rbp", *(f"r{number}" for number in range(8, 16)))
    segments = [_qemu_segment(_segment(sregs, name)) for name in ("cs", "ds", "es", "fs", "gs", "ss", "ldt", "tr")]
    tables = [sregs.gdt, sregs.idt] if isinstance(sregs, Sregs) else [_NO_TABLE] * 2
    segments += [_QEMU_SEGMENT.pack(0, table.limit, 0, table.base) for table in tables]
    control = [sregs.cr0, 0, sregs.cr2, sregs.cr3, sregs.cr4] if isinstance(sregs, Sregs) else [0] * 5
    kernel_gs_base = msrs.get(Msr.KERNEL_GS_BASE) if isinstance(msrs, Msrs) else None
    general = [*(getattr(regs, name) for name in names), regs.rip, regs.rflags]
    state = _QEMU.pack(QEMU_VERSION, _QEMU.size, *general, b"".join(segments), *control, kernel_gs_base or 0)
    return note(b"QEMU", 0, state)


def _regs(states: States) -> Regs:
    regs = states.get(Regs)
    return regs if isinstance(regs, Regs) else Regs()


def _segment(sregs: VcpuState | None, name: str) -> SegmentRegister:
    found: SegmentRegister = getattr(sregs, name, _NO_SEGMENT)
    return found


def _qemu_segment(segment: SegmentRegister) -> bytes:
    """The flags are the upper half of a descriptor, without base and limit."""
    flags = segment.type << 8 | segment.s << 12 | segment.dpl << 13 | segment.present << 15
    flags |= segment.avl << 20 | segment.l << 21 | segment.db << 22 | segment.g << 23
    return _QEMU_SEGMENT.pack(segment.selector, segment.limit, flags, segment.base)


def find_vmcoreinfo(pages: Iterable[memoryview]) -> bytes:
    """The text of Linux's VMCOREINFO note, which lies at the beginning of one of `pages`; empty when there is none.

    A view may reach beyond its page; the note is longer than one.
    """
    name = VMCOREINFO + b"\0"
    start = _HEAD.size
    for page in pages:
        if page[start : start + len(name)] == name:
            name_bytes, text_bytes, kind = _HEAD.unpack_from(page)
            text = bytes(page[align_up(start + len(name), 4) :][: min(text_bytes, MAX_VMCOREINFO_BYTES)])
            is_whole = (name_bytes, kind, text_bytes) == (len(name), 0, len(text))
            if is_whole and text.startswith(b"OSRELEASE=") and b"\0" not in text:
                return text
    return b""


def vmcoreinfo_note(text: bytes) -> bytes:
    """The note as Linux has it."""
    return note(VMCOREINFO, 0, text)
