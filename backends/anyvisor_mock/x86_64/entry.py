"""What a host's processor makes of a vCPU that it is to enter: the checks of its maker, on what KVM hands to it.

Some facts about what KVM hands on (measured on kvm-amd of Linux 6.1; of Intel's it is general knowledge). Not all that
is put reaches the processor. A segment that is not present is marked unusable on Intel's, and every segment but LDTR
accessed. A vCPU that is halted is not entered at all, so no processor sees its activity. The APIC base and MTRRs are
KVM's own business, other MSRs were looked at when they were put, and the entries of PAE paging are those that KVM could
read. What a processor has is the host's to say, and not the vCPU's CPUID table.

Software KVM enters every vCPU: what a processor would refuse is a triple fault there, or nothing at all.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import attrs

from anyvisor.exits import FailEntry
from anyvisor.facts import Capability, HostFacts
from anyvisor.states import VcpuState
from anyvisor.x86_64.control import ApicBase
from anyvisor.x86_64.cpuid import Cpuid
from anyvisor.x86_64.entry_checks import AMD, INTEL, check_states
from anyvisor.x86_64.hardware_reasons import ENTRY_FAILED, SvmExit, VmxExit, entry_failure
from anyvisor.x86_64.state import DebugRegs, Regs, SegmentRegister, Sregs, VcpuEvents

LOOKED_AT: tuple[type[VcpuState], ...] = (Regs, Sregs, DebugRegs, VcpuEvents)
RULES = {"GenuineIntel": INTEL, "AuthenticAMD": AMD, "HygonGenuine": AMD}
REFUSALS = {
    INTEL: ("vmx", ENTRY_FAILED | VmxExit.INVALID_STATE),
    AMD: ("svm", SvmExit.INVALID & (1 << 32) - 1),
}
"""The extension of each maker's processors, and its code for a state that it refuses."""


def refused(states: Mapping[type[VcpuState], Any], facts: HostFacts) -> FailEntry | None:
    """The exit in place of an entry in these states; None when the host's processor enters, or is software."""
    table = next((each for each in facts.supported if isinstance(each, Cpuid)), Cpuid())
    rules = RULES.get(table.vendor)
    if rules is None or not facts.has(Capability.NATIVE):
        return None
    handed_on = {**states, Sregs: _handed_on(states[Sregs]), Cpuid: table}
    if not check_states(handed_on, rules=rules):
        return None
    extension, code = REFUSALS[rules]
    return FailEntry(code, cause=entry_failure(code, extension))


def _handed_on(sregs: Sregs) -> Sregs:
    """What the processor sees of these."""
    segments: dict[str, Any] = {
        name: attrs.evolve(value, unusable=value.unusable or not value.present)
        for name, value in attrs.asdict(sregs, recurse=False).items()
        if isinstance(value, SegmentRegister)
    }
    return attrs.evolve(sregs, **segments, apic_base=ApicBase(0))
