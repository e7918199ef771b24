"""The #GP of a control register or MSR that does not take what is written to it.

Some facts about such writes (SDM Vol. 3, 2.5; Vol. 2, MOV and WRMSR). A processor looks at what it would be in, and
refuses what it could not be entered in either, so the checks of a VM entry know most of the rules. With the write that
switches paging on, long mode begins, so EFER.LMA follows from the rest. With PAE paging the write of CR3, or that
switches paging on, loads the four entries of the top table, and a reserved bit in one of these is refused, too.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import attrs

from anyvisor.finding import Finding
from anyvisor.states import VcpuState
from anyvisor.x86_64 import entry_checks
from anyvisor.x86_64.control import Cr0, Cr4, Efer
from anyvisor.x86_64.cpuid import Cpuid
from anyvisor.x86_64.diagnosis.exceptions import GP
from anyvisor.x86_64.diagnosis.fault import Fault
from anyvisor.x86_64.diagnosis.instruction import REGISTERS, Instruction
from anyvisor.x86_64.diagnosis.scene import Scene
from anyvisor.x86_64.msr_index import Msr, msr_name
from anyvisor.x86_64.msrs import MsrEntry, Msrs
from anyvisor.x86_64.paging_modes import LOW_32
from anyvisor.x86_64.state import Sregs

MOV_TO_CONTROL, WRMSR, RDMSR = 0x0F22, 0x0F30, 0x0F32
KINDS: dict[str, type[Any]] = {"cr0": Cr0, "cr3": int, "cr4": Cr4}


def refused_write(scene: Scene, rip: int, instruction: Instruction) -> Iterator[Fault]:
    """The fault of a MOV to a control register, or of a WRMSR, that breaks a rule."""
    if scene.sregs is None or scene.regs is None:
        return
    found: Finding | None = None
    name, value = "", 0
    if instruction.opcode == MOV_TO_CONTROL and instruction.register is not None:
        name, value = f"cr{instruction.reg}", _value(scene, REGISTERS[instruction.register])
        found = _mode_change(scene, name, value) or _broken(scene, name, value) if name in KINDS else None
    elif instruction.opcode == WRMSR:
        index, value = _msr(scene)
        name = msr_name(index)
        found = _broken(scene, "efer", value) if index == Msr.EFER else _broken_msr(index, value)
    if found:
        why = f"the instruction writes {value:#x} to {name.upper()}, which is refused: {found.problem}"
        yield Fault(GP, rip, why, check=found.check, remedy=found.remedy)


def refused_msr(scene: Scene, rip: int, instruction: Instruction) -> Fault | None:
    """The #GP that a processor has raised at an RDMSR or WRMSR; None for another instruction."""
    if scene.regs is None or instruction.opcode not in (RDMSR, WRMSR):
        return None
    index, value = _msr(scene)
    name = msr_name(index) + f" ({index:#x})" * (index in Msr._value2member_map_)
    writes = instruction.opcode == WRMSR
    what = f"writes {value:#x} to" if writes else "reads"
    why = f"the instruction {what} {name}, and this processor refuses: it has no such register" + (
        ", or not with that value" if writes else ""
    )
    return Fault(GP, rip, why, remedy="see whether CPUID announces that register before it is used")


def _value(scene: Scene, register: str) -> int:
    return int(getattr(scene.regs, register)) & (1 << max(scene.bits, 32)) - 1


def _msr(scene: Scene) -> tuple[int, int]:
    """The number of the MSR, and what would be written."""
    assert scene.regs
    return scene.regs.rcx & LOW_32, (scene.regs.rdx & LOW_32) << 32 | scene.regs.rax & LOW_32


def _mode_change(scene: Scene, name: str, value: int) -> Finding | None:
    """The rules about the way from one mode to another."""
    assert scene.sregs
    sregs, is_paged = scene.sregs, bool(Cr0(value).pg)
    if name == "cr0" and sregs.cs.l and sregs.efer.lma and not is_paged:
        remedy = "leave 64-bit code by a far jump to a 32-bit segment first"
        return Finding("paging-stays-in-64-bit-code", "CR0", "64-bit code cannot switch paging off", remedy=remedy)
    if name == "cr0" and sregs.cs.l and sregs.efer.lme and not sregs.cr0.pg and is_paged:
        remedy = "enter long mode from a code segment without L, then jump to one that has it"
        return Finding("long-mode-from-32-bit-code", "CR0", "CS.L is set already", remedy=remedy)
    return None


def _broken(scene: Scene, name: str, value: int) -> Finding | None:
    """The first rule that the special registers would break with that value, and do not now."""
    assert scene.sregs
    fields: dict[str, Any] = {name: Efer(value) if name == "efer" else KINDS[name](value)}
    sregs: Sregs = attrs.evolve(scene.sregs, **fields)
    if name == "efer" and sregs.cr0.pg and sregs.efer.lme != scene.sregs.efer.lme:
        return Finding(
            "lme-needs-paging-off", "EFER", "LME changes while paging is on", remedy="switch paging off first"
        )
    sregs = attrs.evolve(sregs, efer=sregs.efer.replace(lma=sregs.efer.lme and sregs.cr0.pg))
    before = {each.check for each in _findings(scene, scene.sregs, loads=False)}
    loads = name == ("cr3" if scene.sregs.cr0.pg else "cr0")
    return next((each for each in _findings(scene, sregs, loads=loads) if each.check not in before), None)


def _findings(scene: Scene, sregs: Sregs, *, loads: bool) -> list[Finding]:
    """What an entry would refuse of these registers; `loads` says whether the top table of PAE paging is read."""
    states: dict[type[VcpuState], VcpuState] = {Sregs: sregs}
    cpuid = scene.evidence.planned.state(Cpuid) if scene.evidence.planned else None
    if isinstance(cpuid, Cpuid):
        states[Cpuid] = cpuid
    return entry_checks.check_states(states, read=scene.evidence.read if loads else None)


def _broken_msr(index: int, value: int) -> Finding | None:
    found = entry_checks.check_states({Msrs: Msrs((MsrEntry(index, value),))})
    return next(iter(found), None)
