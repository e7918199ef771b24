"""The ioctls that only x86_64 has, and what its VMs and vCPUs must know of their host."""

from __future__ import annotations

import ctypes
import errno
import functools
from collections.abc import Callable
from typing import Any

from anyvisor.errors import HypervisorError
from anyvisor.x86_64.msrs import is_saveable
from anyvisor_kvm.abi import Cap, counted
from anyvisor_kvm.fds import KvmFd, VcpuFd, VmFd
from anyvisor_kvm.ioctl import io, ior, iow, iowr, misnamed_ior
from anyvisor_kvm.x86_64 import abi
from anyvisor_kvm.x86_64.abi import KVM_VCPUEVENT_VALID_NMI_PENDING as NMI_PENDING
from anyvisor_kvm.x86_64.abi import KVM_VCPUEVENT_VALID_PAYLOAD as PAYLOAD
from anyvisor_kvm.x86_64.abi import KVM_VCPUEVENT_VALID_SHADOW as SHADOW
from anyvisor_kvm.x86_64.abi import KVM_VCPUEVENT_VALID_SMM as SMM
from anyvisor_kvm.x86_64.abi import KVM_VCPUEVENT_VALID_TRIPLE_FAULT as TRIPLE_FAULT

TSS_ADDRESS = 0xFFFBD000
IDENTITY_MAP_ADDRESS = 0xFFFBC000
"""Four pages below 4 GiB, in the MMIO gap, for Intel processors that cannot run real mode as a guest."""
CPUID_ENTRIES = 256
"""As many as any kernel has; asked for more when one has more."""
NOT_FILLED = 0xFFFFFFFF
"""What no leaf is called: marks the entries that KVM leaves as they are. Linux 6.1 does not say how many it filled."""
EXACT_EVENTS = {Cap.EXCEPTION_PAYLOAD: PAYLOAD, Cap.X86_TRIPLE_FAULT_EVENT: TRIPLE_FAULT}
"""Capabilities that make VcpuEvents exact once they are enabled, and the flag of each in the structure."""
WIDE_APIC_IDS = abi.KVM_X2APIC_API_USE_32BIT_IDS | abi.KVM_X2APIC_API_DISABLE_BROADCAST_QUIRK
"""In x2APIC mode, ids of 32 bits in Lapic and in messages, where 255 is one processor and not all. Linux 4.7."""


class X86KvmFd(KvmFd):
    """/dev/kvm on x86_64."""

    get_msr_index_list = iowr(0x02, abi.kvm_msr_list)
    get_supported_cpuid = iowr(0x05, abi.kvm_cpuid2)

    @functools.cached_property
    def msr_indices(self) -> tuple[int, ...]:
        """The MSRs that make up a vCPU's state: KVM's own list, less those that no snapshot should have."""
        empty = abi.kvm_msr_list()
        try:
            self.get_msr_index_list(empty)
        except HypervisorError as error:
            if error.errno != errno.E2BIG:
                raise
        found = counted(abi.kvm_msr_list, ctypes.c_uint32, empty.nmsrs)
        found.nmsrs = empty.nmsrs
        self.get_msr_index_list(found)
        return tuple(index for index in found.items[: found.nmsrs] if is_saveable(index))

    @functools.cached_property
    def exact_events(self) -> dict[Cap, int]:
        """Which of EXACT_EVENTS this KVM has."""
        return {cap: flag for cap, flag in EXACT_EVENTS.items() if self.has(Cap.ENABLE_CAP_VM, cap)}

    @functools.cached_property
    def has_wide_apic_ids(self) -> bool:
        """Whether this KVM has WIDE_APIC_IDS."""
        return self.has(Cap.ENABLE_CAP_VM, Cap.X2APIC_API)

    @functools.cached_property
    def sync_bits(self) -> int:
        """Which registers KVM can copy to the run page."""
        return self.check_extension(Cap.SYNC_REGS)


class X86VmFd(VmFd):
    """A virtual machine on x86_64."""

    set_tss_addr = io(0x47)
    set_identity_map_addr = iow(0x48, abi.kvm_identity_map)
    get_irqchip = iowr(0x62, abi.kvm_irqchip)
    set_irqchip = misnamed_ior(0x63, abi.kvm_irqchip)
    create_pit2 = iow(0x77, abi.kvm_pit_config)
    set_clock = iow(0x7B, abi.kvm_clock_data)
    get_clock = ior(0x7C, abi.kvm_clock_data)
    get_pit2 = ior(0x9F, abi.kvm_pit_state2)
    set_pit2 = iow(0xA0, abi.kvm_pit_state2)

    def __init__(self, kvm: X86KvmFd, number: int):
        super().__init__(number)
        self._kvm = kvm
        self.msr_indices: tuple[int, ...] = ()
        self.sync_bits = 0
        self.event_flags = 0
        """Which parts of kvm_vcpu_events are put: all that KVM reports."""
        self.xsave_bytes = ctypes.sizeof(abi.kvm_xsave)
        self.has_irqchip = False
        self.has_pit = False

    def prepare(self) -> None:
        """What a VM needs before its first vCPU. All questions are asked here; a vCPU's fd asks none."""
        self.set_identity_map_addr(abi.kvm_identity_map(address=IDENTITY_MAP_ADDRESS))
        self.set_tss_addr(TSS_ADDRESS)
        self.xsave_bytes = max(self.check_extension(Cap.XSAVE2), self.xsave_bytes)
        for cap in self._kvm.exact_events:
            self.enable(cap)
        if self._kvm.has_wide_apic_ids:
            self.enable(Cap.X2APIC_API, WIDE_APIC_IDS)
        self.event_flags = NMI_PENDING | SHADOW | SMM | sum(self._kvm.exact_events.values())
        self.sync_bits = self._kvm.sync_bits
        self.msr_indices = self._kvm.msr_indices


class X86VcpuFd(VcpuFd):
    """A virtual processor on x86_64."""

    get_regs = ior(0x81, abi.kvm_regs)
    set_regs = iow(0x82, abi.kvm_regs)
    get_sregs = ior(0x83, abi.kvm_sregs)
    set_sregs = iow(0x84, abi.kvm_sregs)
    get_msrs = iowr(0x88, abi.kvm_msrs)
    set_msrs = iow(0x89, abi.kvm_msrs)
    get_lapic = ior(0x8E, abi.kvm_lapic_state)
    set_lapic = iow(0x8F, abi.kvm_lapic_state)
    set_cpuid2 = iow(0x90, abi.kvm_cpuid2)
    get_cpuid2 = iowr(0x91, abi.kvm_cpuid2)
    get_vcpu_events = ior(0x9F, abi.kvm_vcpu_events)
    set_vcpu_events = iow(0xA0, abi.kvm_vcpu_events)
    get_tsc_khz = io(0xA3)
    get_debugregs = ior(0xA1, abi.kvm_debugregs)
    set_debugregs = iow(0xA2, abi.kvm_debugregs)
    get_xsave = misnamed_ior(0xA4, abi.kvm_xsave)
    set_xsave = iow(0xA5, abi.kvm_xsave)
    get_xcrs = ior(0xA6, abi.kvm_xcrs)
    set_xcrs = iow(0xA7, abi.kvm_xcrs)
    get_xsave2 = misnamed_ior(0xCF, abi.kvm_xsave)

    def __init__(self, vm: X86VmFd, number: int):
        super().__init__(number)
        self.has_irqchip = vm.has_irqchip
        self.msr_indices = vm.msr_indices
        self.sync_bits = vm.sync_bits
        self.event_flags = vm.event_flags
        self.xsave_bytes = vm.xsave_bytes


def fetch_cpuid(ask: Callable[[Any], int]) -> list[Any]:
    """The entries of a CPUID table, from an ioctl that says E2BIG until it is given room enough."""
    room = CPUID_ENTRIES
    while True:
        table = counted(abi.kvm_cpuid2, abi.kvm_cpuid_entry2, room)
        table.nent = room
        for entry in table.items:
            entry.function = NOT_FILLED
        try:
            ask(table)
        except HypervisorError as error:
            if error.errno != errno.E2BIG or room > 16 * CPUID_ENTRIES:
                raise
            room *= 2
        else:
            return [entry for entry in table.items[: min(table.nent, room)] if entry.function != NOT_FILLED]
