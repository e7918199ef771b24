"""Example states of x86_64: how each can be changed so that it shows, what stands still, and what must be refused.

Some facts about reading back. A few parts of a state move by themselves: the time stamp counter, a timer's count. They
are what `steady` leaves out. Some bits are fixed (bit 1 of RFLAGS, bit 4 of CR0), and some are the hypervisor's to keep
up to date (CPUID's copy of CR4.OSXSAVE). What `changed` changes is neither. CPUID comes before all else: which MSRs and
XSAVE components there are depends on it.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import Any

import attrs

from anyvisor.codec import name_of
from anyvisor.errors import Unsupported
from anyvisor.facts import HostFacts
from anyvisor.hypervisor import Vcpu
from anyvisor.states import State, VcpuState, VmState
from anyvisor.x86_64.chips import Clock, Irqchip, Pic, Pit
from anyvisor.x86_64.control import Cr0, Cr4, Efer, Rflags
from anyvisor.x86_64.cpuid import Cpuid
from anyvisor.x86_64.features import Feature
from anyvisor.x86_64.lapic import Lapic, LocalVector
from anyvisor.x86_64.leaves import Leaf
from anyvisor.x86_64.modes import LONG
from anyvisor.x86_64.msr_index import Msr
from anyvisor.x86_64.msrs import Msrs
from anyvisor.x86_64.state import Activity, DebugRegs, Fpu, MpState, Regs, Sregs, VcpuEvents, Xcrs, Xsave

ODD = 0x5A5A_A5A5_0000_1234
ODD_MSRS = {Msr.SYSENTER_CS: 0x18, Msr.SYSENTER_ESP: 0x1234_5678, Msr.KERNEL_GS_BASE: 0x7ABC_1234_5678}
MOVING_MSRS = {Msr.TSC, Msr.TSC_ADJUST, Msr.TSC_DEADLINE, Msr.MPERF, Msr.APERF}
CLOCK_MSRS = range(0x4000_0000, 0x4000_1000)
"""A paravirtual interface's, with its clocks."""
FCW, XMM, XSTATE_BV, X87_AND_SSE = 0x27F, 160, 512, 3
"""An x87 control word of 53-bit precision, and offsets in an XSAVE area. SDM Vol. 1, 13.4."""
NANOSECONDS = 10**12


def before(facts: HostFacts) -> tuple[VmState, ...]:
    """The VM's states that states of a vCPU rest on, to be put before it is created: a local APIC comes with them."""
    chips: tuple[VmState, ...] = (Irqchip(), Pit())
    return tuple(each for each in chips if name_of(type(each)) in facts.states)


def prepare(vcpu: Vcpu, facts: HostFacts) -> None:
    """Give a vCPU the CPUID table with all that the host supports, as a plan would."""
    if (cpuid := _supported_cpuid(facts)) is not None:
        vcpu.put(cpuid)


def changed(state: State, facts: HostFacts) -> State | None:
    """The state with something different in it; None where nothing can be changed."""
    change = _CHANGES.get(type(state))
    return change(state, facts) if change else None


def steady(state: State) -> Any:
    """What of a state stands still while nobody runs."""
    if isinstance(state, Msrs):
        return [each for each in state if each.index not in MOVING_MSRS and each.index not in CLOCK_MSRS]
    if isinstance(state, Lapic):
        return attrs.evolve(state, current_count=0)
    if isinstance(state, Pit) and state.channels is not None:
        return [(each.mode, each.count, each.gate) for each in state.channels]
    if isinstance(state, Xsave):
        return _in_use(state, state.xstate_bv | X87_AND_SSE).area
    return None if isinstance(state, Clock) else state


def refused(vcpu: Vcpu, facts: HostFacts) -> list[VcpuState]:
    """States that no processor can be in: a register that is too wide, long mode without what it takes."""
    too_wide = attrs.evolve(vcpu.get(Regs), rax=1 << 64)
    if facts.modes and LONG not in facts.modes:
        return [too_wide]
    sregs, paging = vcpu.get(Sregs), Cr0(pe=True, et=True, pg=True)
    return [
        too_wide,
        attrs.evolve(sregs, cr0=paging, cr4=Cr4(0), efer=Efer(lme=True, lma=True)),
        attrs.evolve(sregs, cr0=paging, cr4=Cr4(pae=True), efer=Efer(lme=True)),
    ]


def _supported_cpuid(facts: HostFacts) -> Cpuid | None:
    try:
        return facts.supported_state(Cpuid)
    except Unsupported:
        return None


def _change_cpuid(state: Cpuid, _: HostFacts) -> Cpuid | None:
    entry = state.get(Leaf.BRAND)
    return state.replace(entry.replace(eax=ODD & 0xFFFFFFFF)) if entry is not None else None


def _change_fpu(state: Fpu, _: HostFacts) -> Fpu:
    st, xmm = (bytes(range(1, 11)) + bytes(6), *state.st[1:]), (*state.xmm[:15], bytes(range(16)))
    return attrs.evolve(state, fcw=FCW, ftw=1, st=st, xmm=xmm)


def _change_xsave(state: Xsave, _: HostFacts) -> Xsave:
    area = bytearray(state.area)
    struct.pack_into("<H", area, 0, FCW)
    struct.pack_into("<Q", area, XMM, ODD)
    return _in_use(Xsave(bytes(area)), state.xstate_bv | X87_AND_SSE)


def _in_use(state: Xsave, components: int) -> Xsave:
    """The area with its header saying so. x87 and SSE may be called unused while they hold what they do at reset."""
    area = bytearray(state.area)
    struct.pack_into("<Q", area, XSTATE_BV, components)
    return Xsave(bytes(area))


def _change_xcrs(_: Xcrs, facts: HostFacts) -> Xcrs | None:
    cpuid = _supported_cpuid(facts)
    return Xcrs(xcr0=X87_AND_SSE) if cpuid is not None and cpuid.has(Feature.XSAVE) else None


def _change_msrs(state: Msrs, _: HostFacts) -> Msrs | None:
    values = {index: value for index, value in ODD_MSRS.items() if index in state}
    return state.replace(values) if values else None


def _change_irqchip(state: Irqchip, _: HostFacts) -> Irqchip:
    return attrs.evolve(state, pic_master=attrs.evolve(state.pic_master or Pic(), imr=0xA5))


def _change_pit(state: Pit, _: HostFacts) -> Pit | None:
    if state.channels is None:
        return None
    first, second, third = state.channels
    return attrs.evolve(state, channels=(first, second, attrs.evolve(third, count=0x1234, mode=3, gate=1)))


_CHANGES: dict[type[State], Callable[[Any, HostFacts], State | None]] = {
    Cpuid: _change_cpuid,
    MpState: lambda _, __: MpState(Activity.HALTED),
    Regs: lambda regs, _: attrs.evolve(regs, rax=ODD, r15=ODD + 1, rflags=Rflags(fixed=True, cf=True, df=True)),
    Sregs: lambda sregs, _: attrs.evolve(sregs, cr2=ODD, ds=attrs.evolve(sregs.ds, base=0x12340, selector=0x1234)),
    Fpu: _change_fpu,
    Xsave: _change_xsave,
    Xcrs: _change_xcrs,
    DebugRegs: lambda debug, _: attrs.evolve(debug, db=(0x1234, 0, 0, 0x5678)),
    Lapic: lambda lapic, _: attrs.evolve(lapic, error=LocalVector(vector=0x33, masked=True)),
    Msrs: _change_msrs,
    VcpuEvents: lambda events, _: attrs.evolve(events, nmi_masked=True),
    Irqchip: _change_irqchip,
    Pit: _change_pit,
    Clock: lambda clock, _: Clock(clock.nanoseconds + NANOSECONDS),
}
