"""Facts of hosts that are not here: what KVM supports on Intel and AMD machines of several generations, kept as data.

Each file in `hosts` is one machine and says in its notes where its numbers come from. It holds the CPUID table in the
text form of `cpuid -r`, a line each, without the leaves in which everything is zero, and the MSRs of a vCPU at reset by
number. What every host of KVM has in common is said here.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Iterator, Mapping
from importlib import resources
from importlib.resources.abc import Traversable
from typing import Any

from anyvisor.errors import ConfigError
from anyvisor.facts import Capability, HostFacts
from anyvisor.x86_64.cpuid import Cpuid, CpuidEntry
from anyvisor.x86_64.leaves import Leaf
from anyvisor.x86_64.modes import MODES
from anyvisor.x86_64.msrs import MsrEntry, Msrs

SUFFIX = ".json"
CAPABILITIES = frozenset(
    {
        Capability.IRQCHIP,
        Capability.PIT,
        Capability.IRQFD,
        Capability.IOEVENTFD,
        Capability.COALESCED_IO,
        Capability.READONLY_MEMORY,
        Capability.TSC_DEADLINE,
        Capability.SNAPSHOT,
        Capability.NATIVE,
        Capability.FULL_SYSTEM,
        Capability.FULL_PROCESSOR,
        Capability.KICK,
        Capability.X2APIC,
    }
)
STATES = tuple(
    f"x86_64.{name}"
    for name in (
        "Irqchip", "Pit", "Cpuid", "MpState", "Regs", "Sregs", "Fpu", "Xsave", "Xcrs", "DebugRegs", "Lapic", "Msrs",
        "VcpuEvents", "Clock",
    )
)  # fmt: skip
"""In the order in which KVM wants them put."""
MAX_VCPUS = 1024
HARDWARE_ID_LIMIT = 4096
MAX_MEMORY_SLOTS = 32764
RECOMMENDED_VCPUS = 64
"""KVM says how many processors the host has online; this, where the source of a host's numbers does not."""


def host_names() -> tuple[str, ...]:
    """The hosts that there are facts of, by name: `amd-genoa`, `intel-nehalem`."""
    names = (each.name for each in _folder().iterdir())
    return tuple(sorted(name.removesuffix(SUFFIX) for name in names if name.endswith(SUFFIX)))


@functools.cache
def host_facts(name: str) -> HostFacts:
    """The facts of that host, as the KVM backend there would report them; ConfigError when there is none of that name.

    `facts.notes` says where the numbers come from, and which of them no machine answered.
    """
    if name not in host_names():
        raise ConfigError(f"mock host {name!r}: there is none; there are {', '.join(host_names())}")
    return _facts(json.loads(_folder().joinpath(name + SUFFIX).read_text("utf-8")))


def _folder() -> Traversable:
    return resources.files("anyvisor_mock") / "hosts"


def _facts(data: Mapping[str, Any]) -> HostFacts:
    cpuid = _with_zeros(Cpuid.from_raw_dump("\n".join(["CPU:", *data["cpuid"]])))
    return HostFacts(
        backend="kvm",
        architecture="x86_64",
        capabilities=CAPABILITIES,
        states=STATES,
        modes=MODES,
        supported=(cpuid, _msrs(data["msrs"])),
        max_vcpus=MAX_VCPUS,
        recommended_vcpus=data.get("recommended_vcpus", RECOMMENDED_VCPUS),
        hardware_id_limit=HARDWARE_ID_LIMIT,
        max_memory_slots=MAX_MEMORY_SLOTS,
        physical_address_bits=cpuid.physical_address_bits,
        notes=tuple(data["notes"]),
    )


def _msrs(data: Mapping[str, str]) -> Msrs:
    return Msrs(tuple(MsrEntry(int(index, 16), int(value, 16)) for index, value in data.items()))


def _with_zeros(cpuid: Cpuid) -> Cpuid:
    """The table with an entry for every leaf, as KVM gives it: basic ones, the makers' own, KVM's."""
    ranges = (
        range(cpuid.max_leaf + 1),
        range(Leaf.EXTENDED, cpuid.max_extended_leaf + 1),
        range(Leaf.HYPERVISOR, cpuid[Leaf.HYPERVISOR].eax + 1),
    )
    return Cpuid(tuple(each for leaves in ranges for leaf in leaves for each in _entries(cpuid, leaf)))


def _entries(cpuid: Cpuid, leaf: int) -> Iterator[CpuidEntry]:
    yield from cpuid.subleaves(leaf) or (CpuidEntry(leaf),)
