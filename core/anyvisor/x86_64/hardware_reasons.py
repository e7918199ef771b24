"""Why a processor left a guest, or would not enter it: the numbers of VMX and SVM by name.

Some facts about the numbers. The two extensions number differently and a hypervisor hands on what it gets, so the same
small number means one thing on an Intel processor and another on an AMD one. Three shapes can be told apart. VMX marks
an entry that failed while the guest's state was loaded by bit 31 of the exit reason (SDM Vol. 3, 27.8). An instruction
that fails before that has a VM-instruction error instead, a small number of a table of its own (31.4). SVM has one code
for a state that VMRUN refuses, -1, which is of 64 bits in the processor and of 32 in older KVMs (APM Vol. 2, 15.5.1).
"""

from __future__ import annotations

import enum

ENTRY_FAILED = 1 << 31
"""Bit of a VMX exit reason: the guest was never entered. SDM Vol. 3, 25.9.1."""
BASIC_MASK = 0xFFFF
"""Of a VMX exit reason: the basic one."""
EXTENSIONS = ("vmx", "svm")


class VmxExit(enum.IntEnum):
    """Basic exit reasons of VMX; SDM Vol. 3, appendix C."""

    EXCEPTION_NMI = 0
    EXTERNAL_INTERRUPT = 1
    TRIPLE_FAULT = 2
    INIT_SIGNAL = 3
    SIPI_SIGNAL = 4
    IO_SMI = 5
    OTHER_SMI = 6
    INTERRUPT_WINDOW = 7
    NMI_WINDOW = 8
    TASK_SWITCH = 9
    CPUID = 10
    GETSEC = 11
    HLT = 12
    INVD = 13
    INVLPG = 14
    RDPMC = 15
    RDTSC = 16
    RSM = 17
    VMCALL = 18
    VMCLEAR = 19
    VMLAUNCH = 20
    VMPTRLD = 21
    VMPTRST = 22
    VMREAD = 23
    VMRESUME = 24
    VMWRITE = 25
    VMXOFF = 26
    VMXON = 27
    CR_ACCESS = 28
    DR_ACCESS = 29
    IO_INSTRUCTION = 30
    MSR_READ = 31
    MSR_WRITE = 32
    INVALID_STATE = 33
    MSR_LOAD_FAIL = 34
    MWAIT_INSTRUCTION = 36
    MONITOR_TRAP_FLAG = 37
    MONITOR_INSTRUCTION = 39
    PAUSE_INSTRUCTION = 40
    MCE_DURING_VMENTRY = 41
    TPR_BELOW_THRESHOLD = 43
    APIC_ACCESS = 44
    EOI_INDUCED = 45
    GDTR_IDTR = 46
    LDTR_TR = 47
    EPT_VIOLATION = 48
    EPT_MISCONFIG = 49
    INVEPT = 50
    RDTSCP = 51
    PREEMPTION_TIMER = 52
    INVVPID = 53
    WBINVD = 54
    XSETBV = 55
    APIC_WRITE = 56
    RDRAND = 57
    INVPCID = 58
    VMFUNC = 59
    ENCLS = 60
    RDSEED = 61
    PML_FULL = 62
    XSAVES = 63
    XRSTORS = 64
    PCONFIG = 65
    SPP_EVENT = 66
    UMWAIT = 67
    TPAUSE = 68
    LOADIWKEY = 69
    ENCLV = 70
    ENQCMD_PASID = 72
    ENQCMDS_PASID = 73
    BUS_LOCK = 74
    NOTIFY = 75
    SEAMCALL = 76
    TDCALL = 77


class VmInstructionError(enum.IntEnum):
    """VM-instruction error numbers of VMX; SDM Vol. 3, 31.4. VM_ENTRY is VMLAUNCH or VMRESUME."""

    VMCALL_IN_ROOT_OPERATION = 1
    VMCLEAR_INVALID_ADDRESS = 2
    VMCLEAR_VMXON_POINTER = 3
    VMLAUNCH_NOT_CLEAR = 4
    VMRESUME_NOT_LAUNCHED = 5
    VMRESUME_AFTER_VMXOFF = 6
    VM_ENTRY_INVALID_CONTROLS = 7
    VM_ENTRY_INVALID_HOST_STATE = 8
    VMPTRLD_INVALID_ADDRESS = 9
    VMPTRLD_VMXON_POINTER = 10
    VMPTRLD_WRONG_REVISION = 11
    UNSUPPORTED_COMPONENT = 12
    VMWRITE_READ_ONLY = 13
    VMXON_IN_ROOT_OPERATION = 15
    VM_ENTRY_INVALID_EXECUTIVE_VMCS = 16
    VM_ENTRY_EXECUTIVE_NOT_LAUNCHED = 17
    VM_ENTRY_EXECUTIVE_NOT_VMXON_POINTER = 18
    VMCALL_NOT_CLEAR = 19
    VMCALL_INVALID_EXIT_CONTROLS = 20
    VMCALL_WRONG_MSEG_REVISION = 22
    VMXOFF_UNDER_DUAL_MONITOR = 23
    VMCALL_INVALID_SMM_FEATURES = 24
    VM_ENTRY_INVALID_EXECUTIVE_CONTROLS = 25
    VM_ENTRY_BLOCKED_BY_MOV_SS = 26
    INVEPT_INVVPID_INVALID_OPERAND = 28


class SvmExit(enum.IntEnum):
    """Exit codes of SVM that stand alone; `svm_exit` knows those that are numbered through. APM Vol. 2, appendix C."""

    INTR = 0x60
    NMI = 0x61
    SMI = 0x62
    INIT = 0x63
    VINTR = 0x64
    CR0_SEL_WRITE = 0x65
    IDTR_READ = 0x66
    GDTR_READ = 0x67
    LDTR_READ = 0x68
    TR_READ = 0x69
    IDTR_WRITE = 0x6A
    GDTR_WRITE = 0x6B
    LDTR_WRITE = 0x6C
    TR_WRITE = 0x6D
    RDTSC = 0x6E
    RDPMC = 0x6F
    PUSHF = 0x70
    POPF = 0x71
    CPUID = 0x72
    RSM = 0x73
    IRET = 0x74
    SWINT = 0x75
    INVD = 0x76
    PAUSE = 0x77
    HLT = 0x78
    INVLPG = 0x79
    INVLPGA = 0x7A
    IOIO = 0x7B
    MSR = 0x7C
    TASK_SWITCH = 0x7D
    FERR_FREEZE = 0x7E
    SHUTDOWN = 0x7F
    VMRUN = 0x80
    VMMCALL = 0x81
    VMLOAD = 0x82
    VMSAVE = 0x83
    STGI = 0x84
    CLGI = 0x85
    SKINIT = 0x86
    RDTSCP = 0x87
    ICEBP = 0x88
    WBINVD = 0x89
    MONITOR = 0x8A
    MWAIT = 0x8B
    MWAIT_COND = 0x8C
    XSETBV = 0x8D
    RDPRU = 0x8E
    EFER_WRITE_TRAP = 0x8F
    INVLPGB = 0xA0
    INVLPGB_ILLEGAL = 0xA1
    INVPCID = 0xA2
    MCOMMIT = 0xA3
    TLBSYNC = 0xA4
    BUSLOCK = 0xA5
    IDLE_HLT = 0xA6
    NPF = 0x400
    AVIC_INCOMPLETE_IPI = 0x401
    AVIC_UNACCELERATED_ACCESS = 0x402
    VMGEXIT = 0x403
    INVALID_PMC = -4
    IDLE_REQUIRED = -3
    BUSY = -2
    INVALID = -1


SVM_NUMBERED = (
    (0x00, "READ_CR{}", 16),
    (0x10, "WRITE_CR{}", 16),
    (0x20, "READ_DR{}", 16),
    (0x30, "WRITE_DR{}", 16),
    (0x40, "EXCP{}", 32),
    (0x90, "CR{}_WRITE_TRAP", 16),
)
"""Exit codes of SVM that are numbered through: the first, their names, and how many there are."""
REFUSALS: dict[int, str] = {
    VmxExit.INVALID_STATE: "the guest's state is invalid",
    VmxExit.MSR_LOAD_FAIL: "an MSR of the guest's could not be loaded",
    VmxExit.MCE_DURING_VMENTRY: "a machine check came meanwhile",
    SvmExit.INVALID: "the guest's state, or what VMRUN was asked for, is invalid",
    SvmExit.BUSY: "another processor is using the state of this vCPU",
    SvmExit.IDLE_REQUIRED: "the other thread of the core is not idle",
    SvmExit.INVALID_PMC: "the state of the performance counters is invalid",
}
"""Why a guest was not entered."""


def vmx_exit(reason: int) -> str:
    """The name of a VMX exit reason, which may have bits above the basic one; empty for one without."""
    basic = reason & BASIC_MASK
    known = 0 <= reason < 1 << 32 and basic in VmxExit._value2member_map_
    return VmxExit(basic).name if known else ""


def svm_exit(code: int) -> str:
    """The name of an SVM exit code, of 32 or 64 bits or signed; empty for one without."""
    code = _signed(code)
    if code in SvmExit._value2member_map_:
        return SvmExit(code).name
    found = [name.format(code - first) for first, name, count in SVM_NUMBERED if 0 <= code - first < count]
    return found[0] if found else ""


def exit_reason(number: int, extension: str | None = None) -> str:
    """Why a processor left the guest, by name: `EPT_VIOLATION`; empty for a number without.

    `extension` is the processor's, `vmx` or `svm`. Where it is not known and both have the number, both are told:
    `VMX: EPT_VIOLATION, SVM: EXCP0`.
    """
    return _told({"vmx": vmx_exit(number), "svm": svm_exit(number)}, extension)


def entry_failure(reason: int, extension: str | None = None) -> str:
    """Why a processor refused to enter the guest, in words; empty for a number that means nothing of the kind.

    `reason` is what KVM calls the hardware entry failure reason, `extension` as for `exit_reason`.
    """
    return _told({"vmx": _vmx_refusal(reason), "svm": _svm_refusal(reason)}, extension)


def _told(meanings: dict[str, str], extension: str | None) -> str:
    known = {name: words for name, words in meanings.items() if words}
    if extension in known or len(known) < len(EXTENSIONS):
        return known.get(extension or "", "".join(known.values()))
    return ", ".join(f"{name.upper()}: {words}" for name, words in known.items())


def _vmx_refusal(reason: int) -> str:
    if reason in VmInstructionError._value2member_map_:
        name = VmInstructionError(reason).name
        return f"VM-instruction error {reason}, {name} (SDM Vol. 3, 31.4)"
    name = vmx_exit(reason) if reason & ENTRY_FAILED else ""
    if not name:
        return ""
    exit_ = VmxExit[name]
    why = f"{REFUSALS[exit_]}: " if exit_ in REFUSALS else ""
    return f"{why}VM-entry failure {exit_.value}, {name} (SDM Vol. 3, 27.8)"


def _svm_refusal(reason: int) -> str:
    name, code = svm_exit(reason), _signed(reason)
    if not name:
        return ""
    if code >= 0:
        return f"exit code {code:#x}, VMEXIT_{name} (APM Vol. 2, appendix C)"
    return f"{REFUSALS[SvmExit(code)]}: VMEXIT_{name}, {code} (APM Vol. 2, 15.5.1 and appendix C)"


def _signed(code: int) -> int:
    """A code of 64 or 32 bits as the signed number that it stands for, as far as it is one of those few."""
    for bits in (64, 32):
        if code - (1 << bits) in SvmExit._value2member_map_:
            return code - (1 << bits)
    return code
