"""Opening KVM: whether it can be used here, and what it can do."""

from __future__ import annotations

import contextlib
import errno
import os
import signal
from collections.abc import Iterator, Mapping

from anyvisor.closing import Closing
from anyvisor.codec import name_of
from anyvisor.errors import HypervisorUnavailable, Unsupported
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
    Capability.X2APIC: (Cap.ENABLE_CAP_VM, Cap.X2APIC_API),
}
"""Each capability of anyvisor and what it takes of KVM's, beyond what the architecture requires."""

SHORTAGES = {
    errno.EBUSY: "another hypervisor holds the processor's virtualisation (VT-x, AMD-V): shut down its machines "
    "(VirtualBox, VMware) or unload its modules",
    errno.ENOMEM: "the host has no memory left for a virtual machine: end what needs it, or raise the limit of the "
    "control group",
    errno.EMFILE: "this process has too many open files: close some, or raise its limit (ulimit -n)",
    errno.ENFILE: "the host has too many open files: end what holds them, or raise fs.file-max",
}
"""What to do when KVM is there and cannot be had just now."""
REMEDIES = {
    **SHORTAGES,
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
        with _or_unavailable(device, SHORTAGES):
            return KvmHypervisor(kvm, _host(kvm, architecture, kick_signal))
    except BaseException:
        kvm.close()
        raise


class KvmHypervisor(Closing):
    """KVM on this host, made by `open_kvm`; see `anyvisor.hypervisor.Hypervisor`. Closes its VMs, too."""

    def __init__(self, kvm: KvmFd, host: Host):
        self._kvm = kvm
        self._host = host
        self._vms: list[KvmVm] = []

    @property
    def facts(self) -> HostFacts:
        """What KVM can do on this host; asked when it was opened."""
        return self._host.facts

    def create_vm(self, *, deterministic: bool = False) -> KvmVm:
        """A new, empty VM; Unsupported for one that is to be deterministic."""
        if deterministic:
            raise Unsupported("KVM knows only the host's time: it has no deterministic VMs")
        vm = KvmVm.create(self._kvm, self._host)
        self._vms = [*(each for each in self._vms if not each.closed), vm]
        return vm

    def close(self) -> None:
        """Close every VM that is still open, then /dev/kvm."""
        while self._vms:
            self._vms[-1].close()
            self._vms.pop()
        self._kvm.close()


def _open(device: os.PathLike[str] | str, architecture: Architecture) -> KvmFd:
    with _or_unavailable(device, REMEDIES):
        return architecture.kvm_fd(os.open(device, os.O_RDWR | os.O_CLOEXEC))


@contextlib.contextmanager
def _or_unavailable(device: os.PathLike[str] | str, remedies: Mapping[int, str]) -> Iterator[None]:
    """Make HypervisorUnavailable, with its remedy, of what the system or KVM refuses inside."""
    try:
        yield
    except OSError as error:
        remedy = remedies.get(error.errno or 0, "see the kernel's log (dmesg) for why")
        reason = f"KVM cannot be opened: {os.fspath(device)}: {error.strerror}"
        raise HypervisorUnavailable(reason, remedy) from error


def _check(kvm: KvmFd, device: os.PathLike[str] | str, architecture: Architecture) -> None:
    with _or_unavailable(device, REMEDIES):
        version = kvm.get_api_version()
    if version != API_VERSION:
        raise HypervisorUnavailable(
            f"KVM at {os.fspath(device)} has API version {version}; anyvisor needs {API_VERSION}",
            "run a Linux kernel with the stable KVM API (2.6.22 or later)",
        )
    with _or_unavailable(device, SHORTAGES):
        missing = [cap.name for cap in architecture.required if not kvm.has(cap)]
    if missing:
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
    capabilities.add(Capability.FULL_PROCESSOR)
    if kick_signal is not None:
        capabilities.add(Capability.KICK)
    survey = architecture.survey(kvm)
    if survey.is_native:
        capabilities |= {Capability.NATIVE, Capability.FULL_SYSTEM}
    tables = (architecture.states_before, architecture.vcpu_states, architecture.states_after)
    max_vcpus = kvm.check_extension(Cap.MAX_VCPUS) or kvm.check_extension(Cap.NR_VCPUS) or 1
    return HostFacts(
        backend="kvm",
        architecture=architecture.name,
        capabilities=frozenset(capabilities),
        states=tuple(name_of(kind) for table in tables for kind in table),
        modes=architecture.modes,
        supported=survey.supported,
        max_vcpus=max_vcpus,
        recommended_vcpus=kvm.check_extension(Cap.NR_VCPUS) or 1,
        hardware_id_limit=kvm.check_extension(Cap.MAX_VCPU_ID) or max_vcpus,
        max_memory_slots=kvm.check_extension(Cap.NR_MEMSLOTS) or 1,
        physical_address_bits=survey.physical_address_bits,
        guest_tsc_khz=survey.guest_tsc_khz,
        notes=survey.notes,
    )
