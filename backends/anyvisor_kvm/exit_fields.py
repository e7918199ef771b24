"""Exits that the backend does not handle: their fields by name, and what the numbers among them say in words."""

from __future__ import annotations

import ctypes
from collections.abc import Iterator, Mapping

from anyvisor.exits import UnknownExit
from anyvisor_kvm import exit_abi
from anyvisor_kvm.abi import ExitReason, Struct
from anyvisor_kvm.run_page import EXIT_REASON_U32, UNION, RunPage

FIELDS: dict[int, type[Struct]] = {
    ExitReason.UNKNOWN: exit_abi.kvm_run_hw,
    ExitReason.EXCEPTION: exit_abi.kvm_run_ex,
    ExitReason.HYPERCALL: exit_abi.kvm_run_hypercall,
    ExitReason.TPR_ACCESS: exit_abi.kvm_run_tpr_access,
    ExitReason.IOAPIC_EOI: exit_abi.kvm_run_eoi,
    ExitReason.ARM_NISV: exit_abi.kvm_run_arm_nisv,
    ExitReason.X86_RDMSR: exit_abi.kvm_run_msr,
    ExitReason.X86_WRMSR: exit_abi.kvm_run_msr,
    ExitReason.RISCV_SBI: exit_abi.kvm_run_riscv_sbi,
    ExitReason.RISCV_CSR: exit_abi.kvm_run_riscv_csr,
    ExitReason.NOTIFY: exit_abi.kvm_run_notify,
}
"""What is particular to an exit reason. Those that are in neither table have no fields, or are not known here."""
FIELDS_BY_TYPE: dict[int, Mapping[int, type[Struct]]] = {
    ExitReason.HYPERV: {
        exit_abi.KVM_EXIT_HYPERV_SYNIC: exit_abi.kvm_hyperv_synic,
        exit_abi.KVM_EXIT_HYPERV_HCALL: exit_abi.kvm_hyperv_hcall,
        exit_abi.KVM_EXIT_HYPERV_SYNDBG: exit_abi.kvm_hyperv_syndbg,
    },
    ExitReason.XEN: {exit_abi.KVM_EXIT_XEN_HCALL: exit_abi.kvm_xen_hcall},
}
"""Of exits whose first 32 bits say what the others are."""
WITHOUT_FIELDS = frozenset(
    {
        ExitReason.IRQ_WINDOW_OPEN,
        ExitReason.SET_TPR,
        ExitReason.NMI,
        ExitReason.WATCHDOG,
        ExitReason.DIRTY_RING_FULL,
        ExitReason.AP_RESET_HOLD,
        ExitReason.X86_BUS_LOCK,
    }
)
WORDS_OF_STRANGERS = 4
"""How many 64-bit words are told of an exit that is not known here."""
MSR_REASONS = {
    exit_abi.KVM_MSR_EXIT_REASON_INVAL: "KVM or the processor refuses it",
    exit_abi.KVM_MSR_EXIT_REASON_UNKNOWN: "KVM does not know the MSR",
    exit_abi.KVM_MSR_EXIT_REASON_FILTER: "the VM's MSR filter denies it",
}
CAUSES: dict[int, str] = {
    ExitReason.IRQ_WINDOW_OPEN: "the guest would take an interrupt now",
    ExitReason.SET_TPR: "the guest has changed its task priority",
    ExitReason.DIRTY_RING_FULL: "the ring of dirty pages is full",
    ExitReason.X86_BUS_LOCK: "the guest has locked the bus",
    ExitReason.X86_RDMSR: "RDMSR by the guest",
    ExitReason.X86_WRMSR: "WRMSR by the guest",
    ExitReason.NOTIFY: "the guest has kept the processor from taking events for too long",
}
TYPES: dict[tuple[int, int], str] = {
    (ExitReason.HYPERV, exit_abi.KVM_EXIT_HYPERV_SYNIC): "the guest has set up the synthetic interrupt controller",
    (ExitReason.HYPERV, exit_abi.KVM_EXIT_HYPERV_HCALL): "a Hyper-V hypercall",
    (ExitReason.HYPERV, exit_abi.KVM_EXIT_HYPERV_SYNDBG): "the guest uses the synthetic debugger",
    (ExitReason.XEN, exit_abi.KVM_EXIT_XEN_HCALL): "a Xen hypercall",
}


def unknown_exit(page: RunPage) -> UnknownExit:
    """The exit in the run page, with its fields by name."""
    number = page.u32[EXIT_REASON_U32]
    name = ExitReason(number).name if number in ExitReason._value2member_map_ else "?"
    kinds = FIELDS_BY_TYPE.get(number, {})
    kind = kinds.get(page.u32[UNION // 4]) if kinds else FIELDS.get(number)
    if kind is None:
        count = 0 if number in WITHOUT_FIELDS else WORDS_OF_STRANGERS
        return UnknownExit(number, name, page.words(count), cause=CAUSES.get(number, ""))
    fields = dict(_named(kind.from_buffer_copy(page.u8, UNION)))
    words = page.words(-(-ctypes.sizeof(kind) // 8))
    return UnknownExit(number, name, words, tuple(fields.items()), _cause(number, fields))


def _named(structure: Struct) -> Iterator[tuple[str, int]]:
    """Fields by name, the items of arrays as `args[0]`."""
    for name, *_ in structure._fields_:
        value = getattr(structure, name)
        if name.startswith("pad"):
            continue
        if isinstance(value, int):
            yield name, value
        else:
            yield from ((f"{name}[{index}]", item) for index, item in enumerate(value))


def _cause(number: int, fields: Mapping[str, int]) -> str:
    if (found := TYPES.get((number, fields.get("type", 0)))) is not None:
        return found
    cause = CAUSES.get(number, "")
    if number in (ExitReason.X86_RDMSR, ExitReason.X86_WRMSR):
        return f"{cause}: {MSR_REASONS.get(fields['reason'], 'for a reason without a name')}"
    if number == ExitReason.NOTIFY and fields["flags"] & exit_abi.KVM_NOTIFY_CONTEXT_INVALID:
        return f"{cause}, and its state is corrupt"
    return cause
