"""What an x86_64 guest's evidence says: what happened, why, and all there is to see.

    Evidence -> Scene -> what its code does: instruction, faults, control_faults, exceptions, code_reached
                      -> what it did: ahead (a way, changed by effects), sights, changes, interrupted
                      -> causes_*, hangs, failed_checks -> Cause
                      -> registers, segments, memory_sections, exits -> Section

All look at the guest through a `Scene`: its registers, and memory as its processor sees it. `faults` says which
exception an instruction raises there, and `exceptions` where that leads. Of a guest whose registers are lost, `ahead`
follows the code from a state before. `sights` is the exception that a guest died of, `changes` what of its code is not
as it was loaded, `interrupted` where it was in real mode. Each topic makes causes of these; `causes` asks all of them,
and puts the strongest first.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator

from anyvisor.diagnosis.evidence import Evidence
from anyvisor.diagnosis.report import Cause
from anyvisor.exits import Halted
from anyvisor.finding import Finding
from anyvisor.section import Section
from anyvisor.states import VcpuState
from anyvisor.x86_64.diagnosis import (
    causes_checks,
    causes_console,
    causes_damage,
    causes_exits,
    causes_faults,
    causes_memory,
    causes_real_mode,
    causes_recursion,
    causes_unpacking,
    causes_zeros,
    exits,
    hangs,
    memory_sections,
)
from anyvisor.x86_64.diagnosis.failed_checks import failed_checks
from anyvisor.x86_64.diagnosis.registers import registers
from anyvisor.x86_64.diagnosis.scene import Scene
from anyvisor.x86_64.diagnosis.segments import segments
from anyvisor.x86_64.msrs import Msrs
from anyvisor.x86_64.state import Activity, DebugRegs, MpState, Regs, Sregs, VcpuEvents, Xcrs

STATES: tuple[type[VcpuState], ...] = (Regs, Sregs, MpState, VcpuEvents, DebugRegs, Xcrs, Msrs)
"""What to collect of a vCPU; asking for them changes nothing in a guest that goes on afterwards."""
CAUSES = (
    *causes_checks.CAUSES,
    *causes_faults.CAUSES,
    *causes_memory.CAUSES,
    *causes_zeros.CAUSES,
    *causes_real_mode.CAUSES,
    *causes_damage.CAUSES,
    *causes_recursion.CAUSES,
    *causes_exits.CAUSES,
    *hangs.CAUSES,
    *causes_unpacking.CAUSES,
    *causes_console.CAUSES,
)
"""Every look at a guest for a cause: functions of a `Scene`."""


def summary(evidence: Evidence) -> str:
    """What happened and where, in a sentence."""
    scene = Scene(evidence)
    what = _what(scene) + _waiting(evidence)
    if scene.rip is None:
        return f"vCPU {evidence.vcpu} {what}"
    since = f"; at {evidence.since} it was" if evidence.since else ","
    return f"vCPU {evidence.vcpu} {what}{since} at RIP {scene.here}, in {_mode(scene)}"


def _what(scene: Scene) -> str:
    exit_ = scene.evidence.exit
    if isinstance(exit_, Halted):
        return "has halted for good"
    return f"died: {exits.told(scene, exit_)}" if exit_ else "is looked at"


def _waiting(evidence: Evidence) -> str:
    """What an application processor does that its kernel has not started."""
    state = evidence.state(MpState)
    waits = state is not None and state.activity in (Activity.UNINITIALIZED, Activity.INIT_RECEIVED)
    return ", and waits to be started (INIT, then a startup IPI)" if waits and evidence.exit is None else ""


def _mode(scene: Scene) -> str:
    return f"{scene.mode} mode" + (f" ({scene.bits}-bit code)" if scene.mode != "real" else "")


def findings(evidence: Evidence) -> list[Finding]:
    """The checks that the vCPU's state and its plan fail."""
    return failed_checks(evidence)


def causes(evidence: Evidence, failed: Iterable[Finding]) -> list[Cause]:
    """What the guest may have died of, likeliest first."""
    scene = Scene(evidence)
    found: Iterator[Cause] = itertools.chain(
        causes_checks.broken_rules(scene, failed), *(look(scene) for look in CAUSES)
    )
    return sorted(found, key=lambda each: -each.weight)


def sections(evidence: Evidence) -> list[Section]:
    """The parts of the report."""
    scene = Scene(evidence)
    return [
        *exits.panic(evidence),
        registers(scene),
        *memory_sections.code(scene),
        *segments(scene),
        *memory_sections.page_walks(scene),
        *memory_sections.stack(scene),
        *exits.last_exits(scene),
        *exits.console(evidence),
        *exits.silent_log(scene),
    ]
