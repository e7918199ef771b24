"""From what KVM leaves in the run page to the exits of `anyvisor.exits`."""

from __future__ import annotations

from collections.abc import Callable

from anyvisor.exits import (
    DebugTrap,
    Exit,
    Halted,
    Kicked,
    MemoryFault,
    Shutdown,
    SystemEvent,
)
from anyvisor_kvm.abi import ExitReason, kvm_run_internal, kvm_run_system_event
from anyvisor_kvm.architecture import host_architecture
from anyvisor_kvm.exit_abi import KVM_MEMORY_EXIT_FLAG_PRIVATE
from anyvisor_kvm.exit_fields import unknown_exit
from anyvisor_kvm.run_page import EXIT_REASON_U32, UNION_WORDS, RunPage

SYSTEM_EVENTS = {1: "shutdown", 2: "reset", 3: "crash", 4: "wakeup", 5: "suspend", 6: "sev-termination"}
MEMORY_FAULTS = {KVM_MEMORY_EXIT_FLAG_PRIVATE: "the access was to private memory"}


def decode(page: RunPage) -> Exit:
    """The exit in the run page, as a value; an `UnknownExit` when there is no class for it."""
    decoder = _DECODERS.get(page.u32[EXIT_REASON_U32], unknown_exit)
    return decoder(page)


def _fail_entry(page: RunPage) -> Exit:
    reason, cpu = page.words(2)
    return host_architecture().fail_entry(reason, cpu & 0xFFFFFFFF)


def _internal_error(page: RunPage) -> Exit:
    code, count = _code_and_count(page)
    return host_architecture().internal_error(code, page.words(count, kvm_run_internal.data.offset))


def _system_event(page: RunPage) -> Exit:
    code, count = _code_and_count(page)
    kind = SYSTEM_EVENTS.get(code, f"system event {code}")
    return SystemEvent(kind, page.words(count, kvm_run_system_event.data.offset))


def _code_and_count(page: RunPage) -> tuple[int, int]:
    """The two 32-bit words both kinds begin with: a code, and how many 64-bit words follow."""
    (word,) = page.words(1)
    return word & 0xFFFFFFFF, min(word >> 32, kvm_run_internal.data.size // 8, UNION_WORDS)


def _memory_fault(page: RunPage) -> Exit:
    flags, guest_address, size_bytes = page.words(3)
    return MemoryFault(guest_address, size_bytes, flags, MEMORY_FAULTS.get(flags, ""))


def _debug(page: RunPage) -> Exit:
    """x86: kvm_debug_exit_arch. Other architectures have their own words here and no caller yet."""
    exception, rip, dr6, dr7 = page.words(4)
    return DebugTrap(vector=exception & 0xFFFFFFFF, rip=rip, dr6=dr6, dr7=dr7)


_DECODERS: dict[int, Callable[[RunPage], Exit]] = {
    ExitReason.HLT: lambda _: Halted(),
    ExitReason.SHUTDOWN: lambda _: Shutdown(),
    ExitReason.INTR: lambda _: Kicked(),
    ExitReason.FAIL_ENTRY: _fail_entry,
    ExitReason.INTERNAL_ERROR: _internal_error,
    ExitReason.SYSTEM_EVENT: _system_event,
    ExitReason.MEMORY_FAULT: _memory_fault,
    ExitReason.DEBUG: _debug,
}
