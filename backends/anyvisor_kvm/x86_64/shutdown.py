"""What a triple fault leaves of a vCPU.

Some facts, measured. kvm-amd puts a vCPU that has shut down through INIT before KVM_RUN returns, in every mode, since
the processor leaves its state undefined (APM Vol. 2, 15.14.3): of the general registers only RDX says something, the
processor's model, and of the others CR0.CD and CR0.NW stay. Software KVM leaves all as it was: RIP at the instruction,
CR2 at its address. kvm-intel does the same, for its processors keep the state (SDM Vol. 3, 26.2).

KVM remembers the last exception that it has put into a vCPU itself, behind the INIT too. Software KVM puts in every
one, and sets RFLAGS.RF for it: there it is the one that could not be delivered. On a processor that runs guests by
itself KVM sees few of them, and the one that it remembers may be long past: nothing is made of it.
"""

from __future__ import annotations

import attrs

from anyvisor.exits import GuestException
from anyvisor.x86_64.exceptions import PAGE_FAULT, exception_kind
from anyvisor.x86_64.reset import RESET_VECTOR
from anyvisor.x86_64.state import Regs, Sregs
from anyvisor_kvm.x86_64.events import get_vcpu_events
from anyvisor_kvm.x86_64.extension import host_extension
from anyvisor_kvm.x86_64.fds import X86VcpuFd
from anyvisor_kvm.x86_64.states import get_regs, get_sregs

RESET_CODE_BASE, RESET_SELECTOR = 0xFFFF0000, 0xF000
ZERO = tuple(each.name for each in attrs.fields(Regs) if each.name not in ("rdx", "rip", "rflags"))
"""The general registers that are zero after INIT."""
AT_RESET = 2
"""RFLAGS after INIT."""


def shutdown_lost_state(fd: X86VcpuFd) -> bool:
    """Whether KVM has reset a vCPU that has just shut down, so that its registers say nothing of what happened."""
    return is_reset(get_regs(fd), get_sregs(fd))


def is_reset(regs: Regs, sregs: Sregs) -> bool:
    """Whether these are the registers of a processor after INIT. SDM Vol. 3, table 10-1."""
    started = (regs.rip, regs.rflags) == (RESET_VECTOR, AT_RESET) and not any(getattr(regs, name) for name in ZERO)
    code = (sregs.cs.base, sregs.cs.selector) == (RESET_CODE_BASE, RESET_SELECTOR)
    return started and code and not sregs.cr0.pe and not sregs.efer


def undelivered(fd: X86VcpuFd) -> tuple[GuestException, ...]:
    """The exception that a vCPU which has just shut down could not deliver; none where KVM does not know."""
    regs = get_regs(fd)
    if host_extension() != "" or not regs.rflags.rf:
        return ()
    events = get_vcpu_events(fd)
    vector = events.exception_vector
    error_code = events.exception_error_code if events.exception_has_error_code else None
    address = get_sregs(fd).cr2 if vector == PAGE_FAULT else None
    return (GuestException(vector, error_code, address, regs.rip, name=exception_kind(vector).mnemonic),)
