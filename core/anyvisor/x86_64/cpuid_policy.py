"""The CPUID table that a guest is given: what the host can do, on a machine that is the guest's own.

Some facts about what the table must not carry over. A hypervisor reports features for any vCPU, but answers
with the *host's* topology and cache sharing, measured on whichever processor it was asked. Left alone, guests
believe in siblings that do not exist. So every field that counts or numbers processors is written anew here,
from the `Topology`, and all of them agree with the APIC ids of `anyvisor.x86_64.topology`.

What Linux reads where (arch/x86/kernel/cpu: topology_ext.c, topology_amd.c, topology_common.c, cacheinfo.c):

* Intel: leaf 0x1F, else 0xB, for threads, cores and the APIC id; else HTT and EBX of leaf 1 with EAX of leaf
  4.
* AMD and Hygon: with TopologyExtensions 0x80000026, else 0xB; else ECX of 0x80000008, and threads from
  0x8000001E. The APIC id and the node come from 0x8000001E.
* Caches: leaf 4 on Intel, 0x8000001D on AMD with TopologyExtensions. Who shares one is found by shifting APIC
  ids, so "processors sharing" counts ids, a power of two, not vCPUs.
* The HYPERVISOR bit of leaf 1 makes Linux look at 0x40000000 at all. TSC_DEADLINE picks the timer.

Leaf 0xB is Intel's, but AMD has it too since Zen 2, and for the hypervisor it is only a table; every guest
whose highest basic leaf reaches it gets it. 0x80000026 only adds levels that a guest here does not have, and
is left out.
"""

from __future__ import annotations

from anyvisor.config import Topology
from anyvisor.facts import Capability, HostFacts
from anyvisor.x86_64.cpuid import Cpuid, CpuidEntry
from anyvisor.x86_64.features import Feature
from anyvisor.x86_64.leaves import (
    AmdCore,
    AmdNode,
    AmdSizes,
    CacheInfo,
    Leaf,
    Level,
    LevelType,
    ProcessorInfo,
    TlbInfo,
)
from anyvisor.x86_64.topology import Place, core_bits, thread_bits

AMD_VENDORS = frozenset({"AuthenticAMD", "HygonGenuine"})
NO_PMU = (Feature.PDCM, Feature.DS, Feature.DTES64, Feature.PERF_CTR_EXT_CORE)
"""Performance counters and the debug store that they write to, which has a guest look for PEBS and BTS."""
NO_POWER_CONTROL = (Feature.TURBO_BOOST, Feature.ENERGY_PERFORMANCE_BIAS)
IN_KVM_APIC = (
    Feature.X2APIC, Feature.KVM_ASYNC_PF, Feature.KVM_ASYNC_PF_INT, Feature.KVM_ASYNC_PF_VMEXIT, Feature.KVM_PV_EOI,
    Feature.KVM_PV_SEND_IPI, Feature.KVM_PV_UNHALT,
)  # fmt: skip
"""What needs the hypervisor's own local APIC: KVM refuses their MSRs where it has none."""
CR4_MIRRORS = (Feature.OSXSAVE, Feature.OSPKE)


def for_vcpu(facts: HostFacts, topology: Topology, vcpu: int) -> Cpuid:
    """The default CPUID table of vCPU number `vcpu` on that host. Errors: those of `guest_cpuid`."""
    host = facts.supported_state(Cpuid)
    if not facts.has(Capability.IRQCHIP):
        host = host.without(*IN_KVM_APIC)
    return guest_cpuid(host, topology, vcpu, tsc_deadline=facts.has(Capability.TSC_DEADLINE))


def guest_cpuid(host: Cpuid, topology: Topology, vcpu: int, *, tsc_deadline: bool) -> Cpuid:
    """The CPUID table of vCPU number `vcpu`: the features of `host`, the guest's own topology, no PMU.

    `tsc_deadline` says whether the APIC timer has a TSC-deadline mode. ConfigError when the topology has no
    such vCPU, or no APIC id for it; Unsupported when `host` has no leaf 1.
    """
    place = Place.of(topology, vcpu)
    cpuid = _features(host, topology, tsc_deadline=tsc_deadline)
    cpuid = _processor(cpuid, place)
    cpuid = _caches(cpuid, topology)
    cpuid = _levels(cpuid, place)
    return _amd(cpuid, place)


def _features(host: Cpuid, topology: Topology, *, tsc_deadline: bool) -> Cpuid:
    """The feature bits: a hypervisor, no PMU, no power control, HTT only where there are siblings."""
    cpuid = host.with_(Feature.HYPERVISOR)
    cpuid = cpuid.without(*NO_PMU, *NO_POWER_CONTROL, *CR4_MIRRORS, Feature.HTT, Feature.CMP_LEGACY)
    cpuid = cpuid.with_(Feature.TSC_DEADLINE) if tsc_deadline else cpuid.without(Feature.TSC_DEADLINE)
    cpuid = cpuid.drop(Leaf.PERFORMANCE_MONITORING_V2, Leaf.AMD_PERFORMANCE_MONITORING_V2)
    if cpuid.get(Leaf.PERFORMANCE_MONITORING):
        cpuid = cpuid.replace(CpuidEntry(Leaf.PERFORMANCE_MONITORING))
    return cpuid.with_(Feature.HTT) if _package_vcpus(topology) > 1 else cpuid


def _processor(cpuid: Cpuid, place: Place) -> Cpuid:
    """Leaf 1 EBX: the APIC id, and how many ids (Intel) or processors (AMD) a package of several has."""
    count = _package_vcpus(place.topology)
    if not _is_amd(cpuid):
        count = min(_package_ids(place.topology), 255)  # the field's most, and that rounds up to 256 again
    entry = cpuid[Leaf.PROCESSOR]
    info = ProcessorInfo(entry.ebx).replace(
        logical_processors=count if _package_vcpus(place.topology) > 1 else 0, initial_apic_id=place.apic_id
    )
    return cpuid.replace(entry.replace(ebx=int(info)))


def _caches(cpuid: Cpuid, topology: Topology) -> Cpuid:
    """Leaves 4, 0x18 and 0x8000001D: which of this guest's processors share each cache and TLB."""
    caches = [_cache(each, topology) for each in cpuid.subleaves(Leaf.CACHES)]
    tlbs = [_tlb(each, topology) for each in cpuid.subleaves(Leaf.TLBS)]
    amd_caches = [_cache(each, topology) for each in cpuid.subleaves(Leaf.AMD_CACHES)]
    return cpuid.replace(*caches, *tlbs, *amd_caches)


def _cache(entry: CpuidEntry, topology: Topology) -> CpuidEntry:
    info = CacheInfo(entry.eax)
    if not info.type:
        return entry
    ids = _core_ids(topology) if info.level <= 2 else _package_ids(topology)
    info = info.replace(processors_sharing_less_one=ids - 1)
    if entry.leaf == Leaf.CACHES:
        info = info.replace(cores_in_package_less_one=min((1 << core_bits(topology)) - 1, 63))
    return entry.replace(eax=int(info))


def _tlb(entry: CpuidEntry, topology: Topology) -> CpuidEntry:
    info = TlbInfo(entry.edx)
    if not info.type:
        return entry
    return entry.replace(edx=int(info.replace(processors_sharing_less_one=_core_ids(topology) - 1)))


def _levels(cpuid: Cpuid, place: Place) -> Cpuid:
    """Leaves 0xB and, on Intel, 0x1F: the threads of a core, the cores of a package, the end of the list."""
    leaves = [Leaf.TOPOLOGY] if _is_amd(cpuid) else [Leaf.TOPOLOGY, Leaf.TOPOLOGY_V2]
    cpuid = cpuid.drop(Leaf.TOPOLOGY, Leaf.TOPOLOGY_V2, Leaf.AMD_TOPOLOGY_V2)
    for leaf in leaves:
        if leaf <= cpuid.max_leaf:
            cpuid = cpuid.replace(*_level_entries(leaf, place))
    return cpuid


def _level_entries(leaf: Leaf, place: Place) -> list[CpuidEntry]:
    topology = place.topology
    package_bits = thread_bits(topology) + core_bits(topology)
    levels = [
        (LevelType.SMT, thread_bits(topology), topology.threads),
        (LevelType.CORE, package_bits, _package_vcpus(topology)),
        (LevelType.NONE, 0, 0),
    ]
    return [
        CpuidEntry(leaf, i, shift, count, int(Level(number=i, type=kind)), place.apic_id)
        for i, (kind, shift, count) in enumerate(levels)
    ]


def _amd(cpuid: Cpuid, place: Place) -> Cpuid:
    """AMD's own leaves; on other makers' processors they are left out."""
    if not _is_amd(cpuid):
        return cpuid.drop(Leaf.AMD_CACHES, Leaf.AMD_TOPOLOGY)
    if cpuid.get(Leaf.EXTENDED_PROCESSOR) and _package_vcpus(place.topology) > 1:
        cpuid = cpuid.with_(Feature.CMP_LEGACY)
    if sizes := cpuid.get(Leaf.ADDRESS_SIZES):
        cpuid = cpuid.replace(sizes.replace(ecx=_amd_sizes(sizes.ecx, place.topology)))
    if _has_amd_topology(cpuid):
        return cpuid.with_(Feature.TOPOLOGY_EXTENSIONS).replace(_amd_topology(place))
    return cpuid.without(Feature.TOPOLOGY_EXTENSIONS).drop(Leaf.AMD_CACHES, Leaf.AMD_TOPOLOGY)


def _has_amd_topology(cpuid: Cpuid) -> bool:
    """Whether the table has what TopologyExtensions promises: caches in 0x8000001D, room for 0x8000001E."""
    has_caches = CacheInfo(cpuid[Leaf.AMD_CACHES].eax).type != 0
    has_bit = cpuid.get(Leaf.EXTENDED_PROCESSOR) is not None
    return has_caches and has_bit and cpuid.max_extended_leaf >= Leaf.AMD_TOPOLOGY


def _amd_sizes(ecx: int, topology: Topology) -> int:
    bits = thread_bits(topology) + core_bits(topology)
    last = _package_vcpus(topology) - 1
    return int(AmdSizes(ecx).replace(processors_in_package_less_one=last, apic_id_bits=bits))


def _amd_topology(place: Place) -> CpuidEntry:
    """Leaf 0x8000001E; a package is one node."""
    core = AmdCore(core_id=place.core, threads_in_core_less_one=place.topology.threads - 1)
    node = AmdNode(node_id=place.socket)
    return CpuidEntry(Leaf.AMD_TOPOLOGY, eax=place.apic_id, ebx=int(core), ecx=int(node))


def _is_amd(cpuid: Cpuid) -> bool:
    return cpuid.vendor in AMD_VENDORS


def _package_vcpus(topology: Topology) -> int:
    return topology.cores * topology.threads


def _core_ids(topology: Topology) -> int:
    """How many APIC ids a core takes up, used or not."""
    return 1 << thread_bits(topology)


def _package_ids(topology: Topology) -> int:
    """How many APIC ids a package takes up, used or not."""
    return 1 << thread_bits(topology) + core_bits(topology)
