"""KVM's three kinds of file descriptor, and the ioctls that all architectures have on each.

Some facts about calling ioctl from Python. A signal may interrupt any system call: every ioctl is repeated on EINTR,
but never KVM_RUN, where EINTR is how a vCPU is kicked. `fcntl.ioctl` refuses numbers over 31 bits, which
KVM_SET_TSS_ADDR needs, so all but KVM_RUN go through libc's own `ioctl`; ctypes keeps the structure alive for the
call.
"""

from __future__ import annotations

import ctypes
import errno
import os

from anyvisor.closing import Closing
from anyvisor.errors import HypervisorError
from anyvisor_kvm.abi import (
    Cap,
    check_fits,
    kvm_coalesced_mmio_zone,
    kvm_enable_cap,
    kvm_interrupt,
    kvm_ioeventfd,
    kvm_irq_level,
    kvm_irqfd,
    kvm_mp_state,
    kvm_signal_mask,
    kvm_userspace_memory_region,
)
from anyvisor_kvm.ioctl import io, ior, iow

_libc_ioctl = ctypes.CDLL(None, use_errno=True).ioctl
_libc_ioctl.argtypes = (ctypes.c_int, ctypes.c_ulong, ctypes.c_void_p)
ARGUMENT_BITS = 8 * ctypes.sizeof(ctypes.c_void_p)


class Fd(Closing):
    """An open file descriptor. A context manager; `close` may be called twice. Errors name `subject`."""

    subject = ""

    def __init__(self, number: int):
        self.number = number

    def ioctl(self, name: str, request: int, argument: int | ctypes.Structure = 0, detail: str = "") -> int:
        """Call ioctl, again and again while signals interrupt it; HypervisorError when it fails."""
        if isinstance(argument, int):
            check_fits(argument, ARGUMENT_BITS, name, self._named(detail))
        passed = argument if isinstance(argument, int) else ctypes.byref(argument)
        while (result := _libc_ioctl(self.number, request, passed)) < 0:
            cause = ctypes.get_errno()
            if cause != errno.EINTR:
                raise HypervisorError(name, cause, self._named(detail))
        return int(result)

    def _named(self, detail: str) -> str:
        return ", ".join(filter(None, (self.subject, detail)))

    def close(self) -> None:
        """Give the descriptor back."""
        number, self.number = self.number, -1
        if number >= 0:
            os.close(number)


class KvmFd(Fd):
    """/dev/kvm itself."""

    get_api_version = io(0x00)
    create_vm = io(0x01)
    check_extension = io(0x03)
    get_vcpu_mmap_size = io(0x04)

    def has(self, *caps: Cap) -> bool:
        """Whether KVM has all of these."""
        return all(self.check_extension(cap) > 0 for cap in caps)


class VmFd(Fd):
    """A virtual machine."""

    check_extension = io(0x03)
    create_vcpu = io(0x41)
    set_user_memory_region = iow(0x46, kvm_userspace_memory_region)
    create_irqchip = io(0x60)
    irq_line = iow(0x61, kvm_irq_level)
    register_coalesced_mmio = iow(0x67, kvm_coalesced_mmio_zone)
    unregister_coalesced_mmio = iow(0x68, kvm_coalesced_mmio_zone)
    irqfd = iow(0x76, kvm_irqfd)
    ioeventfd = iow(0x79, kvm_ioeventfd)
    enable_cap = iow(0xA3, kvm_enable_cap)

    def enable(self, cap: Cap, how: int = 1) -> None:
        """Switch on a capability that is off until asked for; `how` is its first argument."""
        wanted = kvm_enable_cap(cap=cap)
        wanted.args[0] = how
        self.enable_cap(wanted, detail=cap.name)


class VcpuFd(Fd):
    """A virtual processor."""

    run = io(0x80)
    interrupt = iow(0x86, kvm_interrupt)
    set_signal_mask = iow(0x8B, kvm_signal_mask)
    get_mp_state = ior(0x98, kvm_mp_state)
    set_mp_state = iow(0x99, kvm_mp_state)

    def __init__(self, number: int):
        super().__init__(number)
        self.has_irqchip = False
        """Whether KVM has the interrupt controllers of its VM."""
        self.has_source = False
        """Whether it takes its interrupts from a controller of the machine's own."""
        self.halted = False
        """Whether it waits in HLT; only with a source of its own, else KVM is who knows."""
