"""Leaf 0xD of a model: the components of the XSAVE area that its features need, each where the host has it.

What an instruction set keeps in its registers, an OS saves with XSAVE, and it enables only what leaf 0xD names. So the
leaf must name every component that a feature needs, and none that only the host's other features need. Where a
component lies is the processor's to say: see `anyvisor.x86_64.common`.
"""

from __future__ import annotations

from anyvisor.x86_64.common import LEGACY, LEGACY_BYTES, NEEDS
from anyvisor.x86_64.cpuid import Cpuid, CpuidEntry
from anyvisor.x86_64.features import Feature
from anyvisor.x86_64.leaves import Leaf

CET, ARCH_LBR = 0b11 << 11, 1 << 15
SUPERVISOR_NEEDS = ((CET, (Feature.CET_SS, Feature.CET_IBT)), (ARCH_LBR, (Feature.ARCH_LBR,)))
"""Components that only XSAVES saves, and the features that need them; SDM Vol. 1, 13.1."""
IN_GROUPS = sum({components for components, _, _ in NEEDS})
"""Every component that some feature is known to need."""
U32 = (1 << 32) - 1


def fitted(cpuid: Cpuid, host: Cpuid) -> Cpuid:
    """The table with a leaf 0xD that fits its features; without XSAVE, with none.

    What the table already has of components that belong to no feature known here stays.
    """
    if not cpuid.has(Feature.XSAVE):
        return cpuid.drop(Leaf.XSAVE)
    old = cpuid[Leaf.XSAVE]
    claimed = LEGACY | _needed(cpuid) | (old.eax | old.edx << 32) & ~IN_GROUPS
    supervisor = _supervisor(cpuid)
    placed = [each for each in host.subleaves(Leaf.XSAVE) if each.subleaf >= 2]
    placed = [each for each in placed if (claimed | supervisor) >> each.subleaf & 1]
    ends = [each.ebx + each.eax for each in placed if claimed >> each.subleaf & 1]
    second = cpuid[Leaf.XSAVE, 1]
    head = CpuidEntry(Leaf.XSAVE, 0, claimed & U32, LEGACY_BYTES, max([LEGACY_BYTES, *ends]), claimed >> 32)
    compacts = cpuid.has(Feature.XSAVEC) or cpuid.has(Feature.XSAVES)
    second = second.replace(ebx=LEGACY_BYTES if compacts else 0, ecx=supervisor & U32, edx=supervisor >> 32)
    return cpuid.drop(Leaf.XSAVE).replace(head, *([second] if any(second.registers) else []), *placed)


def needing(cpuid: Cpuid) -> list[str]:
    """The features of a table whose registers only XSAVE saves, by name."""
    return sorted({each.name.lower() for *_, features in NEEDS for each in features if cpuid.has(each)})


def _needed(cpuid: Cpuid) -> int:
    found = 0
    for _, needed, features in NEEDS:
        if any(map(cpuid.has, features)):
            found |= needed
    return found


def _supervisor(cpuid: Cpuid) -> int:
    if not cpuid.has(Feature.XSAVES):
        return 0
    return sum(components for components, features in SUPERVISOR_NEEDS if any(map(cpuid.has, features)))
