"""How a vCPU is made to leave the guest, from any thread, without a race and without a signal handler.

Some facts about the race. A signal that arrives just before KVM_RUN enters the kernel would be handled too early and
do nothing. Two things together close that gap. `immediate_exit` in the run page makes a KVM_RUN that has not started
yet return at once. And the kick signal is blocked in the thread that runs the vCPU, but not inside KVM_RUN, which
swaps the thread's signal mask for the one that KVM_SET_SIGNAL_MASK gave it: a signal sent at any moment stays pending
until it can interrupt the guest. KVM_RUN then returns EINTR with the signal still pending, so no handler ever runs,
and none has to be installed: the signal is taken off the queue before `run` returns, and the thread's mask put back.

A notification goes the same way, but only wants the thread to look at its interrupt source between two instructions.
So who finds KVM_RUN interrupted asks `answer` what it was: a notification is over with that and the guest goes on, for
anything else `run` returns. A vCPU that waits in HLT is not in KVM_RUN; the bell is for that.

A signal whose action is the default one would end the process if it reached a thread that does not block it. The lock
sees to it: signals are only sent to a thread that is between `enter` and `leave`. It is a reentrant lock since a
Python signal handler may call `kick` on top of any of the methods here.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import signal
import threading
from collections.abc import Iterable, Iterator
from typing import Any

from anyvisor.bell import SemaphoreBell
from anyvisor.errors import HypervisorError
from anyvisor_kvm.abi import counted, kvm_signal_mask
from anyvisor_kvm.fds import VcpuFd
from anyvisor_kvm.run_page import IMMEDIATE_EXIT
from anyvisor_kvm.wakeup import Wakeup

SIGSET_BYTES = 8
"""The kernel's signal set: bit n - 1 stands for signal n."""


class Kicker:
    """One vCPU's kicks and notifications. With no `signal_number` they only write `immediate_exit` (see `open_kvm`)."""

    def __init__(self, fd: VcpuFd, page: memoryview, signal_number: int | None):
        self._fd = fd
        self._page = page
        self._signals: Iterable[int] = () if signal_number is None else (signal_number,)
        self._lock = threading.RLock()
        self._runner: int | None = None
        self._bell = SemaphoreBell()
        self._waiting = False
        self._asked = False
        self._notified = False
        self._sent = False
        self._closed = False
        self._outside: set[Any] = set()
        self._told_kvm: set[Any] | None = None
        self._wakeup: Wakeup | None = None

    def check(self) -> None:
        """HypervisorError when the vCPU is closed (EBADF) or some thread is in `run` (EBUSY)."""
        if self._closed:
            raise HypervisorError("KVM_RUN", errno.EBADF, f"{self._fd.subject} is closed")
        if self._runner is not None:
            raise HypervisorError("KVM_RUN", errno.EBUSY, f"{self._fd.subject} is in run already; kick it and wait")

    def enter(self) -> None:
        """The calling thread is about to run the guest. Must be followed by `leave`, whatever happens."""
        outside = signal.pthread_sigmask(signal.SIG_BLOCK, self._signals)
        try:
            with self._lock:
                self.check()
                self._runner = threading.get_ident()
        except BaseException:
            signal.pthread_sigmask(signal.SIG_SETMASK, outside)
            raise
        self._outside = outside
        if self._signals and outside != self._told_kvm:
            self._tell_kvm(outside)
        if self._signals and threading.current_thread() is threading.main_thread():
            self._wakeup = Wakeup(*self._signals)

    def _tell_kvm(self, outside: set[Any]) -> None:
        mask = counted(kvm_signal_mask, ctypes.c_uint8, SIGSET_BYTES)
        mask.len = SIGSET_BYTES
        bits = sum(1 << number - 1 for number in outside.difference(self._signals))
        mask.items[:] = bits.to_bytes(SIGSET_BYTES, "little")
        self._fd.set_signal_mask(mask)
        self._told_kvm = outside

    def leave(self) -> None:
        """The calling thread has left the guest for good. Does nothing in a thread that did not enter."""
        with self._lock:
            if self._runner != threading.get_ident():
                return
            self._runner = None
            sent, self._sent = self._sent, False
        if sent:
            signal.sigtimedwait(self._signals, 0)
        self._end_wakeup()
        signal.pthread_sigmask(signal.SIG_SETMASK, self._outside)

    def _end_wakeup(self) -> None:
        wakeup, self._wakeup = self._wakeup, None
        if wakeup is not None:
            wakeup.close()
            while signal.sigtimedwait(self._signals, 0):
                pass

    def kick(self) -> None:
        """Make `run` come back; see `Vcpu.kick`. One signal is enough however many kicks there are."""
        with self._lock:
            if self._closed:
                return
            self._asked = True
            self._interrupt()

    def notify(self) -> None:
        """Have the thread in `run` see `answer` soon, or the next one that comes; see `Vcpu.notify_interrupt`."""
        with self._lock:
            if not self._closed and not self._notified:
                self._notified = True
                self._interrupt()

    def _interrupt(self) -> None:
        """Get the thread in `run` out of KVM_RUN, or keep it from going in; one that is here itself is not inside."""
        self._page[IMMEDIATE_EXIT] = 1
        if self._waiting:
            self._bell.ring()
        if self._runner not in (None, threading.get_ident()) and not self._sent:
            self._sent = True
            for number in self._signals:
                signal.pthread_kill(self._runner, number)

    def wait(self) -> bool:
        """Wait for a notification: True when there is one, False when `run` is to return."""
        self._waiting = True
        try:
            while not (self._asked or self._notified):
                if not self._bell.wait():
                    return False
        finally:
            self._waiting = False
        return self.answer()

    def answer(self) -> bool:
        """What has interrupted KVM_RUN: True for a notification, over with this; False when `run` is to return."""
        with self._lock:
            notified, self._notified = self._notified, False
            self._set_immediate_exit()
            sent, self._sent = self._sent, False
            if sent:
                signal.sigtimedwait(self._signals, 0)
            return notified and not self._asked

    def _set_immediate_exit(self) -> None:
        self._page[IMMEDIATE_EXIT] = self._asked or self._notified

    def kicked(self) -> None:
        """`run` is about to report a kick: the next one starts afresh."""
        with self._lock:
            self._asked = False
            self._set_immediate_exit()

    @contextlib.contextmanager
    def staying_out(self) -> Iterator[None]:
        """KVM_RUN finishes what is half done and does not enter the guest; kicks are kept for later."""
        self._page[IMMEDIATE_EXIT] = 1
        try:
            yield
        finally:
            with self._lock:
                self._set_immediate_exit()

    def close(self) -> bool:
        """No more kicks, no more runs; whether it was open. HypervisorError while some thread is in `run`."""
        with self._lock:
            if self._closed:
                return False
            self.check()
            self._closed = True
            return True
