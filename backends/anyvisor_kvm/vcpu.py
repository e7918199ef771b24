"""A virtual processor: the run loop, and state by type.

Some facts about the loop. It is the hottest code of the backend, so it makes no object and calls nothing but KVM and
the bus. `fcntl.ioctl` without a third argument costs a third of a ctypes call or of itself with one (measured); an
exception is raised only when KVM_RUN fails, which on this road means a kick. Each port access is worked out once and
then known by its word (`port_io`); strings and odd sizes take the slow road.

An I/O exit is only half an access: KVM finishes it (takes the answer of a read, moves RIP on) when KVM_RUN is called
again, before it looks for kicks. So a vCPU that was kicked has nothing half done, and its state can be read and put.
When a device raises, the access is finished in the same way before `run` passes the error on.
"""

from __future__ import annotations

import contextlib
import errno
from fcntl import ioctl
from typing import Any, TypeVar

from anyvisor.bus import Bus
from anyvisor.closing import Closing
from anyvisor.errors import HypervisorError, Unsupported
from anyvisor.exits import Exit, Kicked, Shutdown
from anyvisor.flight import IN, OUT, ExitRing
from anyvisor.interrupts import InterruptSource
from anyvisor.states import VcpuState
from anyvisor_kvm.abi import ExitReason
from anyvisor_kvm.architecture import Architecture, accessors
from anyvisor_kvm.exits import decode
from anyvisor_kvm.fds import VcpuFd
from anyvisor_kvm.intr_pin import IntrPin
from anyvisor_kvm.kick import Kicker
from anyvisor_kvm.noting import Noting, RingNoting
from anyvisor_kvm.odd_io import MASKS, odd_mmio, string_io
from anyvisor_kvm.port_io import PortAccess, port_access
from anyvisor_kvm.ring import CoalescedRing
from anyvisor_kvm.run_page import EXIT_REASON_U32, MMIO, MMIO_DATA_U64, UNION, UNION_U64, RunPage

S = TypeVar("S", bound=VcpuState)

RUN = VcpuFd.run.request
EHWPOISON = 133
"""Linux's own; the errno module has it from Python 3.14 on."""
EXIT_IO, EXIT_MMIO = int(ExitReason.IO), int(ExitReason.MMIO)
unpack_mmio = MMIO.unpack_from


class KvmVcpu(Closing):
    """One vCPU, made by `KvmVm.create_vcpu`; see `anyvisor.hypervisor.Vcpu`. A context manager."""

    def __init__(
        self,
        index: int,
        fd: VcpuFd,
        page: RunPage,
        architecture: Architecture,
        ring: CoalescedRing,
        kick_signal: int | None,
    ):
        fd.subject = f"vCPU {index}"
        self.index = index
        self._fd = fd
        self._page = page
        self._states = architecture.vcpu_states
        self._synced = architecture.sync(fd, page)
        self._ring = ring
        self._kicker = Kicker(fd, page.u8, kick_signal)
        self._noting = Noting()
        self._shutdown = architecture.shutdown_lost_state, architecture.undelivered
        self._drive = self._loop
        """What runs the guest: the loop alone, or with it an INTR pin."""

    def get(self, kind: type[S]) -> S:
        """A part of the vCPU's state; from the run page where `keep_in_sync` has put it there."""
        get, _ = accessors(self._states, kind)
        state: Any = self._synced.get(kind)
        return get(self._fd) if state is None else state  # type: ignore[no-any-return]

    def put(self, state: VcpuState) -> None:
        """Set a part of the vCPU's state; HypervisorError naming the ioctl when KVM refuses it."""
        _, put = accessors(self._states, type(state))
        self._synced.forget()
        put(self._fd, state)

    def keep_in_sync(self, *kinds: type[VcpuState]) -> None:
        """Have KVM copy these states into the run page at every exit, so that `get` costs no ioctl.

        These kinds and no others, from now on. Unsupported for one that KVM cannot copy; on x86_64 it can copy
        Regs, Sregs and VcpuEvents.
        """
        self._synced.keep(kinds)

    def record_exits(self, ring: ExitRing) -> bool:
        """Note every access in `ring` from now on, with RIP where KVM can keep it in the run page."""
        self._noting = RingNoting(ring, self._page, self._synced)
        return True

    def run(self, bus: Bus) -> Exit:
        """Run the guest until there is something to decide on; see `Vcpu.run`.

        HypervisorError when KVM_RUN fails, and with EBUSY when some thread is in here already. An exception
        that a device raises comes out, and the access it was to answer reads as what the run page had there.
        """
        self._kicker.check()
        try:
            self._kicker.enter()
            return self._run(bus)
        finally:
            self._kicker.leave()

    def _run(self, bus: Bus) -> Exit:
        self._synced.forget()
        self._noting.baseline()
        try:
            found = self._drive(bus)
        except BaseException:
            with self._kicker.staying_out(), contextlib.suppress(Exception):
                self._loop(bus)  # finishes the access (see the facts above); what failed first is what is told
            raise
        self._synced.refresh()
        if isinstance(found, Kicked):
            self._kicker.kicked()
        return self._last_words() if isinstance(found, Shutdown) else found

    def _last_words(self) -> Shutdown:
        """A triple fault, with what is still known of it."""
        lost_state, undelivered = self._shutdown
        is_lost = lost_state(self._fd)
        if is_lost:
            self._noting.state_was_lost()
        return Shutdown(undelivered(self._fd), is_lost)

    def _loop(self, bus: Bus) -> Exit:  # noqa: C901, PLR0912 - a call for each exit costs as much as all of this
        number, ring, page, noting = self._fd.number, self._ring, self._page, self._noting
        mapping, u32, u64 = page.mapping, page.u32, page.u64
        note, rip_at, kept, others, late = noting.on(bus)
        known: dict[int, PortAccess] = {}
        while True:
            if kept is not None:
                noting.latest = mapping[kept]
            try:
                ioctl(number, RUN)
            except OSError as error:
                if found := self._stopped(error, late):
                    return found
                continue
            if ring.active:
                ring.drain(page, late)
            if (reason := u32[EXIT_REASON_U32]) == EXIT_IO:
                access = known.get(u64[UNION_U64]) or port_access(page, bus, known)
                if access is None:
                    string_io(page, others)
                    continue
                write, read, offset, size, data, index, mask, port = access
                if write is not None:
                    value = data[index]
                    if note is not None:
                        note((OUT, port, size, value, u64[rip_at]))
                    write(offset, size, value)
                else:
                    value = None
                    try:
                        data[index] = value = read(offset, size) & mask
                    finally:
                        if note is not None:
                            note((IN, port, size, value, u64[rip_at]))
            elif reason == EXIT_MMIO:
                address, value, size, is_write = unpack_mmio(mapping, UNION)
                if not MASKS[size]:
                    odd_mmio(page, others)
                elif is_write:
                    others.write_mmio(address, size, value & MASKS[size])
                else:
                    u64[MMIO_DATA_U64] = others.read_mmio(address, size)
            else:
                return decode(page)

    def _stopped(self, error: OSError, bus: Bus) -> Exit | None:
        """What to make of a KVM_RUN that failed: an exit, None to try again, or HypervisorError."""
        faulted = self._page.u32[EXIT_REASON_U32] == ExitReason.MEMORY_FAULT
        if faulted and error.errno in (errno.EFAULT, EHWPOISON):
            return decode(self._page)
        if error.errno not in (errno.EINTR, errno.EAGAIN):
            raise HypervisorError("KVM_RUN", error.errno or 0, self._fd.subject) from error
        if self._ring.active:
            self._ring.drain(self._page, bus)
        if error.errno == errno.EAGAIN:  # it was waiting for its SIPI, which has come
            return None
        return Kicked()

    def take_interrupts_from(self, source: InterruptSource) -> None:
        """Wire the INTR pin to a controller of the machine's own; Unsupported where KVM has the controllers."""
        if self._fd.has_irqchip:
            raise Unsupported(
                f"{self._fd.subject} takes its interrupts from the controllers in KVM; "
                "to give it others, put no Irqchip into its VM"
            )
        self._fd.has_source = True
        self._drive = IntrPin(self._fd, self._page, self._kicker, source, self._loop).run

    def notify_interrupt(self) -> None:
        """Look at the source soon; from any thread. Does nothing without one, and nothing after `close`.

        On a hypervisor that was opened without a kick signal a guest that spins is not interrupted for it: the
        interrupt waits for the guest's next exit.
        """
        if self._fd.has_source:
            self._kicker.notify()

    def kick(self) -> None:
        """Make `run` come back soon with `Kicked`, from any thread or signal handler; see `Vcpu.kick`."""
        self._kicker.kick()

    def close(self) -> None:
        """Give the vCPU back; HypervisorError (EBUSY) while some thread is in `run`."""
        if self._kicker.close():
            try:
                self._page.close()
            finally:
                self._fd.close()
