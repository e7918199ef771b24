"""KVM on x86_64: what the rest of the backend must know, in one value, `X86_64`."""

from __future__ import annotations

import errno
from pathlib import Path

from anyvisor.errors import HypervisorError
from anyvisor.x86_64.cpuid import Cpuid
from anyvisor.x86_64.modes import MODES
from anyvisor.x86_64.msrs import Msrs
from anyvisor_kvm.abi import Cap
from anyvisor_kvm.architecture import Architecture, Survey
from anyvisor_kvm.x86_64.chips import STATES_AFTER, STATES_BEFORE
from anyvisor_kvm.x86_64.extension import CPUINFO, extension_in
from anyvisor_kvm.x86_64.fds import X86KvmFd, X86VcpuFd, X86VmFd, fetch_cpuid
from anyvisor_kvm.x86_64.msrs import get_msrs
from anyvisor_kvm.x86_64.reasons import fail_entry, internal_error
from anyvisor_kvm.x86_64.shutdown import shutdown_lost_state, undelivered
from anyvisor_kvm.x86_64.states import VCPU_STATES, cpuid_from_kvm, put_cpuid
from anyvisor_kvm.x86_64.sync import SyncedRegisters

ADDRESS_SIZES = 0x80000008
"""The CPUID leaf whose EAX holds the physical address bits, in bits 0-7. SDM Vol. 2A, CPUID."""
LEAST_ADDRESS_BITS = 36
"""What a processor without that leaf has."""
SOFTWARE_KVM = (
    "software KVM: this host's processor offers no virtualisation (no vmx or svm flag), so guests are "
    "interpreted; small ones run, a stock Linux does not finish booting"
)


def survey(kvm: X86KvmFd) -> Survey:
    """The facts of this host: what a vCPU can be given at most, asked of one made for the purpose."""
    cpuid = cpuid_from_kvm(fetch_cpuid(kvm.get_supported_cpuid))
    native = has_virtualisation(CPUINFO)
    msrs, tsc_khz = ask_vcpu(kvm, cpuid)
    notes = () if native else (SOFTWARE_KVM,)
    return Survey((cpuid, msrs), physical_address_bits(cpuid), native, tsc_khz, notes)


def ask_vcpu(kvm: X86KvmFd, cpuid: Cpuid) -> tuple[Msrs, int]:
    """The MSRs that a vCPU with every feature has, at reset, and the speed of its time stamp counter in kHz.

    KVM's own list has MSRs that it refuses. It knows no speed, 0, where the host's counter does not keep one.
    """
    with X86VmFd(kvm, kvm.create_vm()) as vm:
        vm.prepare()
        with X86VcpuFd(vm, vm.create_vcpu(0)) as vcpu:
            put_cpuid(vcpu, cpuid)
            return get_msrs(vcpu), _tsc_khz(kvm, vcpu)


def _tsc_khz(kvm: X86KvmFd, vcpu: X86VcpuFd) -> int:
    if not kvm.has(Cap.GET_TSC_KHZ):
        return 0
    try:
        return vcpu.get_tsc_khz()
    except HypervisorError as error:
        if error.errno != errno.EIO:
            raise
        return 0


def physical_address_bits(cpuid: Cpuid) -> int:
    """How wide a guest's physical addresses can be."""
    sizes = [each.eax & 0xFF for each in cpuid.entries if each.leaf == ADDRESS_SIZES]
    return sizes[0] if sizes and sizes[0] else LEAST_ADDRESS_BITS


def has_virtualisation(cpuinfo: Path) -> bool:
    """Whether the host's processor runs guests by itself; taken to be so where the file cannot be read."""
    return extension_in(cpuinfo) != ""


X86_64 = Architecture(
    name="x86_64",
    modes=MODES,
    required=(
        Cap.USER_MEMORY,
        Cap.IMMEDIATE_EXIT,
        Cap.SET_TSS_ADDR,
        Cap.SET_IDENTITY_MAP_ADDR,
        Cap.EXT_CPUID,
        Cap.MP_STATE,
        Cap.VCPU_EVENTS,
        Cap.DEBUGREGS,
        Cap.XSAVE,
        Cap.XCRS,
    ),
    kvm_fd=X86KvmFd,
    vm_fd=X86VmFd,
    prepare_vm=X86VmFd.prepare,
    vcpu_fd=X86VcpuFd,
    sync=SyncedRegisters,
    fail_entry=fail_entry,
    internal_error=internal_error,
    shutdown_lost_state=shutdown_lost_state,
    undelivered=undelivered,
    survey=survey,
    states_before=STATES_BEFORE,
    vcpu_states=VCPU_STATES,
    states_after=STATES_AFTER,
)
