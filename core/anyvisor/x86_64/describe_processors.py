"""The processors of a plan in words: model, topology, NUMA nodes, and what their CPUID tables change."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Sequence
from typing import Any

import attrs

from anyvisor.errors import PlanError
from anyvisor.facts import HostFacts
from anyvisor.folding import ranges
from anyvisor.memory import Region, format_size
from anyvisor.plan import BootPlan, VcpuPlan
from anyvisor.x86_64.acpi.slit import Slit
from anyvisor.x86_64.acpi.srat import LapicAffinity, MemoryAffinity, Srat, X2ApicAffinity
from anyvisor.x86_64.cpuid import Cpuid
from anyvisor.x86_64.firmware_tables import Firmware
from anyvisor.x86_64.leaves import AmdLevelType, CacheInfo, Leaf, Level, LevelType

WIDTH = 110
"""As long as a line of features gets."""
CACHE_TYPES = {1: "data", 2: "instruction", 3: "unified"}
INTEL_LEVELS = {
    LevelType.SMT: "thread",
    LevelType.CORE: "core",
    LevelType.MODULE: "module",
    LevelType.TILE: "tile",
    LevelType.DIE: "die",
}
AMD_LEVELS = {
    AmdLevelType.CORE: "thread",
    AmdLevelType.COMPLEX: "core",
    AmdLevelType.DIE: "complex",
    AmdLevelType.SOCKET: "die",
}
"""What each level counts: AMD's are named after what holds it."""


def table_of(vcpu: VcpuPlan) -> Cpuid:
    """A vCPU's CPUID table; PlanError when the plan has none for it."""
    found = vcpu.state(Cpuid)
    if not isinstance(found, Cpuid):
        raise PlanError(f"vCPU {vcpu.index} has no CPUID table of its own")
    return found


# -- the model -----------------------------------------------------------------------------------------------


def processor(plan: BootPlan) -> tuple[str, Any]:
    """The processor that the first vCPU says it is, and its caches."""
    if not plan.vcpus:
        return "none", None
    cpuid = table_of(plan.vcpus[0])
    return describe_model(cpuid), cpuid


def describe_model(cpuid: Cpuid) -> str:
    """A processor in words: maker, model, caches, features."""
    *lines, features = cpuid.describe().splitlines()
    wrapped = textwrap.wrap(features, WIDTH, subsequent_indent="  ")
    return "\n".join([*lines, *caches(cpuid), *wrapped])


def caches(cpuid: Cpuid) -> Iterator[str]:
    """The caches that a table tells of, a line each."""
    for entry in (*cpuid.subleaves(Leaf.CACHES), *cpuid.subleaves(Leaf.AMD_CACHES)):
        info = CacheInfo(entry.eax)
        if info.type not in CACHE_TYPES:
            continue
        line, partitions, ways = ((entry.ebx >> low & mask) + 1 for low, mask in ((0, 0xFFF), (12, 0x3FF), (22, 0x3FF)))
        size = format_size(line * partitions * ways * (entry.ecx + 1))
        sharing = info.processors_sharing_less_one + 1
        who = f"shared by {sharing} APIC ids" if sharing > 1 else "of one processor"
        yield f"cache: L{info.level} {CACHE_TYPES[info.type]}, {size}, {ways} ways, {who}"


# -- topology ------------------------------------------------------------------------------------------------


@attrs.frozen
class Levels:
    """How a CPUID table cuts an APIC id up: the leaf, and what each bit-field counts and where it ends, threads first.

    What is above the last field is the package's number.
    """

    leaf: int
    fields: tuple[tuple[str, int], ...]

    @classmethod
    def of(cls, cpuid: Cpuid) -> Levels | None:
        """The levels of the leaf that an OS would look at; None when there is none."""
        for leaf, names in (
            (Leaf.TOPOLOGY_V2, INTEL_LEVELS),
            (Leaf.AMD_TOPOLOGY_V2, AMD_LEVELS),
            (Leaf.TOPOLOGY, INTEL_LEVELS),
        ):
            levels = [(Level(each.ecx).type, each.eax & 0x1F) for each in cpuid.subleaves(leaf) if each.ebx]
            if levels:
                return cls(leaf, tuple((names.get(kind, f"level-{kind}"), end) for kind, end in levels))  # type: ignore[call-overload]
        return None

    def place(self, apic_id: int) -> tuple[int, ...]:
        """The numbers that an APIC id is made of, the package's first."""
        ends = [end for _, end in self.fields]
        parts = [apic_id >> low & (1 << high - low) - 1 for low, high in zip((0, *ends), ends, strict=False)]
        return (apic_id >> ends[-1], *reversed(parts))


@attrs.frozen
class Processors:
    """A machine's processors as CPUID tells of them: how many of each kind, and the APIC ids of each package."""

    leaf: int
    counts: dict[str, int]
    packages: dict[int, tuple[int, ...]]


def topology(plan: BootPlan) -> tuple[str, Any]:
    """How many packages, dies, cores and threads there are, and which APIC ids each package has."""
    return describe_topology([table_of(vcpu) for vcpu in plan.vcpus]) if plan.vcpus else ("none", None)


def describe_topology(tables: Sequence[Cpuid]) -> tuple[str, Processors | None]:
    """The same for the tables of any machine, one for each of its processors."""
    levels = Levels.of(tables[0])
    ids = [table.apic_id for table in tables]
    if levels is None:
        return f"APIC ids {ranges(ids)}; no leaf of CPUID tells more", None
    found = _processors(levels, ids)
    product = " x ".join(_counted(count, name) for name, count in found.counts.items())
    lines = [f"{product}, as leaf {levels.leaf:#x} of CPUID tells"]
    lines += [f"package {number}: APIC ids {ranges(members)}" for number, members in found.packages.items()]
    return "\n".join(lines), found


def _processors(levels: Levels, ids: Sequence[int]) -> Processors:
    places = [levels.place(each) for each in ids]
    names = ["package", *(name for name, _ in reversed(levels.fields))]
    counts = {name: len({place[index] for place in places}) for index, name in enumerate(names)}
    packages: dict[int, list[int]] = {}
    for apic_id, place in zip(ids, places, strict=True):
        packages.setdefault(place[0], []).append(apic_id)
    return Processors(levels.leaf, counts, {number: tuple(members) for number, members in packages.items()})


def _counted(count: int, name: str) -> str:
    return f"{count} {name if count == 1 else f'{name}es' if name.endswith('x') else f'{name}s'}"


# -- NUMA ----------------------------------------------------------------------------------------------------


@attrs.frozen
class Node:
    """A NUMA node as the SRAT and the SLIT tell of it: APIC ids, memory, and how far it is to every node."""

    number: int
    apic_ids: tuple[int, ...]
    memory: tuple[Region, ...]
    distances: tuple[int, ...]

    def __str__(self) -> str:
        size = format_size(sum(each.size_bytes for each in self.memory))
        memory = f"{size} at {', '.join(map(str, self.memory))}" if self.memory else "no memory"
        ids = f"APIC ids {ranges(self.apic_ids)}" if self.apic_ids else "no processors"
        far = f", distances {' '.join(map(str, self.distances))}" if self.distances else ""
        return f"node {self.number}: {ids}, {memory}{far}"


def numa(firmware: Firmware) -> tuple[str, Any]:
    """The NUMA nodes."""
    srat, slit = firmware.acpi_table(Srat), firmware.acpi_table(Slit)
    if srat is None:
        return "none: all memory is as near to every processor", None
    nodes = list(_nodes(srat, slit))
    return "\n".join(map(str, nodes)), nodes


def _nodes(srat: Srat, slit: Slit | None) -> Iterator[Node]:
    entries = [each for each in srat.entries if isinstance(each, LapicAffinity | X2ApicAffinity | MemoryAffinity)]
    used = [each for each in entries if each.flags.enabled]
    for number in sorted({each.node for each in used}):
        mine = [each for each in used if each.node == number]
        ids = tuple(each.apic_id for each in mine if not isinstance(each, MemoryAffinity))
        memory = tuple(Region(each.start, each.size_bytes) for each in mine if isinstance(each, MemoryAffinity))
        far = slit.distances[number] if slit and number < len(slit.distances) else ()
        yield Node(number, ids, memory, tuple(far))


# -- CPUID ---------------------------------------------------------------------------------------------------


def cpuid_changes(plan: BootPlan, facts: HostFacts) -> str:
    """What the first vCPU's table changes, then what each of the others has differently."""
    if not plan.vcpus:
        return "none"
    whose = "a generic processor" if facts.backend == "none" else f"the {facts.backend} backend"
    first, *others = [table_of(vcpu) for vcpu in plan.vcpus]
    lines = [f"vCPU 0, against {whose}:", *_changes(facts.supported_state(Cpuid), first)]
    return "\n".join([*lines, *changes_between("vCPU", first, others)])


def changes_between(name: str, first: Cpuid, others: Sequence[Cpuid]) -> Iterator[str]:
    """What the tables of processors 1, 2, 3... have differently from that of processor 0."""
    for number, table in enumerate(others, 1):
        yield f"{name} {number}, against {name} 0:"
        yield from _changes(first, table)


def _changes(before: Cpuid, after: Cpuid) -> list[str]:
    return [f"  {each}" for each in before.diff(after) or ["no difference"]]
