"""The operating modes of an x86_64 processor (SDM Vol. 3, 2.2), and the registers of a flat machine in each.

Some facts about being put into a mode. A guest gets from real mode to long mode by a dance of its own; who owns the
vCPU writes the result down at once: the control registers, and segments with their hidden parts, since no descriptor
is loaded on the way. In each mode here code and data begin at address 0.

>>> from anyvisor.x86_64.reset import reset_states
>>> sregs = next(state for state in reset_states() if isinstance(state, Sregs))
>>> enter(LONG, sregs, page_table=0x9000).efer.lma
True
"""

from __future__ import annotations

from typing import Any

import attrs

from anyvisor.x86_64.control import Cr0, Cr4, Efer
from anyvisor.x86_64.gdt import BOOT_GDT, FLAT32_GDT, Gdt
from anyvisor.x86_64.registers import BOOT_CS, BOOT_DS, BOOT_TR, DATA_SEGMENTS
from anyvisor.x86_64.state import SegmentRegister, Sregs

REAL, PROTECTED, LONG = "real", "protected", "long"
MODES = (REAL, PROTECTED, LONG)
"""Their names in `HostFacts.modes`."""

REAL_DATA = SegmentRegister(limit=0xFFFF, type=3, s=True, present=True)
REAL_CODE = attrs.evolve(REAL_DATA, type=0xB)
"""64 KiB from address 0, as loading selector 0 gives; accessed, so that the type is 3 and not 2."""


def enter(mode: str, sregs: Sregs, *, page_table: int = 0) -> Sregs:
    """`sregs` changed to that mode, flat; `page_table` is what CR3 of long mode holds. ValueError for no mode.

    Selectors are those of the Linux boot protocol: CS 0x10, DS 0x18, TR 0x20; in real mode 0.
    """
    if mode == REAL:
        data: dict[str, Any] = dict.fromkeys(DATA_SEGMENTS, REAL_DATA)
        return attrs.evolve(sregs, cs=REAL_CODE, **data, cr0=Cr0(et=True), cr4=Cr4(0), efer=Efer(0))
    if mode == PROTECTED:
        return attrs.evolve(sregs, **_flat(FLAT32_GDT), cr0=Cr0(pe=True, et=True), cr4=Cr4(0), efer=Efer(0))
    if mode == LONG:
        return attrs.evolve(
            sregs,
            **_flat(BOOT_GDT),
            cr0=Cr0(pe=True, et=True, pg=True),
            cr3=page_table,
            cr4=Cr4(pae=True),
            efer=Efer(lme=True, lma=True),
        )
    raise ValueError(f"an x86_64 processor has no mode {mode!r}; it has {', '.join(MODES)}")


def _flat(gdt: Gdt) -> dict[str, Any]:
    data = dict.fromkeys(DATA_SEGMENTS, gdt.register(BOOT_DS))
    return {"cs": gdt.register(BOOT_CS), **data, "tr": gdt.register(BOOT_TR)}
