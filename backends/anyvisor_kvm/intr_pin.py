"""The INTR pin of a vCPU whose interrupt controllers are the machine's own: when interrupts go in, and how HLT waits.

Some facts about KVM without interrupt controllers. It takes an interrupt by KVM_INTERRUPT whenever it is given one, so
it must be given one only when the guest can take it: interrupts on, no interrupt shadow, nothing else on its way in.
`ready_for_interrupt_injection` in the run page says so, as of the last KVM_RUN. While it is 0, KVM_RUN comes back for
`request_interrupt_window` as soon as it is 1. During an I/O exit it speaks of an instruction that is not over yet, so
nothing goes in there: a notification ends the next KVM_RUN at once (`kick`), which finishes the instruction first.

HLT always ends KVM_RUN, and the next one goes on behind it, so the wait is ours to keep. KVM asks what to do about a
lower CR8 (KVM_EXIT_SET_TPR), which is nothing: interrupts of an 8259 pair pass by it, and a local APIC of the machine's
own has its task priority in its own register.
"""

from __future__ import annotations

from collections.abc import Callable

from anyvisor.bus import Bus
from anyvisor.exits import Exit, Halted, Kicked
from anyvisor.interrupts import InterruptSource
from anyvisor_kvm.abi import ExitReason, kvm_interrupt, kvm_run
from anyvisor_kvm.fds import VcpuFd
from anyvisor_kvm.kick import Kicker
from anyvisor_kvm.run_page import EXIT_REASON_U32, RunPage

REQUEST_WINDOW = kvm_run.request_interrupt_window.offset
READY = kvm_run.ready_for_interrupt_injection.offset
IF_FLAG = kvm_run.if_flag.offset
TO_GO_ON = (ExitReason.IRQ_WINDOW_OPEN, ExitReason.SET_TPR)


class IntrPin:
    """One vCPU's pin, wired to `source`. `enter(bus)` runs the guest until it leaves for anything but I/O."""

    def __init__(
        self, fd: VcpuFd, page: RunPage, kicker: Kicker, source: InterruptSource, enter: Callable[[Bus], Exit]
    ):
        self._fd = fd
        self._page = page
        self._kicker = kicker
        self._source = source
        self._enter = enter

    def run(self, bus: Bus) -> Exit:
        """Run the guest, with interrupts, until there is something to decide on."""
        with self._kicker.staying_out():
            self._enter(bus)  # its state may have been put: let the run page speak of it
        while True:
            if self._fd.halted and not self._page.u8[IF_FLAG]:
                self._fd.halted = False
                return Halted()
            self._offer()
            if self._fd.halted:
                if not self._kicker.wait():
                    return Kicked()
            elif not self._goes_on(found := self._enter(bus)):
                return found

    def _offer(self) -> None:
        """Put the source's interrupt in, or have KVM say when that can be done."""
        flags = self._page.u8
        pending = self._source.pending
        if pending:
            self._fd.halted = False
        if pending and flags[READY]:
            self._fd.interrupt(kvm_interrupt(irq=self._source.acknowledge()))
            pending = self._source.pending
        flags[REQUEST_WINDOW] = pending

    def _goes_on(self, found: Exit) -> bool:
        """Whether the guest is to be run on after that exit."""
        if isinstance(found, Kicked):
            return self._kicker.answer()
        if isinstance(found, Halted):
            self._fd.halted = True
            return True
        return self._page.u32[EXIT_REASON_U32] in TO_GO_ON
