"""The CPUID table that a guest is given: what the host can do, on a machine that is the guest's own.

Some facts about what the table must not carry over. A hypervisor reports features for any vCPU, but answers
with the *host's* topology and cache sharing, measured on whichever processor it was asked. Left alone, guests
believe in siblings that do not exist. So every field that counts or numbers processors is written anew from the
`Topology` (`anyvisor.x86_64.cpuid_topology`), and all of them agree with the APIC ids of `anyvisor.x86_64.topology`.

The HYPERVISOR bit of leaf 1 makes Linux look at 0x40000000 at all. TSC_DEADLINE picks the timer.

All vCPUs of a machine have the same table but for their ids. What they share is made once, and kept for the next
vCPU of the same machine.
"""

from __future__ import annotations

import functools

from anyvisor.config import Topology
from anyvisor.facts import Capability, HostFacts
from anyvisor.x86_64.cpuid import Cpuid, CpuidEntry
from anyvisor.x86_64.cpuid_topology import numbered, with_topology
from anyvisor.x86_64.features import Feature
from anyvisor.x86_64.leaves import Leaf
from anyvisor.x86_64.topology import Place

NO_PMU = (Feature.PDCM, Feature.DS, Feature.DTES64, Feature.PERF_CTR_EXT_CORE)
"""Performance counters and the debug store that they write to, which has a guest look for PEBS and BTS."""
NO_POWER_CONTROL = (Feature.TURBO_BOOST, Feature.ENERGY_PERFORMANCE_BIAS)
IN_KVM_APIC = (
    Feature.X2APIC, Feature.KVM_ASYNC_PF, Feature.KVM_ASYNC_PF_INT, Feature.KVM_ASYNC_PF_VMEXIT, Feature.KVM_PV_EOI,
    Feature.KVM_PV_SEND_IPI, Feature.KVM_PV_UNHALT,
)  # fmt: skip
"""What needs the hypervisor's own local APIC: KVM refuses their MSRs where it has none."""
CR4_MIRRORS = (Feature.OSXSAVE, Feature.OSPKE)
KEPT_TABLES = 8
"""Of how many machines what their vCPUs share is kept."""


def for_vcpu(facts: HostFacts, topology: Topology, vcpu: int, base: Cpuid | None = None) -> Cpuid:
    """The default CPUID table of vCPU number `vcpu` on that host. Errors: those of `guest_cpuid`.

    `base` is what the processor can do, that of a CPU model, which decides on the TSC-deadline timer too; by default
    all that the host can give.
    """
    place = Place.of(topology, vcpu)
    table = facts.supported_state(Cpuid) if base is None else base
    has_apics = facts.has(Capability.IRQCHIP)
    tsc_deadline = facts.has(Capability.TSC_DEADLINE) and (base is None or base.has(Feature.TSC_DEADLINE))
    return numbered(_shared(table, topology, has_apics=has_apics, tsc_deadline=tsc_deadline), place)


def guest_cpuid(host: Cpuid, topology: Topology, vcpu: int, *, tsc_deadline: bool) -> Cpuid:
    """The CPUID table of vCPU number `vcpu`: the features of `host`, the guest's own topology, no PMU.

    `tsc_deadline` says whether the APIC timer has a TSC-deadline mode. ConfigError when the topology has no
    such vCPU, no APIC id for it, or dies that this processor could not tell apart; Unsupported when `host` has no
    leaf 1.
    """
    place = Place.of(topology, vcpu)
    return numbered(_shared(host, topology, has_apics=True, tsc_deadline=tsc_deadline), place)


@functools.lru_cache(maxsize=KEPT_TABLES)
def _shared(table: Cpuid, topology: Topology, *, has_apics: bool, tsc_deadline: bool) -> Cpuid:
    """What all vCPUs of a machine have in common; `has_apics` if the hypervisor has the local APICs."""
    if not has_apics:
        table = table.without(*IN_KVM_APIC)
    return with_topology(_features(table, tsc_deadline=tsc_deadline), topology)


def _features(host: Cpuid, *, tsc_deadline: bool) -> Cpuid:
    """The feature bits: a hypervisor, no PMU, no power control."""
    cpuid = host.with_(Feature.HYPERVISOR)
    cpuid = cpuid.without(*NO_PMU, *NO_POWER_CONTROL, *CR4_MIRRORS, Feature.CMP_LEGACY)
    cpuid = cpuid.with_(Feature.TSC_DEADLINE) if tsc_deadline else cpuid.without(Feature.TSC_DEADLINE)
    cpuid = cpuid.drop(Leaf.PERFORMANCE_MONITORING_V2, Leaf.AMD_PERFORMANCE_MONITORING_V2)
    if cpuid.get(Leaf.PERFORMANCE_MONITORING):
        cpuid = cpuid.replace(CpuidEntry(Leaf.PERFORMANCE_MONITORING))
    return cpuid
