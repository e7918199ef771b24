"""Processor features by name: which bit of which CPUID leaf says so.

The names are those of the Intel SDM (Vol. 2A, CPUID) and the AMD APM (Vol. 3, appendix E); `KVM_...` are the
bits of KVM's own leaf (Linux, Documentation/virt/kvm/x86/cpuid.rst). Where both makers name one thing
differently, the leaf decides: `AMD_STIBP` is AMD's bit in leaf 0x80000008, `STIBP` Intel's in leaf 7.
"""

from __future__ import annotations

import enum
from typing import Literal

Register = Literal["eax", "ebx", "ecx", "edx"]
EAX: Register = "eax"
EBX: Register = "ebx"
ECX: Register = "ecx"
EDX: Register = "edx"


class Feature(enum.Enum):
    """One feature bit: its leaf and subleaf, the register it is in, and its bit number there."""

    def __init__(self, leaf: int, subleaf: int, register: Register, position: int):
        self.leaf = leaf
        self.subleaf = subleaf
        self.register = register
        self.position = position

    @property
    def place(self) -> str:
        """Where the manuals list it: `0x1 ECX bit 31`, `0x7/1 EAX bit 4`."""
        part = f"/{self.subleaf}" if self.subleaf else ""
        return f"{self.leaf:#x}{part} {self.register.upper()} bit {self.position}"

    # Leaf 1, ECX
    SSE3 = 0x1, 0, ECX, 0
    PCLMULQDQ = 0x1, 0, ECX, 1
    DTES64 = 0x1, 0, ECX, 2
    MONITOR = 0x1, 0, ECX, 3
    DS_CPL = 0x1, 0, ECX, 4
    VMX = 0x1, 0, ECX, 5
    SMX = 0x1, 0, ECX, 6
    EIST = 0x1, 0, ECX, 7
    TM2 = 0x1, 0, ECX, 8
    SSSE3 = 0x1, 0, ECX, 9
    CNXT_ID = 0x1, 0, ECX, 10
    SDBG = 0x1, 0, ECX, 11
    FMA = 0x1, 0, ECX, 12
    CMPXCHG16B = 0x1, 0, ECX, 13
    PDCM = 0x1, 0, ECX, 15
    PCID = 0x1, 0, ECX, 17
    DCA = 0x1, 0, ECX, 18
    SSE4_1 = 0x1, 0, ECX, 19
    SSE4_2 = 0x1, 0, ECX, 20
    X2APIC = 0x1, 0, ECX, 21
    MOVBE = 0x1, 0, ECX, 22
    POPCNT = 0x1, 0, ECX, 23
    TSC_DEADLINE = 0x1, 0, ECX, 24
    AES = 0x1, 0, ECX, 25
    XSAVE = 0x1, 0, ECX, 26
    OSXSAVE = 0x1, 0, ECX, 27
    AVX = 0x1, 0, ECX, 28
    F16C = 0x1, 0, ECX, 29
    RDRAND = 0x1, 0, ECX, 30
    HYPERVISOR = 0x1, 0, ECX, 31
    # Leaf 1, EDX
    FPU = 0x1, 0, EDX, 0
    VME = 0x1, 0, EDX, 1
    DE = 0x1, 0, EDX, 2
    PSE = 0x1, 0, EDX, 3
    TSC = 0x1, 0, EDX, 4
    MSR = 0x1, 0, EDX, 5
    PAE = 0x1, 0, EDX, 6
    MCE = 0x1, 0, EDX, 7
    CX8 = 0x1, 0, EDX, 8
    APIC = 0x1, 0, EDX, 9
    SEP = 0x1, 0, EDX, 11
    MTRR = 0x1, 0, EDX, 12
    PGE = 0x1, 0, EDX, 13
    MCA = 0x1, 0, EDX, 14
    CMOV = 0x1, 0, EDX, 15
    PAT = 0x1, 0, EDX, 16
    PSE36 = 0x1, 0, EDX, 17
    PSN = 0x1, 0, EDX, 18
    CLFSH = 0x1, 0, EDX, 19
    DS = 0x1, 0, EDX, 21
    ACPI = 0x1, 0, EDX, 22
    MMX = 0x1, 0, EDX, 23
    FXSR = 0x1, 0, EDX, 24
    SSE = 0x1, 0, EDX, 25
    SSE2 = 0x1, 0, EDX, 26
    SS = 0x1, 0, EDX, 27
    HTT = 0x1, 0, EDX, 28
    TM = 0x1, 0, EDX, 29
    PBE = 0x1, 0, EDX, 31
    # Leaf 6 (power management)
    DIGITAL_THERMAL_SENSOR = 0x6, 0, EAX, 0
    TURBO_BOOST = 0x6, 0, EAX, 1
    ARAT = 0x6, 0, EAX, 2
    HWP = 0x6, 0, EAX, 7
    HWP_ENERGY_PERFORMANCE = 0x6, 0, EAX, 10
    HARDWARE_FEEDBACK = 0x6, 0, EAX, 19
    THREAD_DIRECTOR = 0x6, 0, EAX, 23
    APERFMPERF = 0x6, 0, ECX, 0
    ENERGY_PERFORMANCE_BIAS = 0x6, 0, ECX, 3
    # Leaf 7, subleaf 0, EBX
    FSGSBASE = 0x7, 0, EBX, 0
    TSC_ADJUST = 0x7, 0, EBX, 1
    SGX = 0x7, 0, EBX, 2
    BMI1 = 0x7, 0, EBX, 3
    HLE = 0x7, 0, EBX, 4
    AVX2 = 0x7, 0, EBX, 5
    SMEP = 0x7, 0, EBX, 7
    BMI2 = 0x7, 0, EBX, 8
    ERMS = 0x7, 0, EBX, 9
    INVPCID = 0x7, 0, EBX, 10
    RTM = 0x7, 0, EBX, 11
    RDT_M = 0x7, 0, EBX, 12
    MPX = 0x7, 0, EBX, 14
    RDT_A = 0x7, 0, EBX, 15
    AVX512F = 0x7, 0, EBX, 16
    AVX512DQ = 0x7, 0, EBX, 17
    RDSEED = 0x7, 0, EBX, 18
    ADX = 0x7, 0, EBX, 19
    SMAP = 0x7, 0, EBX, 20
    AVX512_IFMA = 0x7, 0, EBX, 21
    CLFLUSHOPT = 0x7, 0, EBX, 23
    CLWB = 0x7, 0, EBX, 24
    INTEL_PT = 0x7, 0, EBX, 25
    AVX512PF = 0x7, 0, EBX, 26
    AVX512ER = 0x7, 0, EBX, 27
    AVX512CD = 0x7, 0, EBX, 28
    SHA = 0x7, 0, EBX, 29
    AVX512BW = 0x7, 0, EBX, 30
    AVX512VL = 0x7, 0, EBX, 31
    # Leaf 7, subleaf 0, ECX
    PREFETCHWT1 = 0x7, 0, ECX, 0
    AVX512_VBMI = 0x7, 0, ECX, 1
    UMIP = 0x7, 0, ECX, 2
    PKU = 0x7, 0, ECX, 3
    OSPKE = 0x7, 0, ECX, 4
    WAITPKG = 0x7, 0, ECX, 5
    AVX512_VBMI2 = 0x7, 0, ECX, 6
    CET_SS = 0x7, 0, ECX, 7
    GFNI = 0x7, 0, ECX, 8
    VAES = 0x7, 0, ECX, 9
    VPCLMULQDQ = 0x7, 0, ECX, 10
    AVX512_VNNI = 0x7, 0, ECX, 11
    AVX512_BITALG = 0x7, 0, ECX, 12
    AVX512_VPOPCNTDQ = 0x7, 0, ECX, 14
    LA57 = 0x7, 0, ECX, 16
    RDPID = 0x7, 0, ECX, 22
    KEY_LOCKER = 0x7, 0, ECX, 23
    BUS_LOCK_DETECT = 0x7, 0, ECX, 24
    CLDEMOTE = 0x7, 0, ECX, 25
    MOVDIRI = 0x7, 0, ECX, 27
    MOVDIR64B = 0x7, 0, ECX, 28
    ENQCMD = 0x7, 0, ECX, 29
    SGX_LC = 0x7, 0, ECX, 30
    PKS = 0x7, 0, ECX, 31
    # Leaf 7, subleaf 0, EDX
    AVX512_4VNNIW = 0x7, 0, EDX, 2
    AVX512_4FMAPS = 0x7, 0, EDX, 3
    FSRM = 0x7, 0, EDX, 4
    UINTR = 0x7, 0, EDX, 5
    AVX512_VP2INTERSECT = 0x7, 0, EDX, 8
    SRBDS_CTRL = 0x7, 0, EDX, 9
    MD_CLEAR = 0x7, 0, EDX, 10
    RTM_ALWAYS_ABORT = 0x7, 0, EDX, 11
    RTM_FORCE_ABORT = 0x7, 0, EDX, 13
    SERIALIZE = 0x7, 0, EDX, 14
    HYBRID = 0x7, 0, EDX, 15
    TSXLDTRK = 0x7, 0, EDX, 16
    ARCH_LBR = 0x7, 0, EDX, 19
    CET_IBT = 0x7, 0, EDX, 20
    AMX_BF16 = 0x7, 0, EDX, 22
    AVX512_FP16 = 0x7, 0, EDX, 23
    AMX_TILE = 0x7, 0, EDX, 24
    AMX_INT8 = 0x7, 0, EDX, 25
    SPEC_CTRL = 0x7, 0, EDX, 26
    STIBP = 0x7, 0, EDX, 27
    L1D_FLUSH = 0x7, 0, EDX, 28
    ARCH_CAPABILITIES = 0x7, 0, EDX, 29
    CORE_CAPABILITIES = 0x7, 0, EDX, 30
    SSBD = 0x7, 0, EDX, 31
    # Leaf 7, subleaf 1
    SHA512 = 0x7, 1, EAX, 0
    SM3 = 0x7, 1, EAX, 1
    SM4 = 0x7, 1, EAX, 2
    AVX_VNNI = 0x7, 1, EAX, 4
    AVX512_BF16 = 0x7, 1, EAX, 5
    LASS = 0x7, 1, EAX, 6
    CMPCCXADD = 0x7, 1, EAX, 7
    FZRM = 0x7, 1, EAX, 10
    FSRS = 0x7, 1, EAX, 11
    FSRC = 0x7, 1, EAX, 12
    FRED = 0x7, 1, EAX, 17
    LKGS = 0x7, 1, EAX, 18
    WRMSRNS = 0x7, 1, EAX, 19
    AMX_FP16 = 0x7, 1, EAX, 21
    AVX_IFMA = 0x7, 1, EAX, 23
    LAM = 0x7, 1, EAX, 26
    AVX_VNNI_INT8 = 0x7, 1, EDX, 4
    AVX_NE_CONVERT = 0x7, 1, EDX, 5
    AMX_COMPLEX = 0x7, 1, EDX, 8
    AVX_VNNI_INT16 = 0x7, 1, EDX, 10
    PREFETCHI = 0x7, 1, EDX, 14
    AVX10 = 0x7, 1, EDX, 19
    APX_F = 0x7, 1, EDX, 21
    # Leaf 7, subleaf 2
    PSFD = 0x7, 2, EDX, 0
    IPRED_CTRL = 0x7, 2, EDX, 1
    RRSBA_CTRL = 0x7, 2, EDX, 2
    BHI_CTRL = 0x7, 2, EDX, 4
    MCDT_NO = 0x7, 2, EDX, 5
    # Leaf 0xD, subleaf 1 (XSAVE)
    XSAVEOPT = 0xD, 1, EAX, 0
    XSAVEC = 0xD, 1, EAX, 1
    XGETBV1 = 0xD, 1, EAX, 2
    XSAVES = 0xD, 1, EAX, 3
    XFD = 0xD, 1, EAX, 4
    # KVM's leaf: what the paravirtual interface offers
    KVM_CLOCKSOURCE = 0x4000_0001, 0, EAX, 0
    KVM_CLOCKSOURCE2 = 0x4000_0001, 0, EAX, 3
    KVM_ASYNC_PF = 0x4000_0001, 0, EAX, 4
    KVM_STEAL_TIME = 0x4000_0001, 0, EAX, 5
    KVM_PV_EOI = 0x4000_0001, 0, EAX, 6
    KVM_PV_UNHALT = 0x4000_0001, 0, EAX, 7
    KVM_PV_TLB_FLUSH = 0x4000_0001, 0, EAX, 9
    KVM_ASYNC_PF_VMEXIT = 0x4000_0001, 0, EAX, 10
    KVM_PV_SEND_IPI = 0x4000_0001, 0, EAX, 11
    KVM_POLL_CONTROL = 0x4000_0001, 0, EAX, 12
    KVM_PV_SCHED_YIELD = 0x4000_0001, 0, EAX, 13
    KVM_ASYNC_PF_INT = 0x4000_0001, 0, EAX, 14
    KVM_MSI_EXT_DEST_ID = 0x4000_0001, 0, EAX, 15
    KVM_HC_MAP_GPA_RANGE = 0x4000_0001, 0, EAX, 16
    KVM_MIGRATION_CONTROL = 0x4000_0001, 0, EAX, 17
    KVM_CLOCKSOURCE_STABLE = 0x4000_0001, 0, EAX, 24
    KVM_HINTS_REALTIME = 0x4000_0001, 0, EDX, 0
    # Leaf 0x80000001, ECX
    LAHF_SAHF = 0x8000_0001, 0, ECX, 0
    CMP_LEGACY = 0x8000_0001, 0, ECX, 1
    SVM = 0x8000_0001, 0, ECX, 2
    ALT_MOV_CR8 = 0x8000_0001, 0, ECX, 4
    ABM = 0x8000_0001, 0, ECX, 5
    SSE4A = 0x8000_0001, 0, ECX, 6
    MISALIGN_SSE = 0x8000_0001, 0, ECX, 7
    PREFETCHW = 0x8000_0001, 0, ECX, 8
    OSVW = 0x8000_0001, 0, ECX, 9
    IBS = 0x8000_0001, 0, ECX, 10
    XOP = 0x8000_0001, 0, ECX, 11
    SKINIT = 0x8000_0001, 0, ECX, 12
    FMA4 = 0x8000_0001, 0, ECX, 16
    TCE = 0x8000_0001, 0, ECX, 17
    NODEID_MSR = 0x8000_0001, 0, ECX, 19
    TOPOLOGY_EXTENSIONS = 0x8000_0001, 0, ECX, 22
    PERF_CTR_EXT_CORE = 0x8000_0001, 0, ECX, 23
    DATA_BREAKPOINT_EXT = 0x8000_0001, 0, ECX, 26
    MONITORX = 0x8000_0001, 0, ECX, 29
    # Leaf 0x80000001, EDX
    SYSCALL = 0x8000_0001, 0, EDX, 11
    NX = 0x8000_0001, 0, EDX, 20
    MMX_EXT = 0x8000_0001, 0, EDX, 22
    FFXSR = 0x8000_0001, 0, EDX, 25
    PDPE1GB = 0x8000_0001, 0, EDX, 26
    RDTSCP = 0x8000_0001, 0, EDX, 27
    LM = 0x8000_0001, 0, EDX, 29
    AMD_3DNOW_EXT = 0x8000_0001, 0, EDX, 30
    AMD_3DNOW = 0x8000_0001, 0, EDX, 31
    # Leaf 0x80000007 (advanced power management)
    MCA_OVERFLOW_RECOVERY = 0x8000_0007, 0, EBX, 0
    SUCCOR = 0x8000_0007, 0, EBX, 1
    SCALABLE_MCA = 0x8000_0007, 0, EBX, 3
    HW_PSTATE = 0x8000_0007, 0, EDX, 7
    INVARIANT_TSC = 0x8000_0007, 0, EDX, 8
    CORE_PERFORMANCE_BOOST = 0x8000_0007, 0, EDX, 9
    # Leaf 0x80000008, EBX
    CLZERO = 0x8000_0008, 0, EBX, 0
    RSTR_FP_ERR_PTRS = 0x8000_0008, 0, EBX, 2
    INVLPGB = 0x8000_0008, 0, EBX, 3
    RDPRU = 0x8000_0008, 0, EBX, 4
    WBNOINVD = 0x8000_0008, 0, EBX, 9
    AMD_IBPB = 0x8000_0008, 0, EBX, 12
    AMD_IBRS = 0x8000_0008, 0, EBX, 14
    AMD_STIBP = 0x8000_0008, 0, EBX, 15
    AMD_IBRS_ALWAYS_ON = 0x8000_0008, 0, EBX, 16
    AMD_STIBP_ALWAYS_ON = 0x8000_0008, 0, EBX, 17
    AMD_SSBD = 0x8000_0008, 0, EBX, 24
    AMD_VIRT_SSBD = 0x8000_0008, 0, EBX, 25
    AMD_SSB_NO = 0x8000_0008, 0, EBX, 26
    CPPC = 0x8000_0008, 0, EBX, 27
    AMD_PSFD = 0x8000_0008, 0, EBX, 28
    BTC_NO = 0x8000_0008, 0, EBX, 29


BY_PLACE: dict[tuple[int, int, Register, int], Feature] = {each.value: each for each in Feature}
"""The feature of each bit that has a name."""
