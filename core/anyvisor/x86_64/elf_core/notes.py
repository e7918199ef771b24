"""The notes of a core file: what the processors' registers were, and what the kernel says of itself.

Some facts about the notes of cores. NT_PRSTATUS of the name CORE is what every debugger reads: the registers of a
thread in the order of Linux's `struct user_regs_struct`, of which there is one for x86_64 and one for i386. Here a
thread is a vCPU, whose index plus 1 is its number, since no thread has number 0. Control registers are not in it; for
those who want them (`crash` does) there is the note of the name QEMU, one a vCPU as well, in the form of QEMU's
`dump-guest-memory`. An FXSAVE area is NT_FPREGSET on x86_64; on i386 that is the older FSAVE area, and NT_PRXFPREG it.

Linux keeps a note of the name VMCOREINFO in its memory for kdump, at the beginning of a page: lines of `KEY=value` that
tell its release, how far KASLR has moved it, and how its structures look.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Mapping

import attrs

from anyvisor.memory import align_up
from anyvisor.states import VcpuState
from anyvisor.x86_64.msr_index import Msr
from anyvisor.x86_64.msrs import Msrs
from anyvisor.x86_64.state import DescriptorTable, Regs, SegmentRegister, Sregs, Xsave

States = Mapping[type[VcpuState], VcpuState]

NT_PRSTATUS, NT_FPREGSET, NT_PRXFPREG = 1, 2, 0x46E62B7F
FXSAVE_BYTES = 512
SYSTEM_CALL, NO_SYSTEM_CALL = "system call", -1
"""The number of the system call that a thread is in, among its registers."""
QEMU_VERSION = 1
VMCOREINFO = b"VMCOREINFO"
MAX_VMCOREINFO_BYTES = 4096

_HEAD = struct.Struct("<III")
_QEMU_SEGMENT = struct.Struct("<3I4xQ")
_QEMU = struct.Struct(f"<2I18Q{10 * _QEMU_SEGMENT.size}s6Q")
_NO_SEGMENT, _NO_TABLE = SegmentRegister(), DescriptorTable()


@attrs.frozen
class RegistersNote:
    """How a vCPU's registers are laid out: `status` is a `struct elf_prstatus` with the registers of these `names`.

    They have `bits` each; segment registers are in it as selectors. `floating_point` is the name and the type of the
    note that has an FXSAVE area.
    """

    status: struct.Struct
    bits: int
    names: tuple[str, ...]
    floating_point: tuple[bytes, int]

    def notes(self, index: int, states: States) -> bytes:
        """What debuggers read of a vCPU; registers whose states are not there are 0."""
        xsave, values = states.get(Xsave), _registers(states)
        area = xsave.area[:FXSAVE_BYTES] if isinstance(xsave, Xsave) else b""
        registers = [values[name] & (1 << self.bits) - 1 for name in self.names]
        status = self.status.pack(*(0,) * 6, index + 1, *(0,) * 11, *registers, bool(area))
        return note(b"CORE", NT_PRSTATUS, status) + (note(*self.floating_point, area) if area else b"")


X86_64_REGISTERS = RegistersNote(
    struct.Struct("<3ih2x2Q4i8Q27Qi4x"), 64,
    ("r15", "r14", "r13", "r12", "rbp", "rbx", "r11", "r10", "r9", "r8", "rax", "rcx", "rdx", "rsi", "rdi", SYSTEM_CALL,
     "rip", "cs", "rflags", "rsp", "ss", "fs_base", "gs_base", "ds", "es", "fs", "gs"),
    (b"CORE", NT_FPREGSET),
)  # fmt: skip
I386_REGISTERS = RegistersNote(
    struct.Struct("<3ih2x2I4i8i17Ii"), 32,
    ("rbx", "rcx", "rdx", "rsi", "rdi", "rbp", "rax", "ds", "es", "fs", "gs", SYSTEM_CALL,
     "rip", "cs", "rflags", "rsp", "ss"),
    (b"LINUX", NT_PRXFPREG),
)  # fmt: skip


def note(name: bytes, kind: int, descriptor: bytes) -> bytes:
    """A note in an ELF file (System V gABI, chapter 5, "Note Section")."""
    padded = (part.ljust(align_up(len(part), 4), b"\0") for part in (name + b"\0", descriptor))
    return _HEAD.pack(len(name) + 1, len(descriptor), kind) + b"".join(padded)


def _registers(states: States) -> dict[str, int]:
    """All registers by name, but for the control registers."""
    sregs = states.get(Sregs)
    selectors = {name: _segment(sregs, name).selector for name in ("cs", "ds", "es", "fs", "gs", "ss")}
    bases = {f"{name}_base": _segment(sregs, name).base for name in ("fs", "gs")}
    return {**attrs.asdict(_regs(states)), **selectors, **bases, SYSTEM_CALL: NO_SYSTEM_CALL}


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
