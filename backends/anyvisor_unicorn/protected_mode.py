"""Event delivery in protected mode without IA-32e: 286 and 386 gates, and stacks from the TSS. Intel SDM Vol. 3, 6.12.

Two things are missing, and who meets them gets `Unsupported` instead of a guest that goes wrong later: task gates
(a task switch in hardware; 32-bit Linux has one for #DF), and events in virtual-8086 mode. The accessed flag of a
segment that delivery loads is set in the register only, not in the descriptor table.

Some facts about `hflags`: CS32 and SS32 say which size code and stack pointer have, and ADDSEG that the segments of
data have to be looked at, as they do not all start at 0.
"""

from __future__ import annotations

import struct

import attrs

from anyvisor.errors import Unsupported
from anyvisor_unicorn import layout, paging
from anyvisor_unicorn.faults import GP, NP, SS, TS, Fault
from anyvisor_unicorn.long_mode import (
    FLAG_IF,
    FLAG_NT,
    FLAG_RF,
    FLAG_TF,
    FLAG_VM,
    IN_IDT,
    IN_LDT,
    beyond_idt,
    beyond_table,
)
from anyvisor_unicorn.processor import Processor

INTERRUPT_GATES, TRAP_GATES, TASK_GATE = (0x6, 0xE), (0x7, 0xF), 0x5
IS_32_BIT = 8
"""The bit of a gate's or TSS's type that tells the 386's from the 286's."""
EXTERNAL = 1
"""Bit of an error code: not the program's own doing."""
F_ACCESSED, F_EXPAND_DOWN, F_GRANULARITY = 1 << 8, 1 << 10, 1 << 23


@attrs.frozen
class Gate:
    """An interrupt or trap gate: where the handler is, and how its frame is written."""

    selector: int
    offset: int
    privilege: int
    present: bool
    word_bytes: int
    clears_if: bool


@attrs.frozen
class LoadedSegment:
    """What a segment register holds: the selector, and from the descriptor base, limit in bytes and flags."""

    selector: int
    base: int
    limit_bytes: int
    flags: int

    @property
    def privilege(self) -> int:
        """The descriptor's privilege level."""
        return self.flags >> layout.F_DPL_SHIFT & 3

    @property
    def kind(self) -> int:
        """Whether it is code, data or of the system, and whether it can be written."""
        return self.flags & (layout.F_SYSTEM_NOT | layout.F_CODE | layout.F_WRITABLE_OR_READABLE)


WRITABLE_DATA = layout.F_SYSTEM_NOT | layout.F_WRITABLE_OR_READABLE


def enter(cpu: Processor, vector: int, error_code: int | None, *, software: bool, rflags: int) -> None:
    """Make the processor's next instruction the handler's first; Fault, with no register changed, when that fails.

    Unsupported for a task gate, and in virtual-8086 mode.
    """
    external = 0 if software else EXTERNAL
    if rflags & FLAG_VM:
        raise _unsupported(vector, "the guest is in virtual-8086 mode")
    gate = _gate(cpu, vector, external, software=software)
    code = _code_segment(cpu, gate.selector, external)
    if gate.offset > code.limit_bytes:
        reason = f"IDT entry {vector} leads to {gate.offset:#x}, beyond its code segment's limit"
        raise Fault(GP, external, reason=reason)
    esp, frame = cpu.u64[layout.RSP] & 0xFFFFFFFF, [rflags, cpu.selector(layout.CS), cpu.u64[layout.RIP]]
    switches = code.selector & 3 < cpu.privilege
    if switches:
        frame = [cpu.selector(layout.SS), esp, *frame]
        stack, esp = _inner_stack(cpu, code.selector & 3, external)
    else:
        stack = _current_stack(cpu)
    if error_code is not None:
        frame.append(error_code)
    esp = _push(cpu, stack, esp, frame, gate.word_bytes, stack.selector & ~3 if switches else 0, external)
    _load(cpu, code, stack, rflags_cleared=FLAG_IF if gate.clears_if else 0)
    cpu.u64[layout.RSP] = esp
    cpu.u64[layout.RIP] = gate.offset


def hidden_part(descriptor: int) -> tuple[int, int, int]:
    """Base, limit in bytes, and flags that a segment register takes from a descriptor. Intel SDM Vol. 3, 3.4.5."""
    flags = descriptor >> 32
    base = descriptor >> 16 & 0xFFFFFF | flags & 0xFF000000
    limit = descriptor & 0xFFFF | flags & 0xF0000
    return base, limit << 12 | 0xFFF if flags & F_GRANULARITY else limit, flags


def _gate(cpu: Processor, vector: int, external: int, *, software: bool) -> Gate:
    """The gate of a vector; #GP when there is none or the program must not use it, #NP when it is not present."""
    error_code = vector * 8 | IN_IDT | external
    if vector * 8 + 7 > cpu.limit(layout.IDT):
        raise Fault(GP, error_code, reason=beyond_idt(cpu, vector))
    word = paging.read_u64(cpu, cpu.base(layout.IDT) + vector * 8, "the IDT entry")
    kind = word >> 40 & 0x1F
    if kind not in (*INTERRUPT_GATES, *TRAP_GATES, TASK_GATE):
        raise Fault(GP, error_code, reason=f"IDT entry {vector} is no gate for a handler (type {kind:#x})")
    offset = word & 0xFFFF | (word >> 32 & 0xFFFF0000 if kind & IS_32_BIT else 0)
    word_bytes = 4 if kind & IS_32_BIT else 2
    gate = Gate(word >> 16 & 0xFFFF, offset, word >> 45 & 3, bool(word >> 47 & 1), word_bytes, kind in INTERRUPT_GATES)
    if software and gate.privilege < cpu.privilege:
        raise Fault(GP, error_code, reason=f"IDT entry {vector} is not for privilege level {cpu.privilege}")
    if not gate.present:
        raise Fault(NP, error_code, reason=f"IDT entry {vector} is not present")
    if kind == TASK_GATE:
        raise _unsupported(vector, "its IDT entry is a task gate")
    return gate


def _unsupported(vector: int, why: str) -> Unsupported:
    return Unsupported(f"delivering event {vector} to the guest: {why}, which this processor lacks; use KVM for it")


def _code_segment(cpu: Processor, selector: int, external: int) -> LoadedSegment:
    """The handler's code segment as CS will hold it; the privilege level it runs at is in the selector."""
    if not selector & ~3:
        raise Fault(GP, external, reason="the handler's code segment is the null selector")
    segment = _segment(cpu, selector, GP, external)
    error_code = selector & ~3 | external
    is_code = segment.flags & layout.F_SYSTEM_NOT and segment.flags & layout.F_CODE
    if not is_code or segment.privilege > cpu.privilege:
        raise Fault(GP, error_code, reason=f"selector {selector:#x} is no code segment for a handler")
    if not segment.flags & layout.F_PRESENT:
        raise Fault(NP, error_code, reason=f"the handler's code segment {selector:#x} is not present")
    privilege = cpu.privilege if segment.flags & layout.F_CONFORMING else segment.privilege
    return attrs.evolve(segment, selector=selector & ~3 | privilege)


def _segment(cpu: Processor, selector: int, vector: int, external: int) -> LoadedSegment:
    """What a descriptor table has for a selector; Fault(vector) when it is beyond the table's limit."""
    table = layout.LDT if selector & IN_LDT else layout.GDT
    if (selector | 7) > cpu.limit(table):
        raise Fault(vector, selector & ~3 | external, reason=beyond_table(cpu, selector))
    descriptor = paging.read_u64(cpu, cpu.base(table) + (selector & ~7), "the segment descriptor")
    base, limit_bytes, flags = hidden_part(descriptor)
    return LoadedSegment(selector, base, limit_bytes, flags | F_ACCESSED)


def _current_stack(cpu: Processor) -> LoadedSegment:
    place = layout.SS
    return LoadedSegment(cpu.selector(place), cpu.base(place), cpu.limit(place), cpu.flags(place))


def _inner_stack(cpu: Processor, privilege: int, external: int) -> tuple[LoadedSegment, int]:
    """SS and ESP that the TSS has for a privilege level; #TS when they are none, #SS when SS is not present."""
    selector, esp = _stack_of_tss(cpu, privilege, external)
    error_code = selector & ~3 | external
    if not selector & ~3 or selector & 3 != privilege:
        raise Fault(TS, error_code, reason=_wrong_stack(selector, f"is not one for privilege level {privilege}"))
    segment = _segment(cpu, selector, TS, external)
    if segment.privilege != privilege or segment.kind != WRITABLE_DATA:
        reason = _wrong_stack(selector, f"is not writable data of privilege level {privilege}")
        raise Fault(TS, error_code, reason=reason)
    if not segment.flags & layout.F_PRESENT:
        raise Fault(SS, error_code, reason=_wrong_stack(selector, "is not present"))
    return segment, esp


def _wrong_stack(selector: int, what: str) -> str:
    return f"the stack segment {selector:#x} of the TSS {what}"


def _stack_of_tss(cpu: Processor, privilege: int, external: int) -> tuple[int, int]:
    """SSn and ESPn: in a 32-bit TSS from byte 4 on, in a 16-bit one, SPn first too, from byte 2 on."""
    words = "<IH" if cpu.flags(layout.TR) >> 8 & IS_32_BIT else "<HH"
    step = 8 if words == "<IH" else 4
    offset = step // 2 + step * privilege
    if offset + step - 1 > cpu.limit(layout.TR):
        reason = f"the TSS, with a limit of {cpu.limit(layout.TR):#x}, has no stack at {offset:#x}"
        raise Fault(TS, cpu.selector(layout.TR) & ~3 | external, reason=reason)
    data = paging.read(cpu, cpu.base(layout.TR) + offset, struct.calcsize(words), "the stack pointer in the TSS")
    esp, selector = struct.unpack(words, data)
    return selector, esp


def _push(
    cpu: Processor, stack: LoadedSegment, esp: int, words: list[int], word_bytes: int, selector: int, external: int
) -> int:
    """Push words, the first first, and return ESP. A stack of 16 bits goes round; #SS for what is beyond the limit."""
    mask = 0xFFFFFFFF if stack.flags & layout.F_DB else 0xFFFF
    frame = b"".join((word & (1 << 8 * word_bytes) - 1).to_bytes(word_bytes, "little") for word in reversed(words))
    start = esp - len(frame) & mask
    for offset in range(start, start + len(frame), word_bytes):
        if not _within(stack, offset & mask, word_bytes, mask):
            reason = f"the stack at {offset & mask:#x} lies outside its segment's limit of {stack.limit_bytes:#x}"
            raise Fault(SS, selector | external, reason=reason)
    until_end = mask + 1 - start
    paging.write(cpu, stack.base + start, frame[:until_end], word_bytes)
    if until_end < len(frame):
        paging.write(cpu, stack.base, frame[until_end:], word_bytes)
    return esp & ~mask | start


def _within(stack: LoadedSegment, offset: int, size_bytes: int, mask: int) -> bool:
    """Whether a stack has these bytes; one that expands down begins behind its limit."""
    if stack.flags & F_EXPAND_DOWN:
        return offset > stack.limit_bytes and offset + size_bytes - 1 <= mask
    return offset + size_bytes - 1 <= stack.limit_bytes


def _load(cpu: Processor, code: LoadedSegment, stack: LoadedSegment, *, rflags_cleared: int) -> None:
    """Make code and stack the processor's own, with the flags that a handler starts with."""
    cpu.set_segment(layout.CS, code.selector, code.base, code.limit_bytes, code.flags)
    cpu.set_segment(layout.SS, stack.selector, stack.base, stack.limit_bytes, stack.flags)
    changed = layout.H_CPL | layout.H_INHIBIT_IRQ | layout.H_CS32 | layout.H_SS32 | layout.H_ADDSEG
    hflags = cpu.u32[layout.HFLAGS] & ~changed | code.selector & 3
    hflags |= layout.H_SS32 if stack.flags & layout.F_DB else 0
    hflags |= layout.H_CS32 if code.flags & layout.F_DB else layout.H_ADDSEG
    if any(cpu.base(segment) for segment in (layout.DS, layout.ES, layout.SS)):
        hflags |= layout.H_ADDSEG
    cpu.u32[layout.HFLAGS] = hflags
    cpu.u64[layout.RFLAGS] &= ~(FLAG_TF | FLAG_NT | FLAG_RF | FLAG_VM | rflags_cleared)
