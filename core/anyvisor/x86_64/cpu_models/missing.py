"""What a model asks for and a host does not have, bit by bit."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import attrs

from anyvisor.config import Topology
from anyvisor.facts import HostFacts
from anyvisor.x86_64 import cpuid_policy
from anyvisor.x86_64.common import ADVANCED_POWER, EXTENDED_FEATURES_2, SVM
from anyvisor.x86_64.cpuid import REGISTERS, Cpuid, CpuidEntry
from anyvisor.x86_64.features import BY_PLACE, EAX, EBX, ECX, EDX, Feature, Register
from anyvisor.x86_64.leaves import Leaf
from anyvisor.x86_64.msrs import MsrEntry, Msrs, is_saveable

FEATURE_REGISTERS: dict[tuple[int, int], tuple[Register, ...]] = {
    (Leaf.PROCESSOR, 0): (ECX, EDX),
    (Leaf.POWER, 0): REGISTERS,
    (Leaf.STRUCTURED_FEATURES, 0): (EBX, ECX, EDX),
    (Leaf.STRUCTURED_FEATURES, 1): REGISTERS,
    (Leaf.STRUCTURED_FEATURES, 2): REGISTERS,
    (Leaf.XSAVE, 1): (EAX, ECX, EDX),
    (Leaf.KVM_FEATURES, 0): REGISTERS,
    (Leaf.EXTENDED_PROCESSOR, 0): (ECX, EDX),
    (ADVANCED_POWER, 0): (EBX, EDX),
    (Leaf.ADDRESS_SIZES, 0): (EBX,),
    (SVM, 0): (EDX,),
    (EXTENDED_FEATURES_2, 0): (EAX,),
}
"""Where each bit is something that a processor can do, whether it has a name here or not."""
MIRRORED = 0x0183_F3FF
"""The bits of leaf 0x80000001 EDX that repeat those of leaf 1 on AMD; APM Vol. 3, E.4.2."""
DESCRIPTIVE = (Feature.HTT, Feature.CMP_LEGACY, Feature.TOPOLOGY_EXTENSIONS)
"""Features that only say which leaves to read: any host's guest can have them."""


@attrs.frozen
class Missing:
    """Something that a host cannot give: its name, empty for a bit that has none, and where it stands."""

    name: str
    place: str

    def __str__(self) -> str:
        return f"{self.name} ({self.place})" if self.name else self.place


def listed(missing: Iterable[Missing]) -> str:
    """All of them, the bits of a register together: `0x1 ECX: SSE3 (bit 0), PCID (bit 17); 0x7 EBX: ERMS (bit 9)`."""
    groups: dict[str, list[str]] = {}
    for each in missing:
        register, _, position = each.place.rpartition(" bit ")
        bit = f"bit {position}"
        words = f"{each.name} ({bit})" if each.name else bit
        groups.setdefault(f"{register}: " if register else "", []).append(words if register else str(each))
    return "; ".join(register + ", ".join(words) for register, words in groups.items())


def most(facts: HostFacts) -> Cpuid:
    """The most that a guest can be given on a host: what is left of the host's table by the policy for guests."""
    return cpuid_policy.for_vcpu(facts, Topology(), 0)


def missing_bits(asked: Cpuid, available: Cpuid) -> list[Missing]:
    """Each feature bit of `asked` that `available` does not have, in the order of the leaves."""
    found = [
        each
        for (leaf, subleaf), registers in FEATURE_REGISTERS.items()
        for each in _lacking(asked[leaf, subleaf], available[leaf, subleaf], registers)
    ]
    # Where features are missing, so are the components of the XSAVE area that belong to them.
    return found or list(_lacking(asked[Leaf.XSAVE], available[Leaf.XSAVE], (EAX, EDX)))


def _lacking(entry: CpuidEntry, other: CpuidEntry, registers: Iterable[Register]) -> Iterator[Missing]:
    for register in registers:
        yield from _named(entry, register, getattr(entry, register) & ~getattr(other, register))


def _named(entry: CpuidEntry, register: Register, bits: int) -> Iterator[Missing]:
    if entry.leaf == Leaf.EXTENDED_PROCESSOR and register == EDX:
        bits &= ~MIRRORED
    for position in range(bits.bit_length()):
        if bits >> position & 1:
            feature = BY_PLACE.get((entry.leaf, entry.subleaf, register, position))
            if feature not in DESCRIPTIVE:
                place = feature.place if feature else _place(entry, register, position)
                yield Missing(feature.name if feature else "", place)


def _place(entry: CpuidEntry, register: Register, position: int) -> str:
    part = f"/{entry.subleaf}" if entry.subleaf else ""
    return f"{entry.leaf:#x}{part} {register.upper()} bit {position}"


def missing_address_bits(asked: Cpuid, facts: HostFacts) -> Iterator[Missing]:
    """More bits of addresses than the host has; those of linear addresses come with the feature LA57."""
    bits = asked.physical_address_bits
    if bits > facts.physical_address_bits:
        yield Missing("physical_bits", f"{bits} asked for, and the host has {facts.physical_address_bits}")


def missing_msrs(asked: tuple[MsrEntry, ...], facts: HostFacts) -> Iterator[Missing]:
    """MSRs that the host's vCPUs do not have, as far as it says which they have."""
    known = next((each for each in facts.supported if isinstance(each, Msrs)), None)
    if known is not None:
        for each in asked:
            if is_saveable(each.index) and each.index not in known:
                yield Missing(each.name, f"MSR {each.index:#x}")
