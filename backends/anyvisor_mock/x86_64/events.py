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
    if (events.smm or events.smi_pending) and activity.activity is Activity.INIT_RECEIVED:
        return rules.SMM_INIT, activity.activity.name
    return None


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
