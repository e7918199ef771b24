"""What two x86_64 hosts have in common: the CPUID table and the MSRs of a guest that runs on either.

Some facts about the XSAVE area. Where a component of it lies (leaf 0xD) is the processor's to say, and differs between
makers: AVX-512's ZMM registers are at 0x340 on one and at 0x440 on another. No hypervisor can move them, so a guest
that goes by the table of one host would save its registers in the wrong place on the other. Hence a component is common
only if both hosts have it in one place, and without it the instructions that need it are not common either. Some
components come only together (SDM Vol. 1, 13.3).
"""

from __future__ import annotations

import operator
from collections.abc import Callable

from anyvisor.states import State
from anyvisor.x86_64.cpuid import REGISTERS, Cpuid, CpuidEntry
from anyvisor.x86_64.features import Feature
from anyvisor.x86_64.leaves import Leaf
from anyvisor.x86_64.msrs import Msrs

ADVANCED_POWER, SVM, EXTENDED_FEATURES_2 = 0x8000_0007, 0x8000_000A, 0x8000_0021

Combine = Callable[[int, int], int]
"""What becomes of a register of an entry: `combine(first, second)`."""
BOTH: Combine = operator.and_
LOWER: Combine = min


def FIRST(first: int, second: int) -> int:  # noqa: N802, ARG001 - a word of the table below
    """Where the hosts differ, it is the first."""
    return first


def EQUAL(first: int, second: int) -> int:  # noqa: N802 - a word of the table below
    """Nothing, unless the hosts agree."""
    return first if first == second else 0


def ADDRESS_BITS(first: int, second: int) -> int:  # noqa: N802 - a word of the table below
    """Leaf 0x80000008 EAX: the bits of physical, linear and guest-physical addresses, a byte each; SDM, APM."""
    if first == second:
        return first
    physical, linear = (min(first >> shift & 0xFF, second >> shift & 0xFF) for shift in (0, 8))
    return linear << 8 | physical


RULES: dict[int, tuple[Combine, Combine, Combine, Combine]] = {
    Leaf.VENDOR: (LOWER, FIRST, FIRST, FIRST),
    Leaf.PROCESSOR: (FIRST, FIRST, BOTH, BOTH),
    Leaf.POWER: (BOTH, BOTH, BOTH, BOTH),
    Leaf.STRUCTURED_FEATURES: (LOWER, BOTH, BOTH, BOTH),
    Leaf.EXTENDED: (LOWER, FIRST, FIRST, FIRST),
    Leaf.EXTENDED_PROCESSOR: (FIRST, FIRST, BOTH, BOTH),
    ADVANCED_POWER: (BOTH, BOTH, BOTH, BOTH),
    Leaf.ADDRESS_SIZES: (ADDRESS_BITS, BOTH, FIRST, EQUAL),
    SVM: (LOWER, LOWER, BOTH, BOTH),
    EXTENDED_FEATURES_2: (BOTH, EQUAL, BOTH, EQUAL),
}
"""For leaves that say what a processor can do: EAX, EBX, ECX and EDX."""
FEATURES_ONLY = (BOTH, BOTH, BOTH, BOTH)
XSAVE_RULES = {0: (BOTH, LOWER, LOWER, BOTH), 1: (BOTH, LOWER, BOTH, BOTH)}

DESCRIPTIONS = frozenset(
    {0x2, Leaf.CACHES, Leaf.TOPOLOGY, Leaf.TLBS, Leaf.TOPOLOGY_V2, *(Leaf.BRAND + i for i in range(3))}
    | {0x8000_0005, 0x8000_0006, 0x8000_0019, Leaf.AMD_CACHES, Leaf.AMD_TOPOLOGY, Leaf.AMD_TOPOLOGY_V2}
)
"""Leaves that only describe a processor, its caches and its place: the first host's, if the other has them at all."""

LEGACY_BYTES = 512 + 64
"""The XSAVE area up to its header's end; x87 and SSE have their fixed place in it."""
LEGACY, AVX, MPX, AVX512, PKRU, AMX, APX = 0b11, 1 << 2, 0b11 << 3, 0b111 << 5, 1 << 9, 0b11 << 17, 1 << 19
"""Components by their bits in XCR0, those in one that come only together."""


def _named(*prefixes: str) -> tuple[Feature, ...]:
    return tuple(each for each in Feature if each.name.startswith(prefixes))


VECTORS = (
    Feature.FMA, Feature.F16C, Feature.XOP, Feature.FMA4, Feature.VAES, Feature.VPCLMULQDQ, Feature.SHA512,
    Feature.SM3, Feature.SM4,
)  # fmt: skip
NEEDS: tuple[tuple[int, int, tuple[Feature, ...]], ...] = (
    (AVX, AVX, (*_named("AVX"), *VECTORS)),
    (MPX, MPX, (Feature.MPX,)),
    (AVX512, AVX | AVX512, _named("AVX512", "AVX10")),
    (PKRU, PKRU, (Feature.PKU, Feature.OSPKE)),
    (AMX, AMX, _named("AMX")),
    (APX, APX, (Feature.APX_F,)),
)
"""Components, what they need to be there, and the features that are lost without them."""


def common_state(first: State, second: State) -> State | None:
    """What two states of one type, each the most that its host supports, have in common; None for nothing."""
    if isinstance(first, Cpuid) and isinstance(second, Cpuid):
        return common_cpuid(first, second)
    if isinstance(first, Msrs) and isinstance(second, Msrs):
        return Msrs(tuple(each for each in first if each.index in second))
    return first if first == second else None


def common_cpuid(first: Cpuid, second: Cpuid) -> Cpuid:
    """The table of a processor that is the first, less the features that the second lacks.

    What is neither a feature nor a description, such as frequencies, performance counters and what a hypervisor says
    of itself, is there only where both agree.
    """
    entries = (_common_entry(each, second) for each in first)
    return _with_common_xsave(Cpuid(tuple(each for each in entries if each is not None)))


def _common_entry(entry: CpuidEntry, second: Cpuid) -> CpuidEntry | None:
    if entry.leaf in DESCRIPTIONS:
        return entry if second.subleaves(entry.leaf) else None
    other = second.get(entry.leaf, entry.subleaf)
    if other is None:
        return None
    rules = _rules(entry)
    if rules is None:
        return entry if entry.registers == other.registers else None
    values = [rule(*pair) for rule, *pair in zip(rules, entry.registers, other.registers, strict=True)]
    return entry.replace(**dict(zip(REGISTERS, values, strict=True)))


def _rules(entry: CpuidEntry) -> tuple[Combine, Combine, Combine, Combine] | None:
    if entry.leaf == Leaf.XSAVE:
        return XSAVE_RULES.get(entry.subleaf)
    if entry.leaf == Leaf.STRUCTURED_FEATURES and entry.subleaf:
        return FEATURES_ONLY
    return RULES.get(entry.leaf)


def _with_common_xsave(cpuid: Cpuid) -> Cpuid:
    """The table with no component in XCR0 that has lost its place, nor the features that need it."""
    head = cpuid.get(Leaf.XSAVE)
    claimed = head.eax | head.edx << 32 if head is not None else 0
    placed = {each.subleaf: each for each in cpuid.subleaves(Leaf.XSAVE) if each.subleaf >= 2}
    kept = claimed & (LEGACY | sum(1 << number for number in placed))
    for components, needed, features in NEEDS:
        if kept & needed != needed:
            kept &= ~components
            cpuid = cpuid.without(*features)
    if head is None or not claimed:
        return cpuid
    ends = [each.ebx + each.eax for number, each in placed.items() if kept >> number & 1]
    size = max([LEGACY_BYTES, *ends])
    return cpuid.replace(head.replace(eax=kept & 0xFFFFFFFF, edx=kept >> 32, ebx=min(head.ebx, size), ecx=size))
