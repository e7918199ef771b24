"""Opening KVM: whether it can be used here, and what it can do."""

from __future__ import annotations

import errno
import os
import signal
from types import TracebackType
from typing import Self

from anyvisor.codec import name_of
from anyvisor.errors import HypervisorError, HypervisorUnavailable
from anyvisor.facts import Capability, HostFacts
from anyvisor_kvm.abi import API_VERSION, Cap
from anyvisor_kvm.architecture import Architecture, host_architecture
from anyvisor_kvm.fds import KvmFd
from anyvisor_kvm.vm import Host, KvmVm

DEVICE = "/dev/kvm"
KICK_SIGNAL = signal.SIGRTMIN
"""The first real-time signal that the C library leaves to programs."""

CAPABILITIES = {
    Capability.IRQCHIP: (Cap.IRQCHIP,),
    Capability.PIT: (Cap.PIT2, Cap.PIT_STATE2),
    Capability.IRQFD: (Cap.IRQFD,),
    Capability.IOEVENTFD: (Cap.IOEVENTFD,),
    Capability.COALESCED_IO: (Cap.COALESCED_MMIO, Cap.COALESCED_PIO),
    Capability.READONLY_MEMORY: (Cap.READONLY_MEM,),
    Capability.TSC_DEADLINE: (Cap.TSC_DEADLINE_TIMER,),
    Capability.SNAPSHOT: (Cap.ADJUST_CLOCK,),
}
"""Each capability of anyvisor and what it takes of KVM's, beyond what the architecture requires."""

REMEDIES = {
    errno.ENOENT: "load its module (modprobe kvm-intel, or kvm-amd); if that fails, enable virtualisation "
    "(VT-x, AMD-V) in the firmware's setup, or, in a virtual machine, nested virtualisation on its host; "
    "in a container, pass the device in",
    errno.EACCES: "join the group that owns it (usermod -aG kvm $USER, then log in again), or ask for access",
    errno.ENXIO: "load its module (modprobe kvm-intel, or kvm-amd)",
    errno.ENOTTY: "name KVM's own device, /dev/kvm",
}
REMEDIES[errno.EPERM] = REMEDIES[errno.EACCES]
REMEDIES[errno.ENODEV] = REMEDIES[errno.ENXIO]


def open_kvm(device: os.PathLike[str] | str = DEVICE, *, kick_signal: int | None = KICK_SIGNAL) -> KvmHypervisor:
    """Open KVM; HypervisorUnavailable, saying what to do about it, when it cannot be used here and now.

    `kick_signal` is the signal that makes a vCPU leave the guest. It never reaches a handler: each thread
    blocks it while it is in `Vcpu.run`. Choose another if the process has a use for that one, or None to send
    no signals at all: then `kick` only makes a `run` that has not entered the guest yet return, and whoever
    runs the vCPU interrupts the thread himself, with a signal of his own that has a handler.
    """
    architecture = host_architecture()
    kvm = _open(device, architecture)
    try:
        _check(kvm, device, architecture)
        return KvmHypervisor(kvm, _host(kvm, architecture, kick_signal))
    except BaseException:
        kvm.close()
        raise


class KvmHypervisor:
    """KVM on this host, made by `open_kvm`; see `anyvisor.hypervisor.Hypervisor`. Closes its VMs, too."""

    def __init__(self, kvm: KvmFd, host: Host):
        self._kvm = kvm
        self._host = host
        self._vms: list[KvmVm] = []

    @property
    def facts(self) -> HostFacts:
        """What KVM can do on this host; asked when it was opened."""
        return self._host.facts

    def create_vm(self) -> KvmVm:
        """A new, empty VM."""
        vm = KvmVm.create(self._kvm, self._host)
        self._vms = [*(each for each in self._vms if not each.closed), vm]
        return vm

    def close(self) -> None:
        """Close every VM that is still open, then /dev/kvm."""
        while self._vms:
            self._vms[-1].close()
            self._vms.pop()
        self._kvm.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _open(device: os.PathLike[str] | str, architecture: Architecture) -> KvmFd:
    try:
        return architecture.kvm_fd(os.open(device, os.O_RDWR | os.O_CLOEXEC))
    except OSError as error:
        raise _unavailable(device, error) from error


def _unavailable(device: os.PathLike[str] | str, error: OSError) -> HypervisorUnavailable:
    remedy = REMEDIES.get(error.errno or 0, "see the kernel's log (dmesg) for why")
    return HypervisorUnavailable(f"KVM cannot be opened: {os.fspath(device)}: {os.strerror(error.errno or 0)}", remedy)


def _check(kvm: KvmFd, device: os.PathLike[str] | str, architecture: Architecture) -> None:
    try:
        version = kvm.get_api_version()
    except HypervisorError as error:
        raise _unavailable(device, error) from error
    if version != API_VERSION:
        raise HypervisorUnavailable(
            f"KVM at {os.fspath(device)} has API version {version}; anyvisor needs {API_VERSION}",
            "run a Linux kernel with the stable KVM API (2.6.22 or later)",
        )
    if missing := [cap.name for cap in architecture.required if not kvm.has(cap)]:
        raise HypervisorUnavailable(f"KVM at {os.fspath(device)} lacks {', '.join(missing)}", "run a newer kernel")


def _host(kvm: KvmFd, architecture: Architecture, kick_signal: int | None) -> Host:
    return Host(
        architecture,
        _facts(kvm, architecture, kick_signal),
        run_page_bytes=kvm.get_vcpu_mmap_size(),
        ring_page=kvm.check_extension(Cap.COALESCED_MMIO),
        kick_signal=kick_signal,
    )


def _facts(kvm: KvmFd, architecture: Architecture, kick_signal: int | None) -> HostFacts:
    capabilities = {capability for capability, caps in CAPABILITIES.items() if kvm.has(*caps)}
    if kick_signal is not None:
        capabilities.add(Capability.KICK)
    survey = architecture.survey(kvm)
    tables = (architecture.states_before, architecture.vcpu_states, architecture.states_after)
    return HostFacts(
        backend="kvm",
        architecture=architecture.name,
        capabilities=frozenset(capabilities),
        states=tuple(name_of(kind) for table in tables for kind in table),
        supported=survey.supported,
        max_vcpus=kvm.check_extension(Cap.MAX_VCPUS) or kvm.check_extension(Cap.NR_VCPUS) or 1,
        recommended_vcpus=kvm.check_extension(Cap.NR_VCPUS) or 1,
        max_memory_slots=kvm.check_extension(Cap.NR_MEMSLOTS) or 1,
        physical_address_bits=survey.physical_address_bits,
        notes=survey.notes,
    )
