"""Model-specific registers of extensions that VM entry loads: debugging, shadow stacks and branch tracking, MPX.

Some facts about them. VM entry of Intel's processors loads these where its controls say so, and refuses what WRMSR
would refuse. A hypervisor that keeps one from its guest refuses it at all times, which is no rule of a processor's.
"""

from __future__ import annotations

from collections.abc import Iterator

from anyvisor.bits import Bits, bit, field
from anyvisor.x86_64.entry_checks.check import Broken, check, reserved
from anyvisor.x86_64.entry_checks.state import Known
from anyvisor.x86_64.msr_index import Msr

VM_ENTRY = "SDM Vol. 3, 27.3.1.1"
WRMSR_INTEL, WRMSR_AMD = "SDM Vol. 2D, WRMSR", "APM Vol. 3, WRMSR"
PAGE_SHIFT = 12
SHADOW_STACK_POINTERS = frozenset({Msr.PL0_SSP, Msr.PL1_SSP, Msr.PL2_SSP, Msr.PL3_SSP})
ALIGNMENT = 0b11
"""A shadow stack holds entries of 4 bytes, or of 8."""


class DebugCtl(Bits):
    """IA32_DEBUGCTL (SDM Vol. 3, 18.4.1)."""

    lbr = bit(0)
    btf = bit(1)
    bus_lock_detect = bit(2)
    tr = bit(6)
    bts = bit(7)
    btint = bit(8)
    bts_off_os = bit(9)
    bts_off_user = bit(10)
    freeze_lbrs_on_pmi = bit(11)
    freeze_perfmon_on_pmi = bit(12)
    uncore_pmi = bit(13)
    freeze_in_smm = bit(14)
    rtm_debug = bit(15)


class Cet(Bits):
    """IA32_S_CET and IA32_U_CET (SDM Vol. 1, 17.2.1); `bitmap` is the page of the legacy code-page bitmap."""

    shadow_stack = bit(0)
    write_shadow_stack = bit(1)
    branch_tracking = bit(2)
    legacy_compatible = bit(3)
    no_track = bit(4)
    suppress_disabled = bit(5)
    suppress = bit(10)
    waits_for_endbr = bit(11)
    bitmap = field(12, 52)


class BndCfgs(Bits):
    """IA32_BNDCFGS (SDM Vol. 1, E.3.3); `directory` is the page of the bound directory."""

    enabled = bit(0)
    preserve = bit(1)
    directory = field(12, 52)


def _known_bits(kind: type[Bits]) -> int:
    return sum(each.mask for each in kind.fields.values())


def _values(known: Known, *indices: Msr) -> Iterator[tuple[str, int]]:
    return ((each.name, each.value) for each in known.msrs if each.index in indices)


def _address(known: Known, name: str, value: int, *, low_bits: int = 0) -> Iterator[Broken]:
    """An address in an MSR, above bits that are none of it."""
    if not known.is_canonical(value >> low_bits << low_bits):
        wanted = f"an address of {known.linear_address_bits} bits, the highest repeated upwards"
        yield Broken(name, "holds an address that is not canonical", f"{value:#x}", wanted, "correct it")


@check("debugctl-reserved", "No reserved bit of DEBUGCTL is set.", intel=VM_ENTRY)
def debugctl(known: Known) -> Iterator[Broken]:
    """AMD's processors have other bits there, and do not look."""
    for name, value in _values(known, Msr.DEBUGCTL):
        if wrong := value & ~_known_bits(DebugCtl):
            yield reserved(name, DebugCtl(value), wrong)


@check(
    "cet-is-valid",
    "S_CET and U_CET have no reserved bits set, a canonical bitmap, and do not both suppress and wait for ENDBR.",
    intel=VM_ENTRY,
    amd=WRMSR_AMD,
)
def cet(known: Known) -> Iterator[Broken]:
    """VM entry of Intel's processors loads S_CET. AMD's track no branches, and have fewer bits yet."""
    for name, value in _values(known, Msr.S_CET, Msr.U_CET):
        found = Cet(value)
        if wrong := value & ~_known_bits(Cet):
            yield reserved(name, found, wrong)
        elif found.suppress and found.waits_for_endbr:
            wanted = "bit 10 or bit 11 clear"
            yield Broken(name, "suppresses tracking and waits for ENDBR", f"{value:#x}", wanted, "clear one of them")
        else:
            yield from _address(known, name, value, low_bits=PAGE_SHIFT)


@check(
    "shadow-stacks-are-addresses",
    "Shadow stack pointers are canonical multiples of 4, and the address of their table is canonical.",
    intel=WRMSR_INTEL,
    amd=WRMSR_AMD,
)
def shadow_stacks(known: Known) -> Iterator[Broken]:
    """WRMSR refuses others."""
    for name, value in _values(known, *SHADOW_STACK_POINTERS):
        if value & ALIGNMENT:
            yield Broken(name, "is no multiple of 4", f"{value:#x}", "bits 1-0 clear", "align it")
    for name, value in _values(known, *SHADOW_STACK_POINTERS, Msr.INTERRUPT_SSP_TABLE):
        yield from _address(known, name, value)


@check("bndcfgs-is-valid", "BNDCFGS has no reserved bits set, and a canonical address.", intel=VM_ENTRY)
def bndcfgs(known: Known) -> Iterator[Broken]:
    """AMD's processors have no MPX."""
    for name, value in _values(known, Msr.BNDCFGS):
        if wrong := value & ~_known_bits(BndCfgs):
            yield reserved(name, BndCfgs(value), wrong)
        else:
            yield from _address(known, name, value, low_bits=PAGE_SHIFT)
