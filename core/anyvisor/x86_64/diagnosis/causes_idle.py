"""Causes of a guest that does nothing any more: it halts with interrupts off, or turns in a small loop."""

from __future__ import annotations

from collections.abc import Iterator

from anyvisor.diagnosis.report import Cause
from anyvisor.exits import Halted
from anyvisor.x86_64.diagnosis.hangs import describe_hang
from anyvisor.x86_64.diagnosis.scene import Scene
from anyvisor.x86_64.state import Activity, MpState


def halted(scene: Scene) -> Iterator[Cause]:
    """HLT with interrupts off never ends; with interrupts on it waits for one."""
    if scene.regs is None or scene.evidence.rips or not _is_halted(scene):
        return
    at = scene.place(scene.regs.rip)
    if scene.regs.rflags.interrupt_enable:
        yield Cause(
            name="halted-waiting",
            summary=f"the guest waits in HLT at {at} for an interrupt that does not come",
            because=("RFLAGS.IF is set: any interrupt would wake it",),
            remedy="an idle guest does that, too; if it should not be idle, look for the timer or device whose "
            "interrupt is missing: its line, the interrupt controllers, ACPI or MP tables",
            weight=30,
        )
        return
    yield Cause(
        name="halted-interrupts-off",
        summary=f"the guest has executed HLT at {at} with interrupts off: nothing wakes it",
        because=(f"RFLAGS.IF is clear (RFLAGS {int(scene.regs.rflags):#x})",),
        remedy="that is how kernels end when they give up: its console says why, if anything does; a guest that "
        "means to wait for an interrupt needs STI before HLT",
        section="SDM Vol. 2A, HLT",
        weight=90,
    )


def _is_halted(scene: Scene) -> bool:
    if isinstance(scene.evidence.exit, Halted):
        return True
    state = scene.evidence.state(MpState)
    return scene.evidence.exit is None and state is not None and state.activity == Activity.HALTED


def hanging(scene: Scene) -> Iterator[Cause]:
    """A guest that was watched, and goes nowhere."""
    found = describe_hang(scene.evidence)
    if found:
        yield found


CAUSES = (halted, hanging)
