"""The local APIC's id, as the mode of the APIC has it.

Some facts about KVM's. The id register holds eight bits at its upper end, which the guest may change; in x2APIC mode it
holds all 32 of the vCPU's number, the logical destination follows from it (SDM Vol. 3, 11.12.10.2), and neither can be
changed. Where ids of 32 bits are not asked for, as by a backend without Capability.X2APIC, KVM shows eight bits of it
at the upper end there, too, and ignores what is put.
"""

from __future__ import annotations

import attrs

from anyvisor.x86_64.control import ApicBase
from anyvisor.x86_64.lapic import Lapic

CLUSTER_PROCESSORS = 16


def narrow(number: int) -> int:
    """The id register of an APIC that is not in x2APIC mode."""
    return (number & 0xFF) << 24


def switched(lapic: Lapic, number: int, before: ApicBase, after: ApicBase) -> Lapic:
    """The registers of vCPU `number` after a change of the APIC base."""
    if after.x2apic and not before.x2apic:
        return fixed(lapic, number)
    if after.enabled and not after.x2apic and (before.x2apic or not before.enabled):
        return attrs.evolve(lapic, id=narrow(number))
    return lapic


def fixed(lapic: Lapic, number: int) -> Lapic:
    """The registers in x2APIC mode: the id and what follows from it are the vCPU's own."""
    cluster, processor = divmod(number, CLUSTER_PROCESSORS)
    return attrs.evolve(lapic, id=number, logical_destination=(cluster & 0xFFFF) << 16 | 1 << processor)
