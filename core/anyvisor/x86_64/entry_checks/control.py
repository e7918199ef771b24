"""Control registers, EFER and debug registers: which bits there are, and which of them need each other."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

from anyvisor.bits import Bits
from anyvisor.x86_64.control import Cr4, Efer
from anyvisor.x86_64.entry_checks.check import Broken, check, reserved, spelled
from anyvisor.x86_64.entry_checks.state import INTEL, Known
from anyvisor.x86_64.features import Feature
from anyvisor.x86_64.msr_index import Msr
from anyvisor.x86_64.state import DebugRegs

VM_ENTRY, VMRUN = "SDM Vol. 3, 27.3.1.1", "APM Vol. 2, 15.5.1"

CR4_FEATURES = {
    "vme": Feature.VME, "pvi": Feature.VME, "tsd": Feature.TSC, "de": Feature.DE, "pse": Feature.PSE,
    "pae": Feature.PAE, "mce": Feature.MCE, "pge": Feature.PGE, "osfxsr": Feature.FXSR, "osxmmexcpt": Feature.SSE,
    "umip": Feature.UMIP, "la57": Feature.LA57, "vmxe": Feature.VMX, "smxe": Feature.SMX, "fsgsbase": Feature.FSGSBASE,
    "pcide": Feature.PCID, "osxsave": Feature.XSAVE, "smep": Feature.SMEP, "smap": Feature.SMAP, "pke": Feature.PKU,
    "pks": Feature.PKS,
}  # fmt: skip
"""Which bit of CR4 needs which feature (SDM Vol. 3, 2.5)."""
KEY_LOCKER, USER_INTERRUPTS, LASS, LAM_SUPERVISOR, FRED = (1 << bit for bit in (19, 25, 27, 28, 32))
CR4_KNOWN = sum(each.mask for each in Cr4.fields.values()) | KEY_LOCKER | USER_INTERRUPTS | LASS | LAM_SUPERVISOR | FRED
"""All that either maker has given a meaning to."""
EFER_FEATURES = {
    "sce": Feature.SYSCALL, "lme": Feature.LM, "lma": Feature.LM, "nxe": Feature.NX, "svme": Feature.SVM,
    "ffxsr": Feature.FFXSR,
}  # fmt: skip
"""Which bit of EFER needs which feature (APM Vol. 2, 3.1.7)."""
TCE, MCOMMIT, INTWB, UAIE, AIBRSE = (1 << bit for bit in (15, 17, 18, 20, 21))
EFER_KNOWN = sum(each.mask for each in Efer.fields.values()) | TCE | MCOMMIT | INTWB | UAIE | AIBRSE


def _needs(name: str, value: Bits, features: Mapping[str, Feature], known: Known) -> Iterator[Broken]:
    """The bits of a register whose feature is not in the CPUID table."""
    for bit, feature in features.items():
        if getattr(value, bit) and known.lacks(feature):
            yield Broken(
                name,
                f"{name}.{bit.upper()} is set, and CPUID has no {feature.name}",
                spelled(name, value),
                f"{bit.upper()} clear, or {feature.name} in CPUID ({feature.place})",
                f"clear {name}.{bit.upper()}, or give the vCPU the feature {feature.name}",
            )


# -- CR0 and CR4 -------------------------------------------------------------------------------------------------------


@check("cr0-has-32-bits", "The upper half of CR0 is zero.", intel=VM_ENTRY, amd=VMRUN)
def cr0_width(known: Known) -> Iterator[Broken]:
    """The reserved bits of the lower half are ignored."""
    if known.cr0 is not None and known.cr0 >> 32:
        yield Broken(
            "CR0", "has bits above 31", spelled("CR0", known.cr0), "bits 63-32 clear", "clear these bits of CR0"
        )


@check("paging-needs-protection", "CR0.PG is set only with CR0.PE.", intel=VM_ENTRY, amd=VMRUN)
def paging_needs_protection(known: Known) -> Iterator[Broken]:
    """AMD's processors can page in real mode (APM Vol. 2, 15.19), but not on the way to long mode."""
    cr0 = known.cr0
    if cr0 is None or not cr0.pg or cr0.pe:
        return
    if known.enforces(INTEL) or (known.efer and known.efer.lme):
        yield Broken("CR0", "paging without protection", spelled("CR0", cr0), "PE set, or PG clear", "set CR0.PE")


@check("nw-needs-cd", "CR0.NW is set only with CR0.CD.", amd=VMRUN)
def nw_needs_cd(known: Known) -> Iterator[Broken]:
    """Intel's VM entry leaves both bits as they are."""
    if known.cr0 is not None and known.cr0.nw and not known.cr0.cd:
        yield Broken("CR0", "NW without CD", spelled("CR0", known.cr0), "NW clear, or CD set", "clear CR0.NW")


@check("cr4-reserved", "No reserved bit of CR4 is set.", intel=VM_ENTRY, amd=VMRUN)
def cr4_reserved(known: Known) -> Iterator[Broken]:
    """Bits that mean nothing on any processor."""
    cr4 = known.cr4
    if cr4 is not None and (wrong := int(cr4) & ~CR4_KNOWN):
        yield reserved("CR4", cr4, wrong)


@check("cr4-needs-features", "A bit of CR4 is set only if CPUID has what it switches on.", intel=VM_ENTRY, amd=VMRUN)
def cr4_features(known: Known) -> Iterator[Broken]:
    """For a processor without the feature the bit is reserved."""
    if known.cr4 is None:
        return
    yield from _needs("CR4", known.cr4, CR4_FEATURES, known)
    if known.cr4.cet and known.lacks(Feature.CET_SS) and known.lacks(Feature.CET_IBT):
        wanted = "CET clear, or CET_SS or CET_IBT in CPUID"
        yield Broken("CR4", "CR4.CET is set, and CPUID has none", spelled("CR4", known.cr4), wanted, "clear CR4.CET")


@check("pcide-needs-long-mode", "CR4.PCIDE is set only in long mode.", intel=VM_ENTRY)
def pcide_needs_long_mode(known: Known) -> Iterator[Broken]:
    """Process-context identifiers are long mode's."""
    if known.cr4 is not None and known.cr4.pcide and known.efer is not None and not known.efer.lma:
        found = f"{spelled('CR4', known.cr4)}, {spelled('EFER', known.efer)}"
        yield Broken("CR4", "PCIDE outside long mode", found, "PCIDE clear, or EFER.LMA set", "clear CR4.PCIDE")


@check("cet-needs-wp", "CR4.CET is set only with CR0.WP.", intel=VM_ENTRY, amd=VMRUN)
def cet_needs_wp(known: Known) -> Iterator[Broken]:
    """Shadow stacks need read-only pages that the kernel cannot write."""
    if known.cr4 is not None and known.cr4.cet and known.cr0 is not None and not known.cr0.wp:
        found = f"{spelled('CR4', known.cr4)}, {spelled('CR0', known.cr0)}"
        yield Broken("CR4", "CET without CR0.WP", found, "CR0.WP set, or CET clear", "set CR0.WP")


# -- EFER and long mode ------------------------------------------------------------------------------------------------


def _efers(known: Known) -> Iterable[tuple[str, Efer]]:
    """EFER, wherever it is said: in Sregs, and as an MSR where that says otherwise."""
    if known.efer is not None:
        yield "EFER", known.efer
    said = None if known.efer is None else known.efer.replace(lma=False)
    for entry in known.msrs:
        if entry.index == Msr.EFER and Efer(entry.value).replace(lma=False) != said:
            yield entry.name, Efer(entry.value)


@check("efer-reserved", "No reserved bit of EFER is set.", intel=VM_ENTRY, amd=VMRUN)
def efer_reserved(known: Known) -> Iterator[Broken]:
    """Bits that mean nothing on any processor."""
    for name, efer in _efers(known):
        if wrong := int(efer) & ~EFER_KNOWN:
            yield reserved(name, efer, wrong)


@check("efer-needs-features", "A bit of EFER is set only if CPUID has what it switches on.", intel=VM_ENTRY, amd=VMRUN)
def efer_features(known: Known) -> Iterator[Broken]:
    """For a processor without the feature the bit is reserved."""
    for name, efer in _efers(known):
        yield from _needs(name, efer, EFER_FEATURES, known)


@check("lma-is-lme-and-paging", "EFER.LMA is set exactly if EFER.LME and CR0.PG are.", intel=VM_ENTRY)
def lma_is_lme_and_paging(known: Known) -> Iterator[Broken]:
    """LMA says that long mode is active: that it is enabled, and paging on."""
    cr0, efer = known.cr0, known.efer
    if cr0 is None or efer is None or efer.lma == (efer.lme and cr0.pg):
        return
    found = f"{spelled('EFER', efer)}, {spelled('CR0', cr0)}"
    if efer.lma:
        lacking = "EFER.LME" if cr0.pg else "CR0.PG" if efer.lme else "EFER.LME and CR0.PG"
        yield Broken(
            "EFER",
            f"long mode is active without {lacking}",
            found,
            "LMA clear, or LME and CR0.PG set",
            f"set {lacking}",
        )
    else:
        wanted = "LMA set where LME and CR0.PG are"
        yield Broken("EFER", "long mode is enabled and paging on, but LMA is clear", found, wanted, "set EFER.LMA")


@check("long-mode-needs-pae", "In long mode CR4.PAE is set.", intel=VM_ENTRY, amd=VMRUN)
def long_mode_needs_pae(known: Known) -> Iterator[Broken]:
    """The page tables of long mode have entries of eight bytes."""
    cr0, cr4, efer = known.cr0, known.cr4, known.efer
    if cr4 is None or cr4.pae or efer is None:
        return
    if efer.lma or (efer.lme and cr0 and cr0.pg):
        found = f"{spelled('CR4', cr4)}, {spelled('EFER', efer)}"
        yield Broken("CR4", "long mode without PAE", found, "PAE set", "set CR4.PAE")


# -- debug registers ---------------------------------------------------------------------------------------------------


def _debug(known: Known, name: str) -> Iterator[Broken]:
    found = known.value(DebugRegs, name)
    if found is not None and found >> 32:
        register = name.upper()
        wanted, remedy = "bits 63-32 clear", f"clear these bits of {register}"
        yield Broken(register, "has bits above 31", f"{register} {found:#x}", wanted, remedy)


@check("dr6-has-32-bits", "The upper half of DR6 is zero.", amd=VMRUN)
def dr6_width(known: Known) -> Iterator[Broken]:
    """VM entry of Intel's processors does not load DR6."""
    yield from _debug(known, "dr6")


@check("dr7-has-32-bits", "The upper half of DR7 is zero.", intel=VM_ENTRY, amd=VMRUN)
def dr7_width(known: Known) -> Iterator[Broken]:
    """On either maker's."""
    yield from _debug(known, "dr7")
