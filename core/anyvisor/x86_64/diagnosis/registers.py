"""The registers by name, with their flags spelled out."""

from __future__ import annotations

from collections.abc import Iterator

from anyvisor.bits import Bits
from anyvisor.memory import PAGE_BYTES
from anyvisor.section import Section
from anyvisor.x86_64.diagnosis.scene import Scene
from anyvisor.x86_64.state import MpState, Sregs, VcpuEvents

A_LINE = 3
"""How many numbers stand in a line: as many as a terminal of 80 columns has room for."""
GENERAL = tuple("rax rbx rcx rdx rsi rdi rsp rbp r8 r9 r10 r11 r12 r13 r14 r15".split())  # noqa: SIM905


def registers(scene: Scene) -> Section:
    """All but the segment registers; says of when they are if they are not of now."""
    lines = [*_since(scene), *_general(scene), *_control(scene.sregs), *_activity(scene)]
    return Section("Registers", "\n".join(lines) or "none could be read", (scene.regs, scene.sregs))


def _since(scene: Scene) -> Iterator[str]:
    if scene.evidence.since:
        yield f"as they were at {scene.evidence.since}: the hypervisor has reset the vCPU since, so what it did from"
        yield "there on is lost (an emulated processor keeps it: --backend unicorn)"


def _general(scene: Scene) -> Iterator[str]:
    regs = scene.regs
    if regs is None or scene.rip is None:
        return
    linear = f" at {scene.far_address}, {scene.rip:#x}" * bool(scene.far_address)
    yield f"rip  {regs.rip:#018x}{linear}{scene.where(scene.rip)}"
    cells = [f"{name:<4} {getattr(regs, name):#018x}" for name in GENERAL]
    for start in range(0, len(cells), A_LINE):
        yield "  ".join(cells[start : start + A_LINE])
    yield _flags("rflags", regs.rflags)


def _control(sregs: Sregs | None) -> Iterator[str]:
    if sregs is None:
        return
    yield from (_flags(name, getattr(sregs, name)) for name in ("cr0", "cr4", "efer"))
    yield f"cr2  {sregs.cr2:#018x}  cr3  {sregs.cr3:#018x}  cr8  {sregs.cr8:#x}"
    apic, page = sregs.apic_base, sregs.apic_base.page * PAGE_BYTES
    yield f"apic_base {int(apic):#x} {apic.replace(page=0).words()}, at {page:#x}"


def _flags(name: str, value: Bits) -> str:
    return f"{name:<6} {int(value):#x} {value.words()}".rstrip()


def _activity(scene: Scene) -> Iterator[str]:
    """What the processor is doing besides running, where it is something."""
    state, events = scene.evidence.state(MpState), scene.evidence.state(VcpuEvents)
    if state and state.activity:
        yield f"activity {state.activity.name.lower()}"
    if events and (events.exception_injected or events.exception_pending):
        yield f"exception {events.exception_vector} is on its way in, error code {events.exception_error_code:#x}"
    if events and events.interrupt_injected:
        yield f"interrupt {events.interrupt_vector:#x} is on its way in"
