"""A virtual machine: memory slots, vCPUs, interrupt lines, and eventfds in place of exits."""

from __future__ import annotations

from typing import Self, TypeVar

import attrs

from anyvisor.clock import HostClock
from anyvisor.closing import Closing
from anyvisor.errors import HypervisorError, Unsupported
from anyvisor.facts import Capability, HostFacts
from anyvisor.memory import RamRegion, Region
from anyvisor.states import VmState
from anyvisor_kvm.abi import (
    KVM_IOEVENTFD_FLAG_DATAMATCH,
    KVM_IOEVENTFD_FLAG_DEASSIGN,
    KVM_IOEVENTFD_FLAG_PIO,
    KVM_IRQFD_FLAG_DEASSIGN,
    KVM_IRQFD_FLAG_RESAMPLE,
    KVM_MEM_READONLY,
    check_fits,
    kvm_coalesced_mmio_zone,
    kvm_ioeventfd,
    kvm_irq_level,
    kvm_irqfd,
    kvm_userspace_memory_region,
)
from anyvisor_kvm.architecture import Architecture, accessors
from anyvisor_kvm.fds import KvmFd, VmFd
from anyvisor_kvm.ring import CoalescedRing
from anyvisor_kvm.run_page import RunPage
from anyvisor_kvm.vcpu import KvmVcpu

M = TypeVar("M", bound=VmState)

VCPU_ID_BITS = 32
"""KVM looks at no more of what KVM_CREATE_VCPU is given."""


@attrs.frozen
class Host:
    """What the VMs of a `KvmHypervisor` have in common; `ring_page` is where the coalesced ring lies."""

    architecture: Architecture
    facts: HostFacts
    run_page_bytes: int
    ring_page: int
    kick_signal: int | None


class KvmVm(Closing):
    """One VM, made by `KvmHypervisor.create_vm`; see `anyvisor.hypervisor.Vm`. A context manager."""

    def __init__(self, fd: VmFd, host: Host):
        self._fd = fd
        self._host = host
        self._states = {**host.architecture.states_before, **host.architecture.states_after}
        self._ring = CoalescedRing(host.ring_page)
        self._memory: list[RamRegion] = []
        self._vcpus: list[KvmVcpu] = []
        self.clock = HostClock()

    @classmethod
    def create(cls, kvm: KvmFd, host: Host) -> Self:
        """A new VM, with what its architecture needs before the first vCPU."""
        fd = host.architecture.vm_fd(kvm, kvm.create_vm())
        try:
            host.architecture.prepare_vm(fd)
        except BaseException:
            fd.close()
            raise
        return cls(fd, host)

    def map_memory(self, ram: RamRegion, *, readonly: bool = False) -> None:
        """Give the guest a region of RAM, in the next free slot. The mapping must outlive the VM."""
        self._need(Capability.READONLY_MEMORY, wanted=readonly)
        slot = kvm_userspace_memory_region(
            slot=len(self._memory),
            flags=KVM_MEM_READONLY if readonly else 0,
            guest_phys_addr=ram.region.start,
            memory_size=ram.region.size_bytes,
            userspace_addr=ram.host_address,
        )
        self._fd.set_user_memory_region(slot, detail=str(ram.region))
        self._memory.append(ram)

    def get(self, kind: type[M]) -> M:
        """A part of the state that vCPUs share; HypervisorError for a chip that has not been put yet."""
        get, _ = accessors(self._states, kind)
        state: M = get(self._fd)
        return state

    def put(self, state: VmState) -> None:
        """Set such a part; the first put of a chip creates it."""
        _, put = accessors(self._states, type(state))
        put(self._fd, state)

    def create_vcpu(self, index: int, hardware_id: int | None = None) -> KvmVcpu:
        """A new vCPU in its reset state, under `hardware_id` (x86: its local APIC id), or under its index.

        KVM keeps the id of a vCPU that was closed taken until the VM is closed.
        """
        architecture = self._host.architecture
        number, detail = index, f"vCPU {index}"
        if hardware_id is not None:
            number, detail = hardware_id, f"vCPU {index} with id {hardware_id:#x}"
        check_fits(number, VCPU_ID_BITS, "KVM_CREATE_VCPU", detail)
        fd = architecture.vcpu_fd(self._fd, self._fd.create_vcpu(number, detail=detail))
        try:
            page = RunPage(fd.number, self._host.run_page_bytes)
        except OSError as error:
            fd.close()
            raise HypervisorError("mmap", error.errno or 0, f"the run pages of vCPU {index}") from error
        vcpu = KvmVcpu(index, fd, page, architecture, self._ring, self._host.kick_signal)
        self._vcpus.append(vcpu)
        return vcpu

    def set_irq(self, gsi: int, level: bool) -> None:
        """Raise or lower an interrupt line of the chips in KVM; HypervisorError (ENXIO) without them."""
        self._need(Capability.IRQCHIP)
        self._fd.irq_line(kvm_irq_level(irq=gsi, level=int(level)), detail=f"gsi {gsi}")

    def add_irqfd(self, fd: int, gsi: int, resample_fd: int = -1) -> None:
        """Let an eventfd raise `gsi`; `resample_fd` is signalled at the guest's end of interrupt."""
        self._need(Capability.IRQFD)
        wanted = kvm_irqfd(fd=fd, gsi=gsi)
        if resample_fd >= 0:
            wanted.flags, wanted.resamplefd = KVM_IRQFD_FLAG_RESAMPLE, resample_fd
        self._fd.irqfd(wanted, detail=f"gsi {gsi}")

    def remove_irqfd(self, fd: int, gsi: int) -> None:
        """Undo `add_irqfd`."""
        self._need(Capability.IRQFD)
        self._fd.irqfd(kvm_irqfd(fd=fd, gsi=gsi, flags=KVM_IRQFD_FLAG_DEASSIGN), detail=f"gsi {gsi}")

    def add_ioeventfd(self, fd: int, region: Region, *, port: bool = False, match: int | None = None) -> None:
        """Signal an eventfd on guest writes to `region`, or only on those of the value `match`."""
        self._ioeventfd(fd, region, match, KVM_IOEVENTFD_FLAG_PIO if port else 0)

    def remove_ioeventfd(self, fd: int, region: Region, *, port: bool = False, match: int | None = None) -> None:
        """Undo `add_ioeventfd`."""
        flags = KVM_IOEVENTFD_FLAG_DEASSIGN | (KVM_IOEVENTFD_FLAG_PIO if port else 0)
        self._ioeventfd(fd, region, match, flags)

    def _ioeventfd(self, fd: int, region: Region, match: int | None, flags: int) -> None:
        self._need(Capability.IOEVENTFD)
        wanted = kvm_ioeventfd(addr=region.start, len=region.size_bytes, fd=fd, flags=flags)
        if match is not None:
            wanted.flags |= KVM_IOEVENTFD_FLAG_DATAMATCH
            wanted.datamatch = match
        self._fd.ioeventfd(wanted, detail=str(region))

    def coalesce(self, region: Region, *, port: bool = False) -> None:
        """Gather guest writes to `region` and deliver them, in order, at the next exit of any vCPU."""
        self._need(Capability.COALESCED_IO)
        zone = kvm_coalesced_mmio_zone(addr=region.start, size=region.size_bytes, pio=int(port))
        self._fd.register_coalesced_mmio(zone, detail=str(region))
        self._ring.active = True

    def _need(self, capability: Capability, *, wanted: bool = True) -> None:
        if wanted and not self._host.facts.has(capability):
            question = f"facts.has(Capability.{capability.name})"
            raise Unsupported(f"KVM on this host has no {capability.value}; ask {question} first")

    @property
    def closed(self) -> bool:
        """Whether `close` has been called."""
        return self._fd.number < 0

    def close(self) -> None:
        """Close the vCPUs, the clock, then the VM; HypervisorError (EBUSY) while a thread is still running a vCPU.

        A timer that is called in between may still notify a vCPU, which does nothing, or set an interrupt line.
        """
        while self._vcpus:
            self._vcpus[-1].close()
            self._vcpus.pop()
        self.clock.close()
        self._fd.close()
        self._memory.clear()
