"""CPUID tables: which KVM takes, and the bits that it keeps up to date itself.

Some facts about what is read back. OSXSAVE and OSPKE mirror CR4, the APIC bit mirrors the APIC base, and leaf 0xD says
how large an XSAVE area is with the components that are switched on. So a table that was put is not always the one that
is got; once the vCPU has run, a new one is brought up to date before KVM compares the two.
"""

from __future__ import annotations

from collections.abc import Iterator

from anyvisor.x86_64.cpuid import Cpuid, CpuidEntry
from anyvisor.x86_64.features import Feature
from anyvisor.x86_64.leaves import Leaf
from anyvisor.x86_64.state import Sregs, Xcrs
from anyvisor_mock.rules import Rule
from anyvisor_mock.x86_64 import rules

MOST_ENTRIES = 256
LINEAR_BITS = (0, 48, 57)
LEGACY_AND_HEADER_BYTES = 576
XSAVES_OR_XSAVEC = (Feature.XSAVES, Feature.XSAVEC)


def broken_rules(table: Cpuid) -> Iterator[tuple[Rule, str]]:
    """The rules that a table breaks."""
    if len(table) > MOST_ENTRIES:
        yield rules.CPUID_LIMIT, f"{len(table)} entries"
    bits = table[Leaf.ADDRESS_SIZES].eax >> 8 & 0xFF
    if bits not in LINEAR_BITS:
        yield rules.CPUID_ADDRESSES, f"{bits} bits"


def up_to_date(table: Cpuid, sregs: Sregs, xcrs: Xcrs) -> Cpuid:
    """The table as it is with these registers."""
    mirrored = {
        Feature.OSXSAVE: (Feature.XSAVE, sregs.cr4.osxsave),
        Feature.OSPKE: (Feature.PKU, sregs.cr4.pke),
    }
    for feature, (needed, value) in mirrored.items():
        if table.has(needed) or table.has(feature):
            table = table.with_(feature) if value and table.has(needed) else table.without(feature)
    if table.get(Leaf.PROCESSOR):
        table = table.with_(Feature.APIC) if sregs.apic_base.enabled else table.without(Feature.APIC)
    return table.replace(*_xsave_sizes(table, xcrs.xcr0))


def _xsave_sizes(table: Cpuid, xcr0: int) -> Iterator[CpuidEntry]:
    if entry := table.get(Leaf.XSAVE, 0):
        yield entry.replace(ebx=_size(table, xcr0, compacted=False))
    if (entry := table.get(Leaf.XSAVE, 1)) and any(table.has(each) for each in XSAVES_OR_XSAVEC):
        yield entry.replace(ebx=_size(table, xcr0, compacted=True))


def _size(table: Cpuid, xcr0: int, *, compacted: bool) -> int:
    """How large an area with these components is (SDM Vol. 1, 13.4.3)."""
    end = LEGACY_AND_HEADER_BYTES
    for component in range(2, 63):
        if xcr0 >> component & 1:
            entry = table[Leaf.XSAVE, component]
            end = max(end, (end if compacted else entry.ebx) + entry.eax)
    return end
