"""Registers in the run page: KVM copies them there at each exit, so that reading them costs no ioctl.

Some facts about when the copy holds. KVM fills it in whenever KVM_RUN returns, if `kvm_valid_regs` asks for
it. From then on it is right until something else changes the vCPU: any put by ioctl may (a put of Regs drops
a pending exception, a put of Lapic changes CR8), and so may asking for MpState.

The other direction: a put of Regs goes into the page, and `kvm_dirty_regs` tells KVM to take it at the next
KVM_RUN. Two cases need care. Any ioctl before that run must see the new registers, so they are handed over
first. And a vCPU that still waits for its SIPI leaves KVM_RUN before KVM looks at the page, which then holds
the old registers again.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from typing import Any

import attrs

from anyvisor.errors import Unsupported
from anyvisor.states import VcpuState
from anyvisor.x86_64.state import MpState, Regs, Sregs, VcpuEvents
from anyvisor_kvm.run_page import DIRTY_REGS_U64, SYNC_REGS, VALID_REGS_U64, RunPage
from anyvisor_kvm.x86_64 import abi
from anyvisor_kvm.x86_64.events import events_from_kvm
from anyvisor_kvm.x86_64.fds import X86VcpuFd
from anyvisor_kvm.x86_64.states import regs_from_kvm, regs_to_kvm, sregs_from_kvm

KINDS: dict[type[VcpuState], tuple[int, int, type[Any], Callable[[Any], VcpuState]]] = {
    Regs: (abi.KVM_SYNC_X86_REGS, abi.kvm_sync_regs.regs.offset, abi.kvm_regs, regs_from_kvm),
    Sregs: (abi.KVM_SYNC_X86_SREGS, abi.kvm_sync_regs.sregs.offset, abi.kvm_sregs, sregs_from_kvm),
    VcpuEvents: (
        abi.KVM_SYNC_X86_EVENTS,
        abi.kvm_sync_regs.events.offset,
        abi.kvm_vcpu_events,
        events_from_kvm,
    ),
}
REGS = SYNC_REGS + abi.kvm_sync_regs.regs.offset
NOTHING: frozenset[type[VcpuState]] = frozenset()


class SyncedRegisters:
    """The registers of one vCPU that are kept in its run page; see `anyvisor_kvm.architecture.Synced`."""

    def __init__(self, fd: X86VcpuFd, page: RunPage):
        self._fd = fd
        self._page = page
        self._kept = NOTHING
        self._fresh = NOTHING
        """Of which states the page holds what the vCPU has."""
        self._waiting = abi.kvm_regs()
        """The registers that KVM has not taken from the page yet, as long as its dirty bit says so."""

    def keep(self, kinds: tuple[type[VcpuState], ...]) -> None:  # noqa: D102
        bits = 0
        for kind in kinds:
            if kind not in KINDS or not KINDS[kind][0] & self._fd.sync_bits:
                raise Unsupported(f"KVM cannot keep {kind.__name__} in the run page here; leave it out of keep_in_sync")
            bits |= KINDS[kind][0]
        self._hand_over()
        self._page.u64[VALID_REGS_U64] = bits
        self._kept, self._fresh = frozenset(kinds), NOTHING

    def get(self, kind: type[VcpuState]) -> VcpuState | None:  # noqa: D102
        if kind in self._fresh:
            _, offset, structure, convert = KINDS[kind]
            return convert(structure.from_buffer_copy(self._page.u8, SYNC_REGS + offset))
        self._hand_over()
        if kind is MpState:
            self._fresh = NOTHING
        return None

    def put(self, state: VcpuState) -> bool:  # noqa: D102
        if isinstance(state, Regs) and Regs in self._kept:
            self._waiting = regs_to_kvm(attrs.evolve(state, rflags=state.rflags.replace(fixed=True)))
            self._show_waiting()
            self._page.u64[DIRTY_REGS_U64] = abi.KVM_SYNC_X86_REGS
            self._fresh = (self._fresh | {Regs}) - {VcpuEvents}
            return True
        self._hand_over()
        self._fresh = NOTHING
        return False

    def running(self) -> None:  # noqa: D102
        self._fresh = NOTHING
        self.interrupted()

    def interrupted(self) -> None:  # noqa: D102
        if self._page.u64[DIRTY_REGS_U64]:
            self._show_waiting()

    def ran(self) -> None:  # noqa: D102
        self._fresh = self._kept - {VcpuEvents} if self._page.u64[DIRTY_REGS_U64] else self._kept

    def _show_waiting(self) -> None:
        self._page.u8[REGS : REGS + ctypes.sizeof(abi.kvm_regs)] = bytes(self._waiting)

    def _hand_over(self) -> None:
        if self._page.u64[DIRTY_REGS_U64]:
            self._page.u64[DIRTY_REGS_U64] = 0
            self._fd.set_regs(self._waiting)
