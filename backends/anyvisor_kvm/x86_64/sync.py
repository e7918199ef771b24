"""Registers in the run page: KVM copies them there at each exit, so that reading them costs no ioctl.

Some facts about when the copy holds. KVM fills it in whenever KVM_RUN returns, if `kvm_valid_regs` asks for it. It is
right until something else changes the vCPU: any put may (one of Regs drops a pending exception, one of Lapic changes
CR8), and so may asking for MpState.

The other direction is not used: registers left in the page for the next KVM_RUN to take (`kvm_dirty_regs`). A vCPU
that waits for its SIPI leaves KVM_RUN before KVM looks at the page, and overwrites it; and when the SIPI has come, the
next KVM_RUN would put the old registers over those of the reset.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from anyvisor.errors import Unsupported
from anyvisor.states import VcpuState
from anyvisor.x86_64.state import MpState, Regs, Sregs, VcpuEvents
from anyvisor_kvm.run_page import SYNC_REGS, VALID_REGS_U64, RunPage
from anyvisor_kvm.x86_64 import abi
from anyvisor_kvm.x86_64.events import events_from_kvm
from anyvisor_kvm.x86_64.extension import host_extension
from anyvisor_kvm.x86_64.fds import X86VcpuFd
from anyvisor_kvm.x86_64.states import regs_from_kvm, sregs_from_kvm

KINDS: dict[type[VcpuState], tuple[int, int, type[Any], Callable[[Any], VcpuState]]] = {
    Regs: (abi.KVM_SYNC_X86_REGS, abi.kvm_sync_regs.regs.offset, abi.kvm_regs, regs_from_kvm),
    Sregs: (abi.KVM_SYNC_X86_SREGS, abi.kvm_sync_regs.sregs.offset, abi.kvm_sregs, sregs_from_kvm),
    VcpuEvents: (abi.KVM_SYNC_X86_EVENTS, abi.kvm_sync_regs.events.offset, abi.kvm_vcpu_events, events_from_kvm),
}
"""KVM's bit, the offset among the synced registers, the structure there, and how to read it."""
NOTHING: frozenset[type[VcpuState]] = frozenset()
RIP_U64 = (SYNC_REGS + abi.kvm_sync_regs.regs.offset + abi.kvm_regs.rip.offset) // 8
REGS_AND_SREGS = slice(SYNC_REGS, SYNC_REGS + abi.kvm_sync_regs.events.offset)
"""The two lie one behind the other."""
RESET_AT_DEATH = "svm"
"""The extension with which KVM resets a vCPU that shuts down."""


class SyncedRegisters:
    """The registers of one vCPU that are kept in its run page; see `anyvisor_kvm.architecture.Synced`."""

    def __init__(self, fd: X86VcpuFd, page: RunPage):
        self._available = fd.sync_bits
        self._fd = fd
        self._page = page
        self._kept = NOTHING
        self._recorded = 0
        self._fresh = NOTHING
        """Of which states the page holds what the vCPU has."""

    def keep(self, kinds: tuple[type[VcpuState], ...]) -> None:  # noqa: D102
        bits = 0
        for kind in kinds:
            if kind not in KINDS or not KINDS[kind][0] & self._available:
                raise Unsupported(f"KVM cannot keep {kind.__name__} in the run page; leave it out of keep_in_sync")
            bits |= KINDS[kind][0]
        self._page.u64[VALID_REGS_U64] = bits | self._recorded
        self._kept, self._fresh = frozenset(kinds), NOTHING

    def get(self, kind: type[VcpuState]) -> VcpuState | None:  # noqa: D102
        if kind is MpState:
            self.forget()
        if kind not in self._fresh:
            return None
        _, offset, structure, convert = KINDS[kind]
        return convert(structure.from_buffer_copy(self._page.u8, SYNC_REGS + offset))

    def forget(self) -> None:  # noqa: D102
        self._fresh = NOTHING

    def refresh(self) -> None:  # noqa: D102
        self._fresh = self._kept

    def record(self) -> tuple[int, slice | None]:  # noqa: D102
        dies_reset = host_extension() == RESET_AT_DEATH
        wanted = abi.KVM_SYNC_X86_REGS | (abi.KVM_SYNC_X86_SREGS if dies_reset else 0)
        self._recorded = wanted & self._available
        self._page.u64[VALID_REGS_U64] |= self._recorded
        return RIP_U64, REGS_AND_SREGS if dies_reset else None

    def fill(self) -> None:  # noqa: D102
        self._page.mapping[REGS_AND_SREGS] = bytes(self._fd.get_regs()) + bytes(self._fd.get_sregs())

    def states_in(self, kept: bytes) -> dict[type[VcpuState], VcpuState]:  # noqa: D102
        start = abi.kvm_sync_regs.sregs.offset
        regs, sregs = abi.kvm_regs.from_buffer_copy(kept), abi.kvm_sregs.from_buffer_copy(kept, start)
        return {Regs: regs_from_kvm(regs), Sregs: sregs_from_kvm(sregs)}
