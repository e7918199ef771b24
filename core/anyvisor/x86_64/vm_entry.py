"""The checks that a processor makes of a guest's registers when it enters it, as far as a boot plan sets them.

Some facts about VM entry (SDM Vol. 3, 27.3.1). A processor refuses to enter a guest whose registers contradict each
other, and says little about which. A plan says only some of the registers, and those that it does not set are the
hypervisor's own, so only what a plan sets is checked here. In real mode other rules hold, and a hypervisor sees to
them itself.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from anyvisor.plan import BootPlan, VcpuPlan
from anyvisor.x86_64.read_back import planned
from anyvisor.x86_64.state import Regs, SegmentRegister, Sregs

ACCESSED, READABLE, EXECUTABLE = 1, 2, 8
"""Bits of the type of a code segment; SDM Vol. 3, 3.4.5.1."""
ACCESSED_CODE = (9, 11, 13, 15)
ACCESSED_STACK = (3, 7)
LDT, BUSY_TSS16, BUSY_TSS = 2, 3, 11
RFLAGS_RESERVED = ~((1 << 22) - 1) | 1 << 15 | 1 << 5 | 1 << 3
TABLE_INDICATOR = 4


def problems(plan: BootPlan) -> list[str]:
    """Why a processor would refuse to enter the vCPUs of a plan, each with the register and the manual's section."""
    return [f"vCPU {vcpu.index}: {problem}" for vcpu in plan.vcpus for problem in _vcpu(vcpu)]


def _vcpu(vcpu: VcpuPlan) -> Iterator[str]:
    sregs, regs = planned(vcpu, Sregs), planned(vcpu, Regs)
    yield from _control(sregs)
    if sregs.get("cr0") and sregs["cr0"].pe:
        yield from _segments(sregs)
    yield from _flags(regs, sregs)


def _control(sregs: dict[str, Any]) -> Iterator[str]:
    """Control registers and EFER; SDM Vol. 3, 27.3.1.1."""
    cr0, cr4, efer = (sregs.get(name) for name in ("cr0", "cr4", "efer"))
    if cr0 is not None and cr0.pg and not cr0.pe:
        yield "CR0.PG is set without CR0.PE (SDM Vol. 3, 27.3.1.1)"
    if cr0 is not None and efer is not None and efer.lma != (efer.lme and cr0.pg):
        yield "EFER.LMA is not what EFER.LME and CR0.PG make it (SDM Vol. 3, 27.3.1.1)"
    if efer is not None and efer.lma and cr4 is not None and not cr4.pae:
        yield "long mode is active without CR4.PAE (SDM Vol. 3, 27.3.1.1)"


def _segments(sregs: dict[str, Any]) -> Iterator[str]:
    """Segment registers; SDM Vol. 3, 27.3.1.2."""
    for name in ("cs", "ss", "ds", "es", "fs", "gs", "tr", "ldt"):
        segment = sregs.get(name)
        if segment is not None:
            long_mode = bool(sregs.get("efer") and sregs["efer"].lma)
            for problem in _segment(name, segment, long_mode):
                yield f"{name.upper()} ({segment.selector:#x}) {problem} (SDM Vol. 3, 27.3.1.2)"
    cs, ss = sregs.get("cs"), sregs.get("ss")
    if cs and ss and not ss.unusable and not cs.type & 4 and cs.dpl != ss.dpl:
        yield f"CS has privilege level {cs.dpl} and SS {ss.dpl} (SDM Vol. 3, 27.3.1.2)"


def _segment(name: str, segment: SegmentRegister, long_mode: bool) -> Iterable[str]:
    if segment.unusable:
        return [f"is unusable: its {_kind(name)} is not present"] if name in ("cs", "tr") else []
    return [*_kind_problems(name, segment, long_mode), *_shape_problems(name, segment)]


def _kind(name: str) -> str:
    return {"tr": "task-state segment", "ldt": "local descriptor table"}.get(name, "segment")


def _kind_problems(name: str, segment: SegmentRegister, long_mode: bool) -> Iterator[str]:
    system = name in ("tr", "ldt")
    if segment.s == system:
        yield f"holds {'no system' if system else 'a system'} descriptor"
    elif name == "cs" and segment.type not in ACCESSED_CODE:
        yield f"holds no code segment that is marked accessed (type {segment.type:#x})"
    elif name == "ss" and segment.type not in ACCESSED_STACK:
        yield f"holds no writable data segment that is marked accessed (type {segment.type:#x})"
    elif name == "tr" and segment.type != BUSY_TSS and (long_mode or segment.type != BUSY_TSS16):
        yield f"holds no busy task-state segment (type {segment.type:#x})"
    elif name == "ldt" and segment.type != LDT:
        yield f"holds no local descriptor table (type {segment.type:#x})"
    elif not system and not segment.type & ACCESSED:
        yield f"holds a segment that is not marked accessed (type {segment.type:#x})"
    elif not system and segment.type & EXECUTABLE and not segment.type & READABLE and name != "cs":
        yield f"holds code that cannot be read (type {segment.type:#x})"
    if name == "cs" and long_mode and segment.l and segment.db:
        yield "has both L and D set"


def _shape_problems(name: str, segment: SegmentRegister) -> Iterator[str]:
    if not segment.present:
        yield f"is not present: load another {_kind(name)}, or mark the register unusable"
    if name in ("tr", "ldt") and segment.selector & TABLE_INDICATOR:
        yield "is selected from a local descriptor table"
    if name in ("cs", "ss", "ds", "es") and segment.base >> 32:
        yield f"has a base of more than 32 bits ({segment.base:#x})"
    if (segment.limit & 0xFFF != 0xFFF and segment.g) or (segment.limit >> 20 and not segment.g):
        yield f"has a limit of {segment.limit:#x}, which its granularity cannot say"


def _flags(regs: dict[str, Any], sregs: dict[str, Any]) -> Iterator[str]:
    """RIP and RFLAGS; SDM Vol. 3, 27.3.1.4."""
    flags, rip = regs.get("rflags"), regs.get("rip", 0)
    if flags is not None and (not flags.fixed or int(flags) & RFLAGS_RESERVED):
        yield f"RFLAGS is {int(flags):#x}: bit 1 must be set, and no reserved bit (SDM Vol. 3, 27.3.1.4)"
    cs = sregs.get("cs")
    if rip >> 32 and cs and not cs.l:
        yield f"RIP is {rip:#x}, beyond what code outside 64-bit mode reaches (SDM Vol. 3, 27.3.1.4)"
