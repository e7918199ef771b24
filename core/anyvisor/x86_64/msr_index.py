"""Which number is which model-specific register.

SDM Vol. 4, chapter 2; those from 0xC0010000 APM Vol. 2, appendix A; those from 0x4B564D00 ("KVM") Linux,
Documentation/virt/kvm/x86/msr.rst.
"""

from __future__ import annotations

import enum


class Msr(enum.IntEnum):
    """MSRs by the manuals' names, without `IA32_` or `MSR_` (`msr_name` has the name in full)."""

    P5_MC_ADDR = 0x0
    P5_MC_TYPE = 0x1
    TSC = 0x10
    KVM_WALL_CLOCK = 0x11
    KVM_SYSTEM_TIME = 0x12
    PLATFORM_ID = 0x17
    APIC_BASE = 0x1B
    SMI_COUNT = 0x34
    FEATURE_CONTROL = 0x3A
    TSC_ADJUST = 0x3B
    SPEC_CTRL = 0x48
    PRED_CMD = 0x49
    BIOS_SIGN_ID = 0x8B
    SMBASE = 0x9E
    PLATFORM_INFO = 0xCE
    UMWAIT_CONTROL = 0xE1
    MPERF = 0xE7
    APERF = 0xE8
    MTRRCAP = 0xFE
    ARCH_CAPABILITIES = 0x10A
    FLUSH_CMD = 0x10B
    TSX_CTRL = 0x122
    MISC_FEATURES_ENABLES = 0x140
    SYSENTER_CS = 0x174
    SYSENTER_ESP = 0x175
    SYSENTER_EIP = 0x176
    MCG_CAP = 0x179
    MCG_STATUS = 0x17A
    MCG_CTL = 0x17B
    PERF_STATUS = 0x198
    MISC_ENABLE = 0x1A0
    ENERGY_PERF_BIAS = 0x1B0
    XFD = 0x1C4
    XFD_ERR = 0x1C5
    DEBUGCTL = 0x1D9
    LASTBRANCH_FROM_IP = 0x1DB
    LASTBRANCH_TO_IP = 0x1DC
    LER_FROM_LIP = 0x1DD
    LER_TO_LIP = 0x1DE
    POWER_CTL = 0x1FC
    MTRR_FIX64K_00000 = 0x250
    MTRR_FIX16K_80000 = 0x258
    MTRR_FIX16K_A0000 = 0x259
    MTRR_FIX4K_C0000 = 0x268
    MTRR_FIX4K_C8000 = 0x269
    MTRR_FIX4K_D0000 = 0x26A
    MTRR_FIX4K_D8000 = 0x26B
    MTRR_FIX4K_E0000 = 0x26C
    MTRR_FIX4K_E8000 = 0x26D
    MTRR_FIX4K_F0000 = 0x26E
    MTRR_FIX4K_F8000 = 0x26F
    PAT = 0x277
    MTRR_DEF_TYPE = 0x2FF
    PERF_CAPABILITIES = 0x345
    U_CET = 0x6A0
    S_CET = 0x6A2
    PL0_SSP = 0x6A4
    PL1_SSP = 0x6A5
    PL2_SSP = 0x6A6
    PL3_SSP = 0x6A7
    INTERRUPT_SSP_TABLE = 0x6A8
    TSC_DEADLINE = 0x6E0
    BNDCFGS = 0xD90
    XSS = 0xDA0
    KVM_WALL_CLOCK_NEW = 0x4B56_4D00
    KVM_SYSTEM_TIME_NEW = 0x4B56_4D01
    KVM_ASYNC_PF_EN = 0x4B56_4D02
    KVM_STEAL_TIME = 0x4B56_4D03
    KVM_PV_EOI_EN = 0x4B56_4D04
    KVM_POLL_CONTROL = 0x4B56_4D05
    KVM_ASYNC_PF_INT = 0x4B56_4D06
    KVM_ASYNC_PF_ACK = 0x4B56_4D07
    KVM_MIGRATION_CONTROL = 0x4B56_4D08
    EFER = 0xC000_0080
    STAR = 0xC000_0081
    LSTAR = 0xC000_0082
    CSTAR = 0xC000_0083
    FMASK = 0xC000_0084
    SFMASK = 0xC000_0084
    FS_BASE = 0xC000_0100
    GS_BASE = 0xC000_0101
    KERNEL_GS_BASE = 0xC000_0102
    TSC_AUX = 0xC000_0103
    TSC_RATIO = 0xC000_0104
    SYSCFG = 0xC001_0010
    HWCR = 0xC001_0015
    VM_HSAVE_PA = 0xC001_0117
    VIRT_SPEC_CTRL = 0xC001_011F
    DE_CFG = 0xC001_1029


_MODEL_SPECIFIC = frozenset(
    {
        Msr.SMI_COUNT,
        Msr.PLATFORM_INFO,
        Msr.MISC_FEATURES_ENABLES,
        Msr.LASTBRANCH_FROM_IP,
        Msr.LASTBRANCH_TO_IP,
        Msr.LER_FROM_LIP,
        Msr.LER_TO_LIP,
        Msr.POWER_CTL,
    }
)
_AMD = range(0xC001_0000, 0xC002_0000)
_AMD_ONLY = frozenset({Msr.TSC_RATIO})

MTRR_VARIABLE = range(0x200, 0x220)
"""Pairs of base and mask, one for each variable-range MTRR."""
MACHINE_CHECK_BANKS = range(0x400, 0x480)
"""Four registers for each machine-check bank."""
X2APIC = range(0x800, 0xC00)
"""The local APIC's registers in x2APIC mode; offset in the APIC page / 16."""
KVM_RANGE = range(0x4B56_4D00, 0x4B56_4E00)
"""The paravirtual interface of KVM."""


def msr_name(index: int) -> str:
    """The manuals' name of an MSR: `IA32_EFER`, `MSR_PLATFORM_INFO`, `HWCR`; `MSR 0x123` for one without."""
    index = int(index)
    if index in MTRR_VARIABLE:
        return f"IA32_MTRR_PHYS{('BASE', 'MASK')[index % 2]}{(index - MTRR_VARIABLE.start) // 2}"
    if index in MACHINE_CHECK_BANKS:
        bank, register = divmod(index - MACHINE_CHECK_BANKS.start, 4)
        return f"IA32_MC{bank}_{('CTL', 'STATUS', 'ADDR', 'MISC')[register]}"
    if index in X2APIC:
        return f"x2APIC register {index:#x}"
    if index not in Msr._value2member_map_:
        return f"MSR {index:#x}"
    return _prefix(Msr(index)) + Msr(index).name


def _prefix(msr: Msr) -> str:
    """A range looks for anything but a plain int one number after the other."""
    if int(msr) in _AMD or msr in _AMD_ONLY or msr.name.startswith("KVM_"):
        return ""
    return "MSR_" if msr in _MODEL_SPECIFIC else "IA32_"


NEVER_SAVED = frozenset(
    {
        Msr.FEATURE_CONTROL,  # writing it back locks features
        Msr.MCG_CTL,  # refused where MCG_CAP does not have it
        Msr.PRED_CMD,  # write-only commands
        Msr.FLUSH_CMD,
        Msr.KVM_WALL_CLOCK,  # old numbers of two that are saved
        Msr.KVM_SYSTEM_TIME,
    }
)
"""MSRs that must not be written back."""

_SAVED = (
    range(0x2A, 0x2D),  # EBL_CR_POWERON, EBC_FREQUENCY_ID
    range(0x79, 0x7A),  # BIOS_UPDT_TRIG
    range(0xCD, 0xCE),  # FSB_FREQ
    range(0xE2, 0xE3),  # PKG_CST_CONFIG_CONTROL
    range(0x11E, 0x11F),  # BBL_CR_CTL3
    range(0x1A4, 0x1AF),  # prefetching, power management, turbo ratios
    range(0x200, 0x300),  # MTRRs and PAT
    range(0x3FC, 0x3FF),  # residency in core C-states
    MACHINE_CHECK_BANKS,
    range(0x606, 0x61D),  # RAPL: power limits and energy counters
    range(0x648, 0x64D),  # configurable TDP
    X2APIC,
    KVM_RANGE,
)


def is_saveable(index: int) -> bool:
    """Whether an MSR of the hypervisor's list belongs in a snapshot: what a guest sets or sees does.

    Those with a name here, and whole ranges; what is neither stays the host's own.
    """
    if index in NEVER_SAVED:
        return False
    return index in Msr._value2member_map_ or any(index in each for each in _SAVED)
