"""Model-specific registers, many at a time.

Some facts about KVM's answer. KVM_GET_MSRS and KVM_SET_MSRS return how many entries they did and stop, without an
error, at the first that they refuse; at most 255 go into one call. What a VM's vCPUs have is less than KVM's list for
the host: some MSRs exist only with their CPUID bit. So `get` leaves out what the vCPU refuses, and `put`, which was
asked for exactly these, names it.

Some can be read and yet not be written, not even with what they hold: KVM_ASYNC_PF_INT without the interrupt
controllers in KVM. One that holds already what it is to be set to is set, whether KVM would write it or not, so that
what `get` gave can always be put back.
"""

from __future__ import annotations

import errno
from collections.abc import Sequence
from typing import Any

from anyvisor.errors import HypervisorError
from anyvisor.x86_64.msrs import MsrEntry, Msrs, msr_name
from anyvisor_kvm.abi import counted
from anyvisor_kvm.x86_64.abi import kvm_msr_entry, kvm_msrs
from anyvisor_kvm.x86_64.fds import X86VcpuFd

MSRS_PER_CALL = 255


def get_msrs(fd: X86VcpuFd) -> Msrs:
    """Every MSR of the host's list that this vCPU has."""
    found: list[MsrEntry] = []
    left = list(fd.msr_indices)
    while left:
        chunk = left[:MSRS_PER_CALL]
        entries = _entries([MsrEntry(index) for index in chunk])
        done = fd.get_msrs(entries)
        found += [MsrEntry(each.index, each.data) for each in entries.items[:done]]
        refused = 1 if done < len(chunk) else 0
        left = left[done + refused :]
    return Msrs(found)


def put_msrs(fd: X86VcpuFd, state: Msrs) -> None:
    """Write them in their order; HypervisorError (EINVAL) naming the first that KVM refuses to change."""
    left = list(state)
    while left:
        chunk = left[:MSRS_PER_CALL]
        done = fd.set_msrs(_entries(chunk))
        if done < len(chunk) and not _holds(fd, chunk[done]):
            refused = chunk[done]
            value = f"{msr_name(refused.index)}={refused.value:#x}"
            detail = f"{fd.subject}, {value} refused; the MSRs before it are set"
            raise HypervisorError("KVM_SET_MSRS", errno.EINVAL, detail)
        left = left[done + (done < len(chunk)) :]


def _holds(fd: X86VcpuFd, msr: MsrEntry) -> bool:
    """Whether the vCPU has that MSR, with that value."""
    entries = _entries([msr])
    return fd.get_msrs(entries) == 1 and entries.items[0].data == msr.value


def _entries(msrs: Sequence[MsrEntry]) -> Any:
    entries = counted(kvm_msrs, kvm_msr_entry, len(msrs))
    entries.nmsrs = len(msrs)
    for entry, msr in zip(entries.items, msrs, strict=True):
        entry.index = msr.index
        entry.data = msr.value
    return entries
