"""KVM's binary interface: the fields of exits that the backend does not handle, and tells by name.

Names are those of linux/kvm.h, and the tests compare offsets and sizes with what a C compiler says. `pad` is what no
field is.
"""

# ruff: noqa: N801, D101 - the names are the kernel's, and so is what they mean

from __future__ import annotations

from ctypes import c_uint8, c_uint32, c_uint64

from anyvisor_kvm.abi import Struct, alike

KVM_INTERNAL_ERROR_EMULATION_FLAG_INSTRUCTION_BYTES = 1 << 0
KVM_EXIT_HYPERV_SYNIC, KVM_EXIT_HYPERV_HCALL, KVM_EXIT_HYPERV_SYNDBG = 1, 2, 3
KVM_EXIT_XEN_HCALL = 1
KVM_MSR_EXIT_REASON_INVAL, KVM_MSR_EXIT_REASON_UNKNOWN, KVM_MSR_EXIT_REASON_FILTER = 1 << 0, 1 << 1, 1 << 2
KVM_NOTIFY_CONTEXT_INVALID = 1 << 0
KVM_MEMORY_EXIT_FLAG_PRIVATE = 1 << 3


class kvm_run_hw(Struct):
    _fields_ = [("hardware_exit_reason", c_uint64)]


class kvm_run_ex(Struct):
    _fields_ = alike(c_uint32, "exception error_code")


class kvm_run_hypercall(Struct):
    _fields_ = [("nr", c_uint64), ("args", c_uint64 * 6), ("ret", c_uint64), ("longmode", c_uint32)]


class kvm_run_tpr_access(Struct):
    _fields_ = [("rip", c_uint64), ("is_write", c_uint32)]


class kvm_run_emulation_failure(Struct):
    _fields_ = [
        *alike(c_uint32, "suberror ndata"),
        ("flags", c_uint64),
        ("insn_size", c_uint8),
        ("insn_bytes", c_uint8 * 15),
    ]


class kvm_run_eoi(Struct):
    _fields_ = [("vector", c_uint8)]


class kvm_run_arm_nisv(Struct):
    _fields_ = alike(c_uint64, "esr_iss fault_ipa")


class kvm_run_msr(Struct):
    _fields_ = [
        ("error", c_uint8),
        ("pad", c_uint8 * 7),
        *alike(c_uint32, "reason index"),
        ("data", c_uint64),
    ]


class kvm_run_riscv_sbi(Struct):
    _fields_ = [*alike(c_uint64, "extension_id function_id"), ("args", c_uint64 * 6), ("ret", c_uint64 * 2)]


class kvm_run_riscv_csr(Struct):
    _fields_ = alike(c_uint64, "csr_num new_value write_mask ret_value")


class kvm_run_notify(Struct):
    _fields_ = [("flags", c_uint32)]


class kvm_hyperv_synic(Struct):
    """`kvm_hyperv_exit` of that type; its like stand below."""

    _fields_ = [
        *alike(c_uint32, "type pad1 msr pad2"),
        *alike(c_uint64, "control evt_page msg_page"),
    ]


class kvm_hyperv_hcall(Struct):
    _fields_ = [*alike(c_uint32, "type pad1"), *alike(c_uint64, "input result"), ("params", c_uint64 * 2)]


class kvm_hyperv_syndbg(Struct):
    _fields_ = [
        *alike(c_uint32, "type pad1 msr pad2"),
        *alike(c_uint64, "control status send_page recv_page pending_page"),
    ]


class kvm_xen_hcall(Struct):
    """`kvm_xen_exit` of that type."""

    _fields_ = [
        *alike(c_uint32, "type pad longmode cpl"),
        *alike(c_uint64, "input result"),
        ("params", c_uint64 * 6),
    ]
