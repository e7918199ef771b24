"""Where a vCPU says it is: the CPUID leaves that count and number a guest's processors.

Some facts about what Linux reads where (arch/x86/kernel/cpu: topology_ext.c, topology_amd.c, topology_common.c,
cacheinfo.c).

* Intel: leaf 0x1F, else 0xB, for threads, cores and the APIC id; else HTT and EBX of leaf 1 with EAX of leaf 4. Dies
  are in 0x1F alone; leaf 0xB counts a package's cores whatever die they are on.
* AMD and Hygon: with TopologyExtensions 0x80000026, else 0xB; else ECX of 0x80000008, and threads from 0x8000001E.
  The node, which is the die, comes from 0x8000001E. 0x80000026 came with Zen 4, and is here where the table reaches it.
* Caches: leaf 4 on Intel, 0x8000001D on AMD with TopologyExtensions. Who shares one is found by shifting APIC ids, so
  "processors sharing" counts ids, a power of two, not vCPUs. A core's threads share levels 1 and 2, a die the others.

Leaf 0xB is Intel's, but AMD has it too since Zen 2, and for the hypervisor it is only a table; every guest whose
highest basic leaf reaches it gets it. Two things raise that leaf, since nothing else could say them: APIC ids of more
than eight bits (to 0xB), and dies on anything but AMD (to 0x1F).

A field that is too narrow for a very large machine holds its highest value: of leaf 1's eight-bit count and of leaf 4's
six, Linux looks at neither where there is leaf 0xB.
"""

from __future__ import annotations

from anyvisor.config import Topology
from anyvisor.errors import ConfigError
from anyvisor.x86_64.cpuid import Cpuid, CpuidEntry
from anyvisor.x86_64.features import Feature
from anyvisor.x86_64.leaves import (
    AmdCore,
    AmdLevelType,
    AmdNode,
    AmdSizes,
    CacheInfo,
    Leaf,
    Level,
    LevelType,
    ProcessorInfo,
    TlbInfo,
)
from anyvisor.x86_64.topology import Place, core_shift, die_shift, needs_x2apic, package_shift

AMD_VENDORS = frozenset({"AuthenticAMD", "HygonGenuine"})
WITH_IDS = frozenset({Leaf.PROCESSOR, Leaf.TOPOLOGY, Leaf.TOPOLOGY_V2, Leaf.AMD_TOPOLOGY, Leaf.AMD_TOPOLOGY_V2})
"""The leaves in which one vCPU answers otherwise than another."""
IN_8_BITS, IN_6_BITS, IN_4_BITS, IN_3_BITS, IN_12_BITS, IN_16_BITS = 0xFF, 0x3F, 0xF, 7, 0xFFF, 0xFFFF

Levels = list[tuple[int, int, int]]
"""A list of levels, threads first: type, bits to shift an APIC id by for what the level is in, processors in that."""


def with_topology(cpuid: Cpuid, topology: Topology) -> Cpuid:
    """A table with that topology in every leaf, but for the ids; `numbered` makes it the table of one vCPU.

    ConfigError when the table is that of an AMD processor which could not tell its dies apart.
    """
    cpuid = _processor(cpuid, topology)
    cpuid = _caches(cpuid, topology)
    cpuid = _levels(cpuid, topology)
    return _amd(cpuid, topology)


def numbered(cpuid: Cpuid, place: Place) -> Cpuid:
    """The table of the vCPU at `place`, of what `with_topology` made; it shares all other entries with that."""
    number = place.apic_id
    return Cpuid(tuple(_numbered(entry, place, number) if entry.leaf in WITH_IDS else entry for entry in cpuid.entries))


def _numbered(entry: CpuidEntry, place: Place, number: int) -> CpuidEntry:
    if entry.leaf == Leaf.PROCESSOR:
        return entry.replace(ebx=int(ProcessorInfo(entry.ebx).replace(initial_apic_id=number & IN_8_BITS)))
    if entry.leaf != Leaf.AMD_TOPOLOGY:
        return entry.replace(edx=number)
    core = AmdCore(entry.ebx).replace(core_id=place.core_in_package & IN_8_BITS)
    node = AmdNode(entry.ecx).replace(node_id=place.node & IN_8_BITS)
    return entry.replace(eax=number, ebx=int(core), ecx=int(node))


def is_amd(cpuid: Cpuid) -> bool:
    """Whether the table is one of AMD's, or of Hygon's, which are alike."""
    return cpuid.vendor in AMD_VENDORS


def package_vcpus(topology: Topology) -> int:
    """How many processors a package has."""
    return topology.dies * topology.cores * topology.threads


def _processor(cpuid: Cpuid, topology: Topology) -> Cpuid:
    """Leaf 1: HTT where a package has several, and how many ids (Intel) or processors (AMD) it has then."""
    count = package_vcpus(topology)
    several = count > 1
    if not is_amd(cpuid):
        count = 1 << package_shift(topology)  # 255, the field's most, rounds up to 256 again
    cpuid = cpuid.with_(Feature.HTT) if several else cpuid.without(Feature.HTT)
    entry = cpuid[Leaf.PROCESSOR]
    info = ProcessorInfo(entry.ebx).replace(
        logical_processors=min(count, IN_8_BITS) if several else 0, initial_apic_id=0
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
    ids = 1 << (core_shift(topology) if info.level <= 2 else die_shift(topology))
    info = info.replace(processors_sharing_less_one=min(ids - 1, IN_12_BITS))
    if entry.leaf == Leaf.CACHES:
        core_ids = 1 << package_shift(topology) - core_shift(topology)
        info = info.replace(cores_in_package_less_one=min(core_ids - 1, IN_6_BITS))
    return entry.replace(eax=int(info))


def _tlb(entry: CpuidEntry, topology: Topology) -> CpuidEntry:
    info = TlbInfo(entry.edx)
    if not info.type:
        return entry
    ids = 1 << core_shift(topology)
    return entry.replace(edx=int(info.replace(processors_sharing_less_one=min(ids - 1, IN_12_BITS))))


def _levels(cpuid: Cpuid, topology: Topology) -> Cpuid:
    """Leaves 0xB, 0x1F (not on AMD) and 0x80000026 (on AMD), as far as the table reaches."""
    amd = is_amd(cpuid)
    cpuid = cpuid.drop(Leaf.TOPOLOGY, Leaf.TOPOLOGY_V2, Leaf.AMD_TOPOLOGY_V2)
    cpuid = _reaching(cpuid, _least_leaf(topology, amd=amd))
    if cpuid.max_leaf >= Leaf.TOPOLOGY:
        cpuid = cpuid.replace(*_level_entries(Leaf.TOPOLOGY, _without_dies(topology)))
    if cpuid.max_leaf >= Leaf.TOPOLOGY_V2 and not amd:
        levels = _with_dies(topology) if topology.dies > 1 else _without_dies(topology)
        cpuid = cpuid.replace(*_level_entries(Leaf.TOPOLOGY_V2, levels))
    if cpuid.max_extended_leaf >= Leaf.AMD_TOPOLOGY_V2 and amd:
        cpuid = cpuid.replace(*_level_entries(Leaf.AMD_TOPOLOGY_V2, _amd_levels(topology)))
    return cpuid


def _least_leaf(topology: Topology, *, amd: bool) -> int:
    """The basic leaf that a guest must be able to ask for, or 0."""
    if topology.dies > 1 and not amd:
        return Leaf.TOPOLOGY_V2
    return Leaf.TOPOLOGY if needs_x2apic(topology) else 0


def _reaching(cpuid: Cpuid, leaf: int) -> Cpuid:
    return cpuid if cpuid.max_leaf >= leaf else cpuid.replace(cpuid[Leaf.VENDOR].replace(eax=leaf))


def _without_dies(topology: Topology) -> Levels:
    return [
        (LevelType.SMT, core_shift(topology), topology.threads),
        (LevelType.CORE, package_shift(topology), package_vcpus(topology)),
    ]


def _with_dies(topology: Topology) -> Levels:
    return [
        (LevelType.SMT, core_shift(topology), topology.threads),
        (LevelType.CORE, die_shift(topology), topology.cores * topology.threads),
        (LevelType.DIE, package_shift(topology), package_vcpus(topology)),
    ]


def _amd_levels(topology: Topology) -> Levels:
    """A die is one core complex: its cores have one L3 cache."""
    die = die_shift(topology), topology.cores * topology.threads
    return [
        (AmdLevelType.CORE, core_shift(topology), topology.threads),
        (AmdLevelType.COMPLEX, *die),
        (AmdLevelType.DIE, *die),
        (AmdLevelType.SOCKET, package_shift(topology), package_vcpus(topology)),
    ]


def _level_entries(leaf: Leaf, levels: Levels) -> list[CpuidEntry]:
    ended = [*levels, (LevelType.NONE, 0, 0)]
    return [
        CpuidEntry(leaf, i, shift, min(count, IN_16_BITS), int(Level(number=i, type=kind)))
        for i, (kind, shift, count) in enumerate(ended)
    ]


def _amd(cpuid: Cpuid, topology: Topology) -> Cpuid:
    """AMD's own leaves; on other makers' processors they are left out."""
    if not is_amd(cpuid):
        return cpuid.drop(Leaf.AMD_CACHES, Leaf.AMD_TOPOLOGY)
    if cpuid.get(Leaf.EXTENDED_PROCESSOR):
        legacy = package_vcpus(topology) > 1
        cpuid = cpuid.with_(Feature.CMP_LEGACY) if legacy else cpuid.without(Feature.CMP_LEGACY)
    if sizes := cpuid.get(Leaf.ADDRESS_SIZES):
        cpuid = cpuid.replace(sizes.replace(ecx=_amd_sizes(sizes.ecx, topology)))
    if _has_amd_topology(cpuid):
        return cpuid.with_(Feature.TOPOLOGY_EXTENSIONS).replace(_amd_topology(topology))
    if topology.dies > 1:
        raise ConfigError(
            f"topology: {topology}: an AMD processor tells its dies by TopologyExtensions (CPUID 0x8000001E), "
            "which this one lacks; take a CPU model that has it, or one die to a package"
        )
    return cpuid.without(Feature.TOPOLOGY_EXTENSIONS).drop(Leaf.AMD_CACHES, Leaf.AMD_TOPOLOGY)


def _has_amd_topology(cpuid: Cpuid) -> bool:
    """Whether the table has what TopologyExtensions promises: caches in 0x8000001D, room for 0x8000001E."""
    has_caches = CacheInfo(cpuid[Leaf.AMD_CACHES].eax).type != 0
    has_bit = cpuid.get(Leaf.EXTENDED_PROCESSOR) is not None
    return has_caches and has_bit and cpuid.max_extended_leaf >= Leaf.AMD_TOPOLOGY


def _amd_sizes(ecx: int, topology: Topology) -> int:
    bits, last = min(package_shift(topology), IN_4_BITS), min(package_vcpus(topology) - 1, IN_8_BITS)
    return int(AmdSizes(ecx).replace(processors_in_package_less_one=last, apic_id_bits=bits))


def _amd_topology(topology: Topology) -> CpuidEntry:
    """Leaf 0x8000001E; a die is one node."""
    core = AmdCore(threads_in_core_less_one=min(topology.threads - 1, IN_8_BITS))
    node = AmdNode(nodes_in_package_less_one=min(topology.dies - 1, IN_3_BITS))
    return CpuidEntry(Leaf.AMD_TOPOLOGY, ebx=int(core), ecx=int(node))
