"""Why an x86_64 guest goes nowhere: it waits, polls, writes or spins. One judge for one that ended so, and a live one.

A guest that was watched (see `anyvisor.diagnosis.live.watch`) tells more: where its RIP was, and what exits it made
meanwhile. Of one that was not there are only its last state and its last exits.
"""

from __future__ import annotations

from collections.abc import Iterator

from anyvisor.diagnosis.evidence import Evidence
from anyvisor.diagnosis.report import Cause
from anyvisor.hypervisor import Vcpu
from anyvisor.x86_64.diagnosis.halts import halted, not_started
from anyvisor.x86_64.diagnosis.polls import polling
from anyvisor.x86_64.diagnosis.scene import Scene
from anyvisor.x86_64.diagnosis.spins import spinning
from anyvisor.x86_64.diagnosis.writes import writing
from anyvisor.x86_64.state import Regs

JUDGES = (not_started, halted, polling, writing, spinning)
"""The first that has something to say is right."""


def instruction_pointer(vcpu: Vcpu) -> int:
    """Where a vCPU that does not run will go on: RIP."""
    return vcpu.get(Regs).rip


def describe_halt(vcpu: Vcpu) -> str:
    """How a vCPU halted that nothing wakes, in words."""
    regs = vcpu.get(Regs)
    how = "with interrupts on, but nothing can send one" if regs.rflags.interrupt_enable else "with interrupts off"
    return f"vCPU {vcpu.index} halted {how}, before rip {regs.rip:#x}"


def describe_hang(evidence: Evidence) -> Cause | None:
    """Why a guest that was watched goes nowhere; None for one that does not look as if it hung."""
    return next(going_nowhere(Scene(evidence)), None) if evidence.rips else None


def going_nowhere(scene: Scene) -> Iterator[Cause]:
    """What a guest does that does nothing any more."""
    found = next(filter(None, (judge(scene) for judge in JUDGES)), None)
    if found:
        yield found


CAUSES = (going_nowhere,)
