"""Event delivery in real mode: through a table of far pointers, with nothing checked but that the table is long enough.

Virtual-8086 mode is not real mode: its events go through the IDT of protected mode. Intel SDM Vol. 3, 21.1.4.
"""

from __future__ import annotations

import struct

from anyvisor_unicorn import layout, paging
from anyvisor_unicorn.faults import GP, SS, Fault
from anyvisor_unicorn.long_mode import FLAG_IF, FLAG_RF, FLAG_TF, beyond_idt
from anyvisor_unicorn.processor import Processor

ENTRY_BYTES = 4
"""Of the interrupt vector table: an offset, and what CS is loaded with."""
FLAG_AC = 1 << 18
CLEARED = FLAG_TF | FLAG_IF | FLAG_RF | FLAG_AC
SP_MASK, WORD_BYTES = 0xFFFF, 2


def enter(cpu: Processor, vector: int, error_code: int | None, *, software: bool, rflags: int) -> None:  # noqa: ARG001
    """Make the processor's next instruction the handler's first; Fault, with nothing changed, when that fails.

    Real mode pushes no error code, so `error_code` is not looked at; nor is `software`, as there are no privileges.
    """
    if vector * ENTRY_BYTES + ENTRY_BYTES - 1 > cpu.limit(layout.IDT):
        raise Fault(GP, None, reason=beyond_idt(cpu, vector))
    entry = paging.read(cpu, cpu.base(layout.IDT) + vector * ENTRY_BYTES, ENTRY_BYTES, "the interrupt vector")
    offset, selector = struct.unpack("<HH", entry)
    frame = struct.pack("<3H", cpu.u64[layout.RIP] & 0xFFFF, cpu.selector(layout.CS), rflags & 0xFFFF)
    _push(cpu, frame)
    cpu.set_segment(layout.CS, selector, selector << 4, cpu.limit(layout.CS), cpu.flags(layout.CS))
    cpu.u64[layout.RIP] = offset
    cpu.u64[layout.RFLAGS] &= ~CLEARED
    cpu.u32[layout.HFLAGS] &= ~layout.H_INHIBIT_IRQ


def _push(cpu: Processor, frame: bytes) -> None:
    """Put words on the stack. SP goes round at 64 KiB; a word that would lie across its end is #SS."""
    rsp, base = cpu.u64[layout.RSP], cpu.base(layout.SS)
    start = rsp - len(frame) & SP_MASK
    until_end = SP_MASK + 1 - start
    if until_end < len(frame) and until_end % 2:
        raise Fault(SS, None, reason=f"the stack has a word across its end: SP is {rsp & SP_MASK:#x}")
    paging.write(cpu, base + start, frame[:until_end], WORD_BYTES)
    if until_end < len(frame):
        paging.write(cpu, base, frame[until_end:], WORD_BYTES)
    cpu.u64[layout.RSP] = rsp & ~SP_MASK | start
