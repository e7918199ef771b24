"""VcpuEvents: what is on its way into a vCPU.

Some facts about pending and injected. An exception is pending until the processor has begun to deliver it, injected
after. KVM has told the two apart since Linux 4.20, once KVM_CAP_EXCEPTION_PAYLOAD is enabled; the backend enables it
where it can. Without it a pending exception is reported as injected, and cannot be put as pending. KVM never reports a
SIPI vector, but takes one.
"""

from __future__ import annotations

import attrs

from anyvisor.errors import Unsupported
from anyvisor.x86_64.state import VcpuEvents
from anyvisor_kvm.x86_64.abi import (
    KVM_VCPUEVENT_VALID_PAYLOAD,
    KVM_VCPUEVENT_VALID_SIPI_VECTOR,
    KVM_VCPUEVENT_VALID_TRIPLE_FAULT,
    kvm_vcpu_events,
)
from anyvisor_kvm.x86_64.convert import Fields
from anyvisor_kvm.x86_64.fds import X86VcpuFd

EVENTS = Fields(
    VcpuEvents,
    {
        "exception_injected": "exception.injected",
        "exception_pending": "exception.pending",
        "exception_vector": "exception.nr",
        "exception_has_error_code": "exception.has_error_code",
        "exception_error_code": "exception.error_code",
        "exception_has_payload": "exception_has_payload",
        "exception_payload": "exception_payload",
        "interrupt_injected": "interrupt.injected",
        "interrupt_vector": "interrupt.nr",
        "interrupt_soft": "interrupt.soft",
        "interrupt_shadow": "interrupt.shadow",
        "nmi_injected": "nmi.injected",
        "nmi_pending": "nmi.pending",
        "nmi_masked": "nmi.masked",
        "smm": "smi.smm",
        "smi_pending": "smi.pending",
        "smm_inside_nmi": "smi.smm_inside_nmi",
        "smi_latched_init": "smi.latched_init",
        "triple_fault_pending": "triple_fault.pending",
    },
)
NEEDS = {
    "exception_pending": KVM_VCPUEVENT_VALID_PAYLOAD,
    "exception_has_payload": KVM_VCPUEVENT_VALID_PAYLOAD,
    "triple_fault_pending": KVM_VCPUEVENT_VALID_TRIPLE_FAULT,
}
"""Fields that a KVM without the flag would ignore."""


def events_from_kvm(events: kvm_vcpu_events) -> VcpuEvents:
    """The events that KVM reports."""
    return EVENTS.take(events)


def get_vcpu_events(fd: X86VcpuFd) -> VcpuEvents:  # noqa: D103
    return events_from_kvm(fd.get_vcpu_events())


def put_vcpu_events(fd: X86VcpuFd, state: VcpuEvents) -> None:  # noqa: D103
    for name, flag in NEEDS.items():
        if getattr(state, name) and not fd.event_flags & flag:
            raise Unsupported(f"{fd.subject}: this KVM cannot be given {name}; {attrs.asdict(state)}")
    events = kvm_vcpu_events(flags=fd.event_flags)
    EVENTS.fill(events, state)
    if state.sipi_vector is not None:
        events.sipi_vector = state.sipi_vector
        events.flags |= KVM_VCPUEVENT_VALID_SIPI_VECTOR
    fd.set_vcpu_events(events)
