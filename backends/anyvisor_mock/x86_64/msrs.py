"""MSRs: which there are, what they take, and which of them are parts of other states.

Some facts about which there are. KVM lists those that make up a vCPU's state, and `get` gives these; it takes others,
too, that other states hold already (EFER, the bases of FS and GS, the APIC base) or that its list leaves out (MTRRs).
"""

from __future__ import annotations

from anyvisor.x86_64.control import ApicBase
from anyvisor.x86_64.cpuid import Cpuid
from anyvisor.x86_64.features import Feature
from anyvisor.x86_64.msrs import Msr, MsrEntry, MtrrDefType
from anyvisor.x86_64.state import Sregs
from anyvisor_mock.rules import Rule
from anyvisor_mock.x86_64 import rules
from anyvisor_mock.x86_64.sregs import address_bits, broken_apic_base

MTRRS = frozenset(
    {int(each) for each in Msr if each.name.startswith("MTRR_FIX")}
    | set(range(0x200, 0x210))
    | {int(Msr.MTRR_DEF_TYPE)}
)
BESIDES = MTRRS | {Msr.EFER, Msr.FS_BASE, Msr.GS_BASE, Msr.APIC_BASE, Msr.TSC_AUX, Msr.PAT, Msr.XSS}
"""Those that KVM takes whether it lists them or not."""
CANONICAL = frozenset({Msr.LSTAR, Msr.CSTAR, Msr.KERNEL_GS_BASE, Msr.FS_BASE, Msr.GS_BASE})
SYSENTER = frozenset({Msr.SYSENTER_EIP, Msr.SYSENTER_ESP})
EFER_BITS = 0xFD01 & ~0x8000
"""SCE, LME, LMA, NXE, SVME, LMSLE, FFXSR."""
PAT_TYPES, MTRR_TYPES = (0, 1, 4, 5, 6, 7), (0, 1, 4, 5, 6)
LINEAR_BITS = 48


def shared(sregs: Sregs) -> dict[int, int]:
    """Those that Sregs hold, too."""
    return {
        Msr.EFER: int(sregs.efer),
        Msr.APIC_BASE: int(sregs.apic_base),
        Msr.FS_BASE: sregs.fs.base,
        Msr.GS_BASE: sregs.gs.base,
    }


def broken_rule(entry: MsrEntry, table: Cpuid, listed: frozenset[int]) -> Rule | None:
    """The rule that writing this MSR breaks on a processor with that CPUID table; `listed` are those of the host."""
    index, value = entry.index, entry.value
    if index not in listed and index not in BESIDES:
        return rules.MSR_EXISTS
    if index == Msr.XSS and not table.has(Feature.XSAVES):
        return rules.MSR_FEATURE
    if index in CANONICAL and canonical(value, table) != value:
        return rules.MSR_CANONICAL
    if index == Msr.EFER and value & ~EFER_BITS:
        return rules.EFER_RESERVED
    if index == Msr.APIC_BASE:
        return next((rule for rule, _ in broken_apic_base(ApicBase(value), table)), None)
    return None if _names_memory_types(index, value, table) else rules.MEMORY_TYPES


def _names_memory_types(index: int, value: int, table: Cpuid) -> bool:
    if index == Msr.PAT:
        return all(each in PAT_TYPES for each in value.to_bytes(8, "little"))
    if index not in MTRRS:
        return True
    if index == Msr.MTRR_DEF_TYPE:
        known = sum(each.mask for each in MtrrDefType.fields.values())
        return not value & ~known and value & 0xFF in MTRR_TYPES
    if index < Msr.MTRR_FIX64K_00000:
        return _is_variable_range(index, value, table)
    return all(each in MTRR_TYPES for each in value.to_bytes(8, "little"))


def _is_variable_range(index: int, value: int, table: Cpuid) -> bool:
    """Pairs of base, with a type in its low byte, and mask, with a valid bit (SDM Vol. 3, 12.11.2.3)."""
    if value >> address_bits(table):
        return False
    if index % 2:
        return not value & 0x7FF
    return value & 0xFFF in MTRR_TYPES


def canonical(address: int, table: Cpuid) -> int:
    """The address with its upper bits copied from the highest that counts: 57 bits with LA57, 48 without."""
    bits = 57 if table.has(Feature.LA57) else LINEAR_BITS
    low = address & (1 << bits) - 1
    return low | (((1 << 64) - (1 << bits)) if low >> bits - 1 else 0)


def kept(entry: MsrEntry, table: Cpuid) -> int:
    """What is left of a value that was written: of a SYSENTER address, what the processor's maker looks at."""
    if entry.index not in SYSENTER:
        return entry.value
    return canonical(entry.value, table) if table.vendor == "GenuineIntel" else entry.value & 0xFFFFFFFF
