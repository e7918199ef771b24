"""One vCPU's states, and how they depend on each other.

Some facts about what is one in the processor and two in the interface. EFER, the APIC base and the bases of FS and GS
are in Sregs and are MSRs. CR8 is the upper half of the local APIC's task priority. An interrupt on its way is in
VcpuEvents and in the bitmap of Sregs. The FPU is the first part of the XSAVE area. The APIC base says which id the
local APIC has.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, TypeVar

import attrs

from anyvisor.errors import Unsupported
from anyvisor.exits import FailEntry
from anyvisor.facts import Capability, HostFacts
from anyvisor.states import VcpuState
from anyvisor.x86_64.control import ApicBase, Efer, Rflags
from anyvisor.x86_64.cpuid import Cpuid
from anyvisor.x86_64.lapic import DeliveryMode, Lapic, LocalVector
from anyvisor.x86_64.msrs import Msr, MsrEntry, Msrs, is_saveable, msr_name
from anyvisor.x86_64.reset import reset_states
from anyvisor.x86_64.state import (
    Activity,
    DebugRegs,
    Fpu,
    MpState,
    Regs,
    Sregs,
    VcpuEvents,
    Xcrs,
    Xsave,
)
from anyvisor_mock.rules import Rule
from anyvisor_mock.x86_64 import apic, cpuid, events, msrs, rules, sregs, xsave
from anyvisor_mock.x86_64.entry import LOOKED_AT, refused
from anyvisor_mock.x86_64.widths import check_widths

S = TypeVar("S", bound=VcpuState)

NAMED_MSRS = Msrs.of({each: 0 for each in Msr if is_saveable(each)})
"""What a host has whose facts do not speak of MSRs."""
TASK_PRIORITIES = 16
"""CR8 has four bits; KVM leaves it as it is for more."""


class X86Processor:
    """One vCPU's; see `anyvisor_mock.architecture.Processor`."""

    def __init__(self, name: str, hardware_id: int, facts: HostFacts, *, has_irqchip: bool):
        self._name = name
        self._hardware_id = hardware_id
        self._facts = facts
        self._has_irqchip = has_irqchip
        self._states: dict[type[VcpuState], Any] = {type(each): each for each in reset_states(hardware_id)}
        self._states[Cpuid] = Cpuid()
        if not has_irqchip:
            self._states[MpState] = MpState()
        elif hardware_id == 0:
            self._states[Lapic] = Lapic(lint0=LocalVector(delivery_mode=DeliveryMode.EXTINT))
        self._msrs = {each.index: each.value for each in _supported(facts, Msrs) or NAMED_MSRS}
        self._msrs_listed = frozenset(self._msrs)
        self._tsc_began = time.monotonic_ns()
        self._sipi_vector = 0
        self.has_run = False
        self.has_source = False

    # -- what the vCPU's run asks --------------------------------------------------------------------------------------

    @property
    def halted(self) -> bool:
        """Whether it waits in HLT."""
        return self._now(MpState).activity is Activity.HALTED

    @halted.setter
    def halted(self, halted: bool) -> None:
        self._states[MpState] = MpState(Activity.HALTED if halted else Activity.RUNNABLE)

    @property
    def waits_to_be_started(self) -> bool:
        """Whether it has had no SIPI yet."""
        self._accept_sipi()
        return self._now(MpState).activity not in (Activity.RUNNABLE, Activity.HALTED)

    @property
    def interrupts_on(self) -> bool:
        """RFLAGS.IF."""
        return self._now(Regs).rflags.interrupt_enable

    def refused_entry(self) -> FailEntry | None:
        """The exit that there is in place of an entry, if the host's processor refuses it."""
        return refused({kind: self.get(kind) for kind in LOOKED_AT}, self._facts)

    # -- getting -------------------------------------------------------------------------------------------------------

    def get(self, kind: type[VcpuState]) -> Any:
        """A state; Unsupported for a type that this architecture has not."""
        if kind in READERS:
            return READERS[kind](self)
        if kind not in WRITERS:
            raise Unsupported(f"get {kind.__name__}: the mock's x86_64 has no such state")
        return self._states[kind]

    def _now(self, kind: type[S]) -> S:
        """A state as it is kept here."""
        state: S = self._states[kind]
        return state

    def _get_sregs(self) -> Sregs:
        events_now = self._now(VcpuEvents)
        bitmap = 1 << events_now.interrupt_vector if events_now.interrupt_injected else 0
        return attrs.evolve(self._now(Sregs), interrupt_bitmap=bitmap)

    def _get_mp_state(self) -> MpState:
        self._accept_sipi()
        return self._now(MpState)

    def _get_cpuid(self) -> Cpuid:
        return cpuid.up_to_date(self._table, self._now(Sregs), self._now(Xcrs))

    def _get_fpu(self) -> Fpu:
        return xsave.fpu_of(self._now(Xsave))

    def _get_lapic(self) -> Lapic:
        if not self._has_irqchip:
            raise rules.LAPIC_CHIPS.broken("get Lapic", self._name)
        now = self._now(Lapic)
        if self._in_x2apic_mode and not self._facts.has(Capability.X2APIC):
            return attrs.evolve(now, id=apic.narrow(now.id))
        return now

    @property
    def _in_x2apic_mode(self) -> bool:
        return self._now(Sregs).apic_base.x2apic

    def _get_msrs(self) -> Msrs:
        found = {index: value for index, value in self._msrs.items() if index in self._msrs_listed}
        if Msr.TSC in found:
            found[Msr.TSC] = (found[Msr.TSC] + time.monotonic_ns() - self._tsc_began) & (1 << 64) - 1
        shared = msrs.shared(self._now(Sregs))
        return Msrs.of({**found, **{index: value for index, value in shared.items() if index in found}})

    # -- putting -------------------------------------------------------------------------------------------------------

    def put(self, state: VcpuState) -> None:
        """Set a state; HypervisorError, naming the rule, for what KVM refuses."""
        writer = WRITERS.get(type(state))
        if writer is None:
            raise Unsupported(f"put {type(state).__name__}: the mock's x86_64 has no such state")
        check_widths(f"put {type(state).__name__}", self._name, state)
        writer(self, state)

    def _refuse(self, state: VcpuState, broken: tuple[Rule, str] | None) -> None:
        if broken is not None:
            rule, detail = broken
            raise rule.broken(f"put {type(state).__name__}", f"{self._name}: {detail}")

    @property
    def _table(self) -> Cpuid:
        return self._now(Cpuid)

    def _put_regs(self, state: Regs) -> None:
        self._states[Regs] = attrs.evolve(state, rflags=state.rflags | Rflags(fixed=True))
        self._states[VcpuEvents] = attrs.evolve(
            self._now(VcpuEvents), exception_pending=False, exception_has_payload=False
        )

    def _put_sregs(self, state: Sregs) -> None:
        self._refuse(state, sregs.broken_rule(state, self._table))
        before = self._now(Sregs)
        cr8 = state.cr8 if state.cr8 < TASK_PRIORITIES else before.cr8
        self._states[Sregs] = attrs.evolve(state, cr8=cr8, interrupt_bitmap=0)
        self._switch_apic(before.apic_base, state.apic_base)
        self._states[Lapic] = attrs.evolve(self._now(Lapic), task_priority=cr8 << 4)
        if state.interrupt_bitmap:
            vector = (state.interrupt_bitmap & -state.interrupt_bitmap).bit_length() - 1
            self._states[VcpuEvents] = attrs.evolve(
                self._now(VcpuEvents), interrupt_injected=True, interrupt_vector=vector
            )
        if self.halted and events.is_reset(self._now(Regs), state):
            self._states[MpState] = MpState()

    def _switch_apic(self, before: ApicBase, after: ApicBase) -> None:
        self._states[Lapic] = apic.switched(self._now(Lapic), self._hardware_id, before, after)

    def _put_cpuid(self, state: Cpuid) -> None:
        self._refuse(state, next(cpuid.broken_rules(state), None))
        new = cpuid.up_to_date(state, self._now(Sregs), self._now(Xcrs))
        if self.has_run and new != self._get_cpuid():
            self._refuse(state, (rules.CPUID_FROZEN, "; ".join(self._get_cpuid().diff(new)) or "another order"))
        self._states[Cpuid] = state

    def _put_xsave(self, state: Xsave) -> None:
        host = _supported(self._facts, Cpuid)
        size_bytes = xsave.area_bytes(host)
        self._refuse(state, next(xsave.broken_rules(state, size_bytes, xsave.components(host) | xsave.SSE), None))
        self._states[Xsave] = Xsave(state.area.ljust(size_bytes, b"\0"))

    def _put_fpu(self, state: Fpu) -> None:
        self._states[Xsave] = xsave.with_fpu(self._now(Xsave), state)

    def _put_xcrs(self, state: Xcrs) -> None:
        rule = xsave.broken_xcr0(state, self._table)
        self._refuse(state, None if rule is None else (rule, f"xcr0={state.xcr0:#x}"))
        self._states[Xcrs] = state

    def _put_debug_regs(self, state: DebugRegs) -> None:
        if state.dr6 >> 32 or state.dr7 >> 32:
            self._refuse(state, (rules.DEBUG_WIDTH, f"dr6={state.dr6:#x}, dr7={state.dr7:#x}"))
        self._states[DebugRegs] = state

    def _put_lapic(self, state: Lapic) -> None:
        if not self._has_irqchip:
            self._refuse(state, (rules.LAPIC_CHIPS, "its VM has none"))
        if self._in_x2apic_mode:
            if self._facts.has(Capability.X2APIC) and state.id != self._hardware_id:
                self._refuse(state, (rules.X2APIC_ID, f"id={state.id:#x} of vCPU number {self._hardware_id:#x}"))
            state = apic.fixed(state, self._hardware_id)
        self._states[Lapic] = state
        self._states[Sregs] = attrs.evolve(self._now(Sregs), cr8=state.task_priority >> 4)

    def _put_mp_state(self, state: MpState) -> None:
        kept_by_backend = self.has_source and state.activity is Activity.HALTED
        if state.activity is not Activity.RUNNABLE and not (self._has_irqchip or kept_by_backend):
            self._refuse(state, (rules.ACTIVITY_CHIPS, state.activity.name))
        self._refuse(state, events.broken_activity(state, self._now(VcpuEvents)))
        self._states[MpState] = state

    def _put_events(self, state: VcpuEvents) -> None:
        self._refuse(state, events.broken_rule(state, self._now(MpState)))
        self._sipi_vector = self._sipi_vector if state.sipi_vector is None else state.sipi_vector
        self._states[VcpuEvents] = events.as_kept(state)

    def _accept_sipi(self) -> None:
        """The start-up interrupt, when it has come: to real mode, at the page that its vector names (Vol. 3, 9.4.4)."""
        if self._now(MpState).activity is not Activity.SIPI_RECEIVED:
            return
        self._states[MpState] = MpState()
        now = self._now(Sregs)
        code = attrs.evolve(now.cs, selector=self._sipi_vector << 8, base=self._sipi_vector << 12)
        self._states[Sregs] = attrs.evolve(now, cs=code)
        self._states[Regs] = attrs.evolve(self._now(Regs), rip=0)

    # -- MSRs ----------------------------------------------------------------------------------------------------------

    def _put_msrs(self, state: Msrs) -> None:
        for entry in state:
            if rule := msrs.broken_rule(entry, self._table, self._msrs_listed):
                detail = f"{msr_name(entry.index)}={entry.value:#x} refused; the MSRs before it are set"
                self._refuse(state, (rule, detail))
            self._put_msr(entry)

    def _put_msr(self, entry: MsrEntry) -> None:
        self._msrs[entry.index] = msrs.kept(entry, self._table)
        now = self._now(Sregs)
        if entry.index == Msr.TSC:
            self._tsc_began = time.monotonic_ns()
        elif entry.index == Msr.EFER:
            now = attrs.evolve(now, efer=Efer(entry.value).replace(lma=now.efer.lma))
        elif entry.index == Msr.APIC_BASE:
            self._switch_apic(now.apic_base, ApicBase(entry.value))
            now = attrs.evolve(now, apic_base=ApicBase(entry.value))
        elif entry.index == Msr.FS_BASE:
            now = attrs.evolve(now, fs=attrs.evolve(now.fs, base=entry.value))
        elif entry.index == Msr.GS_BASE:
            now = attrs.evolve(now, gs=attrs.evolve(now.gs, base=entry.value))
        self._states[Sregs] = now


READERS: dict[type[VcpuState], Callable[[X86Processor], Any]] = {
    Cpuid: X86Processor._get_cpuid,
    MpState: X86Processor._get_mp_state,
    Sregs: X86Processor._get_sregs,
    Fpu: X86Processor._get_fpu,
    Lapic: X86Processor._get_lapic,
    Msrs: X86Processor._get_msrs,
}
WRITERS: dict[type[VcpuState], Callable[[X86Processor, Any], None]] = {
    Cpuid: X86Processor._put_cpuid,
    MpState: X86Processor._put_mp_state,
    Regs: X86Processor._put_regs,
    Sregs: X86Processor._put_sregs,
    Fpu: X86Processor._put_fpu,
    Xsave: X86Processor._put_xsave,
    Xcrs: X86Processor._put_xcrs,
    DebugRegs: X86Processor._put_debug_regs,
    Lapic: X86Processor._put_lapic,
    Msrs: X86Processor._put_msrs,
    VcpuEvents: X86Processor._put_events,
}
"""How each state is put. Those without a reader are got as they are kept."""


def _supported(facts: HostFacts, kind: type[Any]) -> Any:
    """What the facts say of that state; an empty one where they say nothing."""
    return next((each for each in facts.supported if isinstance(each, kind)), kind())
