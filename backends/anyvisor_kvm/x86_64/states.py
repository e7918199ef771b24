"""vCPU states to KVM's structures and back; the table at the end says all there is.

Some facts about KVM's side. Asking for MpState may change the local APIC. And what KVM_SET_CPUID2 is given is not what
KVM_GET_CPUID2 returns later, since KVM keeps up to date the bits that change at run time; once a vCPU has run, its
table can only be set to what it is. A local APIC's id register holds eight bits at its upper end; in x2APIC mode, since
the backend asks for ids of 32 bits (`X86VmFd.prepare`), all of the id, and none but the vCPU's own can be put. That a
vCPU stands in HLT is known to KVM only where it has the interrupt
controllers; elsewhere the backend keeps it (`VcpuFd.halted`).
"""

from __future__ import annotations

import errno
import operator
import struct

import attrs

from anyvisor.errors import HypervisorError, Unsupported
from anyvisor.states import VcpuState
from anyvisor.x86_64.cpuid import Cpuid, CpuidEntry
from anyvisor.x86_64.lapic import Lapic
from anyvisor.x86_64.msrs import Msrs
from anyvisor.x86_64.state import (
    Activity,
    DebugRegs,
    DescriptorTable,
    Fpu,
    MpState,
    Regs,
    SegmentRegister,
    Sregs,
    VcpuEvents,
    Xcrs,
    Xsave,
)
from anyvisor_kvm.abi import assign, counted, kvm_mp_state
from anyvisor_kvm.architecture import Accessors
from anyvisor_kvm.x86_64 import abi
from anyvisor_kvm.x86_64.convert import Fields, same
from anyvisor_kvm.x86_64.events import get_vcpu_events, put_vcpu_events
from anyvisor_kvm.x86_64.fds import X86VcpuFd, fetch_cpuid
from anyvisor_kvm.x86_64.fpu import get_fpu, get_xsave, put_fpu, put_xsave
from anyvisor_kvm.x86_64.msrs import get_msrs, put_msrs

SEGMENTS = ("cs", "ds", "es", "fs", "gs", "ss", "tr", "ldt")
TABLES = ("gdt", "idt")
SREGS = Fields(Sregs, same("cr0", "cr2", "cr3", "cr4", "cr8", "efer", "apic_base"))
SEGMENT = Fields(SegmentRegister)
TABLE = Fields(DescriptorTable)
DEBUG_REGS = Fields(DebugRegs, same("dr6", "dr7"))
CPUID_ENTRY = Fields(CpuidEntry, same("eax", "ebx", "ecx", "edx") | {"leaf": "function", "subleaf": "index"})

_registers = struct.Struct("<18Q")
_all_registers = operator.attrgetter(*(each.name for each in attrs.fields(Regs)))


def regs_to_kvm(state: Regs) -> abi.kvm_regs:
    """The 18 registers have one order in both, and packing them at once is several times faster."""
    try:
        return abi.kvm_regs.from_buffer_copy(_registers.pack(*_all_registers(state)))
    except struct.error as error:
        raise HypervisorError("KVM_SET_REGS", errno.EINVAL, f"{state}: {error}") from error


def regs_from_kvm(regs: abi.kvm_regs) -> Regs:
    """The general-purpose registers."""
    return Regs(*_registers.unpack_from(regs))


def sregs_to_kvm(state: Sregs) -> abi.kvm_sregs:
    """Segment, table and control registers."""
    sregs = abi.kvm_sregs()
    SREGS.fill(sregs, state)
    for name in SEGMENTS:
        SEGMENT.fill(getattr(sregs, name), getattr(state, name))
    for name in TABLES:
        TABLE.fill(getattr(sregs, name), getattr(state, name))
    words = [state.interrupt_bitmap >> shift & 0xFFFFFFFFFFFFFFFF for shift in (0, 64, 128)]
    assign(sregs.interrupt_bitmap, [*words, state.interrupt_bitmap >> 192], "kvm_sregs")
    return sregs


def sregs_from_kvm(sregs: abi.kvm_sregs) -> Sregs:
    """Segment, table and control registers."""
    segments = {name: SEGMENT.take(getattr(sregs, name)) for name in SEGMENTS}
    tables = {name: TABLE.take(getattr(sregs, name)) for name in TABLES}
    bitmap = int.from_bytes(bytes(sregs.interrupt_bitmap), "little")
    return SREGS.take(sregs, **segments, **tables, interrupt_bitmap=bitmap)


def get_regs(fd: X86VcpuFd) -> Regs:  # noqa: D103
    return regs_from_kvm(fd.get_regs())


def put_regs(fd: X86VcpuFd, state: Regs) -> None:  # noqa: D103
    fd.set_regs(regs_to_kvm(state))


def get_sregs(fd: X86VcpuFd) -> Sregs:  # noqa: D103
    return sregs_from_kvm(fd.get_sregs())


def put_sregs(fd: X86VcpuFd, state: Sregs) -> None:  # noqa: D103
    fd.set_sregs(sregs_to_kvm(state))


def get_xcrs(fd: X86VcpuFd) -> Xcrs:  # noqa: D103
    xcrs = fd.get_xcrs()
    found = {each.xcr: each.value for each in xcrs.xcrs[: xcrs.nr_xcrs]}
    return Xcrs(xcr0=found.get(0, 1))


def put_xcrs(fd: X86VcpuFd, state: Xcrs) -> None:  # noqa: D103
    xcrs = abi.kvm_xcrs(nr_xcrs=1)
    xcrs.xcrs[0].value = state.xcr0
    fd.set_xcrs(xcrs)


def get_debug_regs(fd: X86VcpuFd) -> DebugRegs:  # noqa: D103
    registers = fd.get_debugregs()
    return DEBUG_REGS.take(registers, db=tuple(registers.db))


def put_debug_regs(fd: X86VcpuFd, state: DebugRegs) -> None:  # noqa: D103
    registers = abi.kvm_debugregs()
    DEBUG_REGS.fill(registers, state)
    assign(registers.db, state.db, "KVM_SET_DEBUGREGS")
    fd.set_debugregs(registers)


def get_lapic(fd: X86VcpuFd) -> Lapic:  # noqa: D103
    return Lapic.from_bytes(bytes(fd.get_lapic().regs))


def put_lapic(fd: X86VcpuFd, state: Lapic) -> None:  # noqa: D103
    try:
        page = state.to_bytes()
    except (struct.error, OverflowError) as error:
        raise HypervisorError("KVM_SET_LAPIC", errno.EINVAL, f"{fd.subject}: {error}") from error
    fd.set_lapic(abi.kvm_lapic_state.from_buffer_copy(page))


def get_mp_state(fd: X86VcpuFd) -> MpState:  # noqa: D103
    number = Activity.HALTED if fd.halted else fd.get_mp_state().mp_state
    if number not in Activity._value2member_map_:
        raise Unsupported(f"{fd.subject} is in KVM's multiprocessing state {number}, which no MpState stands for")
    return MpState(Activity(number))


def put_mp_state(fd: X86VcpuFd, state: MpState) -> None:  # noqa: D103
    halted = fd.has_source and state.activity is Activity.HALTED
    fd.set_mp_state(kvm_mp_state(mp_state=Activity.RUNNABLE if halted else state.activity))
    fd.halted = halted


def get_cpuid(fd: X86VcpuFd) -> Cpuid:  # noqa: D103
    return cpuid_from_kvm(fetch_cpuid(fd.get_cpuid2))


def cpuid_from_kvm(entries: list[abi.kvm_cpuid_entry2]) -> Cpuid:
    """A CPUID table."""
    indexed = abi.KVM_CPUID_FLAG_SIGNIFCANT_INDEX
    return Cpuid(tuple(CPUID_ENTRY.take(each, indexed=bool(each.flags & indexed)) for each in entries))


def put_cpuid(fd: X86VcpuFd, state: Cpuid) -> None:  # noqa: D103
    table = counted(abi.kvm_cpuid2, abi.kvm_cpuid_entry2, len(state.entries))
    table.nent = len(state.entries)
    for entry, given in zip(table.items, state.entries, strict=True):
        CPUID_ENTRY.fill(entry, given)
        entry.flags = abi.KVM_CPUID_FLAG_SIGNIFCANT_INDEX if given.indexed else 0
    fd.set_cpuid2(table)


VCPU_STATES: dict[type[VcpuState], Accessors] = {
    Cpuid: (get_cpuid, put_cpuid),  # which bits and MSRs exist depends on it
    MpState: (get_mp_state, put_mp_state),  # may change the local APIC, and events
    Regs: (get_regs, put_regs),  # drops a pending exception
    Sregs: (get_sregs, put_sregs),  # holds the APIC base
    Fpu: (get_fpu, put_fpu),  # a part of the next
    Xsave: (get_xsave, put_xsave),
    Xcrs: (get_xcrs, put_xcrs),
    DebugRegs: (get_debug_regs, put_debug_regs),
    Lapic: (get_lapic, put_lapic),  # needs the APIC base
    Msrs: (get_msrs, put_msrs),  # the TSC deadline needs the local APIC in that mode
    VcpuEvents: (get_vcpu_events, put_vcpu_events),  # after all that would drop them
}
"""How to get and put each state, in the order in which they are restored, with its reason."""
