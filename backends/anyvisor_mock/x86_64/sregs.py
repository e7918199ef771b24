"""What KVM looks at before it takes Sregs and an APIC base, in KVM's order."""

from __future__ import annotations

from collections.abc import Iterator

from anyvisor.x86_64.control import ApicBase, Cr0, Cr4
from anyvisor.x86_64.cpuid import Cpuid
from anyvisor.x86_64.features import Feature
from anyvisor.x86_64.leaves import Leaf
from anyvisor.x86_64.state import Sregs
from anyvisor_mock.rules import Rule
from anyvisor_mock.x86_64 import rules

CR4_BITS = 0x1FF7FFF & ~(1 << 13 | 1 << 14 | 1 << 15 | 1 << 19 | 1 << 23 | 1 << 24)
"""Those that KVM gives to guests without nesting and shadow stacks: no VMXE, SMXE, KL, CET, PKS."""
CR4_FEATURES = {
    "osxsave": Feature.XSAVE,
    "smep": Feature.SMEP,
    "smap": Feature.SMAP,
    "fsgsbase": Feature.FSGSBASE,
    "umip": Feature.UMIP,
    "pke": Feature.PKU,
    "la57": Feature.LA57,
    "pcide": Feature.PCID,
}
LEAST_ADDRESS_BITS = 36
"""What a table without leaf 0x80000008 means to KVM."""
APIC_BASE_LOW = 0x2FF
"""Bits 0-7 and 9 mean nothing (SDM Vol. 3, 11.4.4)."""


def address_bits(table: Cpuid) -> int:
    """How wide physical addresses are."""
    return table.physical_address_bits if table.get(Leaf.ADDRESS_SIZES) else LEAST_ADDRESS_BITS


def broken_rule(sregs: Sregs, table: Cpuid) -> tuple[Rule, str] | None:
    """The first rule that these registers break on a processor with that CPUID table, and how."""
    return next(_broken(sregs, table), None)


def _broken(sregs: Sregs, table: Cpuid) -> Iterator[tuple[Rule, str]]:
    yield from _broken_mode(sregs, table)
    yield from _broken_cr4(sregs.cr4, table)
    yield from _broken_cr0(sregs.cr0)
    yield from broken_apic_base(sregs.apic_base, table)


def _broken_mode(sregs: Sregs, table: Cpuid) -> Iterator[tuple[Rule, str]]:
    cr0, cr4, efer = sregs.cr0, sregs.cr4, sregs.efer
    if efer.lme and cr0.pg:
        if not cr4.pae:
            yield rules.LONG_MODE_PAE, f"{efer!r}, {cr4!r}"
        if not efer.lma:
            yield rules.LONG_MODE_ACTIVE, f"{efer!r}"
        if sregs.cr3 >> address_bits(table):
            yield rules.CR3_ADDRESS, f"cr3={sregs.cr3:#x}"
        return
    if efer.lma:
        yield rules.LMA_LONG_MODE, f"{efer!r}, {cr0!r}"
    if sregs.cs.l:
        yield rules.CODE_64, f"cs.l with {efer!r}, {cr0!r}"


def _broken_cr4(cr4: Cr4, table: Cpuid) -> Iterator[tuple[Rule, str]]:
    if cr4 & ~CR4_BITS:
        yield rules.CR4_RESERVED, f"{cr4!r}"
    for name, feature in CR4_FEATURES.items():
        if getattr(cr4, name) and not table.has(feature):
            yield rules.CR4_FEATURE, f"cr4.{name} without CPUID {feature.name}"


def _broken_cr0(cr0: Cr0) -> Iterator[tuple[Rule, str]]:
    if cr0 >> 32:
        yield rules.CR0_WIDTH, f"{cr0!r}"
    if cr0.nw and not cr0.cd:
        yield rules.NW_CD, f"{cr0!r}"
    if cr0.pg and not cr0.pe:
        yield rules.PAGING_PROTECTION, f"{cr0!r}"


def broken_apic_base(base: ApicBase, table: Cpuid) -> Iterator[tuple[Rule, str]]:
    """The rules that an APIC base breaks."""
    reserved = APIC_BASE_LOW | -1 << address_bits(table)
    if base & reserved or (base.x2apic and not table.has(Feature.X2APIC)):
        yield rules.APIC_BASE_RESERVED, f"{base!r}"
    if base.x2apic and not base.enabled:
        yield rules.X2APIC, f"{base!r}"
