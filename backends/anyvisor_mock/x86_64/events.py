"""What is on its way into a vCPU: what KVM takes, and what it keeps of it.

Some facts about what is kept. A pending exception is not injected, and only a pending one has a payload. An interrupt
of INT n (soft) is delivered and not reported. The vector of a start-up interrupt is taken and never told.
"""

from __future__ import annotations

import attrs

from anyvisor.x86_64.state import Activity, MpState, Regs, Sregs, VcpuEvents
from anyvisor_mock.rules import Rule
from anyvisor_mock.x86_64 import rules

NMI_VECTOR, LAST_EXCEPTION = 2, 31
RESET_RIP, RESET_SELECTOR, RESET_BASE = 0xFFF0, 0xF000, 0xFFFF0000


def broken_rule(events: VcpuEvents, activity: MpState) -> tuple[Rule, str] | None:
    """The rule that these events break in a vCPU of that activity."""
    vector = events.exception_vector
    comes = events.exception_injected or events.exception_pending
    if comes and (vector > LAST_EXCEPTION or vector == NMI_VECTOR):
        return rules.EXCEPTION_VECTORS, f"vector {vector}"
    return _managed(events, activity, Activity.INIT_RECEIVED)


def broken_activity(activity: MpState, events: VcpuEvents) -> tuple[Rule, str] | None:
    """The rule that this activity breaks in a vCPU with those events."""
    return _managed(events, activity, Activity.INIT_RECEIVED, Activity.SIPI_RECEIVED)


def _managed(events: VcpuEvents, activity: MpState, *starting: Activity) -> tuple[Rule, str] | None:
    """KVM looks at more activities when one of them is put than when events are."""
    managed = events.smm or events.smi_pending
    return (rules.SMM_INIT, activity.activity.name) if managed and activity.activity in starting else None


def as_kept(events: VcpuEvents) -> VcpuEvents:
    """What is read back of these events."""
    pending = events.exception_pending
    return attrs.evolve(
        events,
        exception_injected=events.exception_injected and not pending,
        exception_has_payload=events.exception_has_payload and pending,
        interrupt_injected=events.interrupt_injected and not events.interrupt_soft,
        interrupt_soft=False,
        sipi_vector=None,
    )


def is_reset(regs: Regs, sregs: Sregs) -> bool:
    """Whether a boot processor has just been given its reset state: KVM then takes it out of HLT."""
    at_reset = (regs.rip, sregs.cs.selector, sregs.cs.base) == (RESET_RIP, RESET_SELECTOR, RESET_BASE)
    return at_reset and sregs.apic_base.bsp and not sregs.cr0.pe
