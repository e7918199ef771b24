"""Model-specific registers: values that WRMSR refuses, and those that VM entry looks at itself."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from anyvisor.x86_64.control import ApicBase
from anyvisor.x86_64.entry_checks.check import Broken, check, reserved, spelled
from anyvisor.x86_64.entry_checks.state import Known
from anyvisor.x86_64.features import Feature
from anyvisor.x86_64.msr_index import MTRR_VARIABLE, Msr
from anyvisor.x86_64.msrs import MemoryType, MsrEntry, MtrrDefType
from anyvisor.x86_64.state import Sregs

VM_ENTRY = "SDM Vol. 3, 27.3.1.1"
SYSENTER = frozenset({Msr.SYSENTER_ESP, Msr.SYSENTER_EIP})
CANONICAL = frozenset({Msr.LSTAR, Msr.CSTAR, Msr.FS_BASE, Msr.GS_BASE, Msr.KERNEL_GS_BASE})
MTRR_FIXED = frozenset(each for each in Msr if each.name.startswith("MTRR_FIX"))
UNCACHED_MINUS = 7
"""A memory type that PAT has, and MTRRs have not."""
MTRR_TYPES = frozenset(MemoryType)
PAT_TYPES = MTRR_TYPES | {UNCACHED_MINUS}
TYPE_MASK, MASK_RESERVED, BASE_RESERVED = 0xFF, 0x7FF, 0xF00
APIC_BASE_RESERVED = 0x2FF


def _chosen(known: Known, indices: Iterable[int]) -> Iterator[MsrEntry]:
    return (each for each in known.msrs if each.index in indices)


def _canonical(known: Known, indices: Iterable[int]) -> Iterator[Broken]:
    for entry in _chosen(known, indices):
        if not known.is_canonical(entry.value):
            wanted = f"an address of {known.linear_address_bits} bits, the highest repeated upwards"
            yield Broken(entry.name, "is not canonical", f"{entry.value:#x}", wanted, "correct it")


@check("sysenter-is-canonical", "SYSENTER_ESP and SYSENTER_EIP are canonical addresses.", intel=VM_ENTRY)
def sysenter(known: Known) -> Iterator[Broken]:
    """AMD's processors look at their lower halves only."""
    yield from _canonical(known, SYSENTER)


@check(
    "msrs-are-canonical",
    "LSTAR, CSTAR and the bases of FS and GS are canonical addresses.",
    intel="SDM Vol. 2D, WRMSR",
    amd="APM Vol. 3, WRMSR",
)
def canonical_msrs(known: Known) -> Iterator[Broken]:
    """WRMSR refuses others."""
    yield from _canonical(known, CANONICAL)


@check("pat-names-types", "Each byte of PAT names a memory type.", intel=VM_ENTRY, amd="APM Vol. 2, 15.25.4")
def pat(known: Known) -> Iterator[Broken]:
    """Types 2 and 3 are reserved, and so is all above 7."""
    for entry in _chosen(known, {Msr.PAT}):
        if wrong := [each for each in entry.value.to_bytes(8, "little") if each not in PAT_TYPES]:
            problem = f"names memory types that there are not: {', '.join(map(str, wrong))}"
            wanted = f"types {', '.join(map(str, sorted(PAT_TYPES)))}"
            yield Broken(entry.name, problem, f"{entry.value:#x}", wanted, "correct these bytes")


@check(
    "mtrrs-name-types",
    "MTRRs name memory types that there are, and have no reserved bits set.",
    intel="SDM Vol. 3, 12.11.2",
    amd="APM Vol. 2, 7.7.2",
)
def mtrrs(known: Known) -> Iterator[Broken]:
    """WRMSR refuses others."""
    for entry in known.msrs:
        if problem := _mtrr_problem(entry, known.physical_address_bits):
            wanted = f"types {', '.join(map(str, sorted(MTRR_TYPES)))}, reserved bits clear"
            yield Broken(entry.name, problem, f"{entry.value:#x}", wanted, "correct it")


def _mtrr_problem(entry: MsrEntry, address_bits: int) -> str:
    """What WRMSR refuses of an MTRR, empty for another MSR."""
    index, value = entry.index, entry.value
    if index == Msr.MTRR_DEF_TYPE:
        reserved, types = value & ~sum(each.mask for each in MtrrDefType.fields.values()), [value & TYPE_MASK]
    elif index in MTRR_FIXED:
        reserved, types = 0, list(value.to_bytes(8, "little"))
    elif index in MTRR_VARIABLE:
        is_mask = index % 2
        reserved = value & (MASK_RESERVED if is_mask else BASE_RESERVED) | value >> address_bits << address_bits
        types = [] if is_mask else [value & TYPE_MASK]
    else:
        return ""
    if reserved:
        return f"reserved bits {reserved:#x} are set"
    wrong = sorted(set(types) - MTRR_TYPES)
    return f"names memory types that there are not: {', '.join(map(str, wrong))}" if wrong else ""


def _apic_bases(known: Known) -> Iterator[tuple[str, ApicBase]]:
    """The APIC base, wherever it is said: in Sregs, and as an MSR."""
    if (found := known.value(Sregs, "apic_base")) is not None:
        yield "APIC base", ApicBase(found)
    yield from ((each.name, ApicBase(each.value)) for each in _chosen(known, {Msr.APIC_BASE}))


@check(
    "apic-base-is-valid",
    "The APIC base has no reserved bits set, and x2APIC mode only in an APIC that is enabled.",
    intel="SDM Vol. 3, 11.4.4",
    amd="APM Vol. 2, 16.3.1",
)
def apic_base(known: Known) -> Iterator[Broken]:
    """WRMSR refuses others."""
    for name, base in _apic_bases(known):
        found = spelled(name, base)
        if wrong := int(base) & (APIC_BASE_RESERVED | -1 << known.physical_address_bits):
            yield reserved(name, base, wrong)
        elif base.x2apic and not base.enabled:
            yield Broken(name, "x2APIC mode of an APIC that is disabled", found, "bit 11 set", "enable the APIC")
        elif base.x2apic and known.lacks(Feature.X2APIC):
            remedy = "clear bit 10, or give the vCPU the feature X2APIC"
            yield Broken(name, "x2APIC mode, and CPUID has no X2APIC", found, "bit 10 clear", remedy)
