"""A guest that halts: it waits for an interrupt, or for good.

Some facts about halting. HLT ends with the next interrupt; with RFLAGS.IF clear only an NMI, an SMI or INIT ends it
(SDM Vol. 2, HLT). An idle kernel halts most of the time. So do processors beside the first that their kernel has
stopped, with interrupts off.
"""

from __future__ import annotations

import collections

from anyvisor.diagnosis.report import Cause
from anyvisor.exits import Halted
from anyvisor.x86_64.diagnosis.scene import Scene
from anyvisor.x86_64.state import Activity, MpState

HLT = 0xF4
HLT_MANUAL = "SDM Vol. 2, HLT-Halt"


def not_started(scene: Scene) -> Cause | None:
    """A processor that was watched, and that the first has not started yet."""
    state = scene.evidence.state(MpState)
    if not scene.evidence.rips or state is None:
        return None
    if state.activity not in (Activity.UNINITIALIZED, Activity.INIT_RECEIVED):
        return None
    summary = f"vCPU {scene.evidence.vcpu} waits to be started by another (INIT, then a startup IPI)"
    return Cause("not-started", summary, section="SDM Vol. 3, 9.4.4", weight=10)


def halted(scene: Scene) -> Cause | None:
    """A processor that stands behind a HLT; with interrupts on it may have been elsewhere, too, and may be now."""
    place = _usual_halt(scene) if scene.evidence.rips else _last_halt(scene)
    if scene.regs is None or place is None:
        return None
    if scene.regs.rflags.interrupt_enable or scene.rip != place:
        return _waits(scene.evidence.vcpu, scene.place(place))
    return None if scene.evidence.watched_exits else _halted_for_good(scene, place)


def _usual_halt(scene: Scene) -> int | None:
    """Where a guest that was watched stood at most looks, if that is behind a HLT."""
    usual, count = collections.Counter(scene.seen_at).most_common(1)[0]
    if 2 * count < len(scene.seen_at):
        return None
    is_there = _is_halted(scene) and scene.rip == usual
    return usual if is_there or scene.number(usual - 1, 1) == HLT else None


def _last_halt(scene: Scene) -> int | None:
    """Where a guest has halted for good, or stands and should not: an idle one that is only looked at may be well."""
    if isinstance(scene.evidence.exit, Halted):
        return scene.rip
    is_idle = scene.regs is not None and scene.regs.rflags.interrupt_enable
    may_be_well = scene.evidence.exit is not None or is_idle or scene.evidence.vcpu
    return scene.rip if _is_halted(scene) and not may_be_well else None


def _is_halted(scene: Scene) -> bool:
    state = scene.evidence.state(MpState)
    return state is not None and state.activity is Activity.HALTED


def _waits(vcpu: int, place: str) -> Cause:
    return Cause(
        "halted-waiting",
        f"vCPU {vcpu} waits in HLT for an interrupt, before {place}",
        ("an idle guest does this: it may wait for input, a timer or a device",),
        "if it should be doing something, see which interrupt it waits for and whether its device raises it: its line, "
        "the interrupt controllers, ACPI or MP tables",
        HLT_MANUAL,
        weight=25,
    )


def _halted_for_good(scene: Scene, place: int) -> Cause:
    watched = ", and nothing left the guest while it was watched" * bool(scene.evidence.rips)
    return Cause(
        "halted-interrupts-off",
        f"vCPU {scene.evidence.vcpu} is halted with interrupts off, before {scene.place(place)}: only an NMI could "
        "wake it",
        (f"RFLAGS.IF is clear{watched}",),
        "a kernel that has given up does this: see its last console lines, and the stack for who called; one that "
        "means to wait for an interrupt needs STI before HLT",
        HLT_MANUAL,
        weight=88,
    )
