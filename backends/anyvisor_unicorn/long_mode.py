"""Event delivery in IA-32e mode, from 64-bit and compatibility mode alike. Intel SDM Vol. 3, 6.14."""

from __future__ import annotations

import struct

from anyvisor_unicorn import layout, paging
from anyvisor_unicorn.faults import GP, NP, SS, TS, Fault
from anyvisor_unicorn.processor import Processor

INTERRUPT_GATE, TRAP_GATE = 0xE, 0xF
FLAG_TF, FLAG_IF, FLAG_NT, FLAG_RF, FLAG_VM = 1 << 8, 1 << 9, 1 << 14, 1 << 16, 1 << 17
RSP0_BYTES, IST1_BYTES = 4, 36
"""Where stacks stand in a 64-bit TSS."""
RSP_MASK = (1 << 64) - 1
IN_IDT, IN_LDT = 2, 4
"""Bits of an error code: the index is of the IDT, of the LDT."""


def enter(cpu: Processor, vector: int, error_code: int | None, *, software: bool, rflags: int) -> None:
    """Make the processor's next instruction the handler's first; Fault, with nothing changed, when that fails."""
    external = 0 if software else 1
    low, high = _gate(cpu, vector, external)
    privilege = cpu.privilege
    if software and low >> 45 & 3 < privilege:
        reason = f"IDT entry {vector} is not for privilege level {privilege}"
        raise Fault(GP, vector * 8 | IN_IDT, reason=reason)
    if not low >> 47 & 1:
        raise Fault(NP, vector * 8 | IN_IDT | external, reason=f"IDT entry {vector} is not present")
    selector = low >> 16 & 0xFFFF
    flags, new_privilege = _code_segment(cpu, selector, external)
    rip = low & 0xFFFF | low >> 32 & 0xFFFF0000 | (high & 0xFFFFFFFF) << 32
    if not paging.is_canonical(rip):
        raise Fault(GP, external, reason=f"IDT entry {vector} leads to {rip:#x}, which is not canonical")
    rsp = _stack(cpu, low >> 32 & 7, new_privilege, external) & ~15
    frame = struct.pack(
        "<5Q", cpu.u64[layout.RIP], cpu.selector(layout.CS), rflags, cpu.u64[layout.RSP], cpu.selector(layout.SS)
    )
    if error_code is not None:
        frame = struct.pack("<Q", error_code & 0xFFFFFFFF) + frame
    cpu.u64[layout.RSP] = _push(cpu, rsp, frame, external)
    cpu.u64[layout.RIP] = rip
    if new_privilege != privilege:
        cpu.set_segment(layout.SS, new_privilege, 0, 0, 0)
    cpu.set_segment(layout.CS, selector & ~3 | new_privilege, 0, 0xFFFFFFFF, flags)
    enter_64_bit_code(cpu, new_privilege)
    cleared = FLAG_TF | FLAG_VM | FLAG_RF | FLAG_NT | (FLAG_IF if low >> 40 & 0xF == INTERRUPT_GATE else 0)
    cpu.u64[layout.RFLAGS] &= ~cleared


def _push(cpu: Processor, rsp: int, frame: bytes, external: int) -> int:
    """Put the frame below RSP, and return where it is; #SS when that is not canonical."""
    start, top = rsp - len(frame) & RSP_MASK, rsp - 8 & RSP_MASK
    if not (paging.is_canonical(start) and paging.is_canonical(top)):
        raise Fault(SS, external, reason=f"the stack at {start:#x} is not canonical")
    paging.write(cpu, start, frame)
    return start


def enter_64_bit_code(cpu: Processor, privilege: int) -> None:
    """Let `hflags` say that CS is 64-bit code of that privilege level, and that no interrupt shadow is left."""
    left = cpu.u32[layout.HFLAGS] & ~(layout.H_CPL | layout.H_INHIBIT_IRQ | layout.H_ADDSEG)
    cpu.u32[layout.HFLAGS] = left | layout.H_CS32 | layout.H_SS32 | layout.H_CS64 | privilege


def _gate(cpu: Processor, vector: int, external: int) -> tuple[int, int]:
    """The 16 bytes of a gate; #GP when it is beyond the IDT's limit or of another kind."""
    error_code = vector * 8 | IN_IDT | external
    if vector * 16 + 15 > cpu.limit(layout.IDT):
        raise Fault(GP, error_code, reason=beyond_idt(cpu, vector))
    entry = paging.read(cpu, cpu.base(layout.IDT) + vector * 16, 16, "the IDT entry")
    low, high = struct.unpack("<QQ", entry)
    kind = low >> 40 & 0x1F
    if kind not in (INTERRUPT_GATE, TRAP_GATE):
        raise Fault(GP, error_code, reason=f"IDT entry {vector} is no gate for a handler (type {kind:#x})")
    return low, high


def beyond_idt(cpu: Processor, vector: int) -> str:
    """What is wrong with a vector that the IDT has no entry for."""
    return f"IDT entry {vector} lies beyond the IDT's limit of {cpu.limit(layout.IDT):#x}"


def _code_segment(cpu: Processor, selector: int, external: int) -> tuple[int, int]:
    """The flags of the handler's code segment, and the privilege level that it runs at."""
    if not selector & ~3:
        raise Fault(GP, external, reason="the handler's code segment is the null selector")
    error_code = selector & ~3 | external
    table = layout.LDT if selector & IN_LDT else layout.GDT
    if (selector | 7) > cpu.limit(table):
        raise Fault(GP, error_code, reason=beyond_table(cpu, selector))
    flags = paging.read_u64(cpu, cpu.base(table) + (selector & ~7), "the handler's code segment") >> 32
    privilege = flags >> layout.F_DPL_SHIFT & 3
    is_code = flags & layout.F_SYSTEM_NOT and flags & layout.F_CODE
    if not is_code or privilege > cpu.privilege or not flags & layout.F_L or flags & layout.F_DB:
        raise Fault(GP, error_code, reason=f"selector {selector:#x} is no 64-bit code segment for a handler")
    if not flags & layout.F_PRESENT:
        raise Fault(NP, error_code, reason=f"the handler's code segment {selector:#x} is not present")
    return flags & 0x00F0FF00 | 0x000F0000, cpu.privilege if flags & layout.F_CONFORMING else privilege


def beyond_table(cpu: Processor, selector: int) -> str:
    """What is wrong with a selector that its table has no entry for."""
    name, table = ("LDT", layout.LDT) if selector & IN_LDT else ("GDT", layout.GDT)
    return f"selector {selector:#x} lies beyond the {name}'s limit of {cpu.limit(table):#x}"


def _stack(cpu: Processor, ist: int, privilege: int, external: int) -> int:
    """Where the handler's stack begins: of the interrupt stack table, of the TSS, or where it is."""
    if not ist and privilege == cpu.privilege:
        return cpu.u64[layout.RSP]
    offset = IST1_BYTES + 8 * (ist - 1) if ist else RSP0_BYTES + 8 * privilege
    if offset + 7 > cpu.limit(layout.TR):
        reason = f"the TSS, with a limit of {cpu.limit(layout.TR):#x}, has no stack at {offset:#x}"
        raise Fault(TS, cpu.selector(layout.TR) & ~3 | external, reason=reason)
    return paging.read_u64(cpu, cpu.base(layout.TR) + offset, "the stack pointer in the TSS")
