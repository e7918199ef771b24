"""What a processor is doing when it is entered: halted or not, in the shadow of an instruction, with an event to take.

Some facts about shadows. The instruction behind STI or MOV SS runs with interrupts off. Intel's processors tell the two
apart, AMD's do not; so KVM says both of a processor of AMD's, and that is no contradiction here.
"""

from __future__ import annotations

from collections.abc import Iterator

from anyvisor.x86_64.entry_checks.check import Broken, check, spelled
from anyvisor.x86_64.entry_checks.state import Known
from anyvisor.x86_64.state import Activity, MpState, Sregs, VcpuEvents

ACTIVITY, INJECTION = "SDM Vol. 3, 27.3.1.5", "SDM Vol. 3, 27.3.1.4"
MOV_SS, STI = 1, 2
SHADOWS = {MOV_SS: "MOV SS", STI: "STI", MOV_SS | STI: "MOV SS or STI"}
NMI_VECTOR, LAST_EXCEPTION = 2, 31


def _halted(known: Known) -> bool:
    return bool(known.value(MpState, "activity") == Activity.HALTED)


def _shadow(known: Known) -> int:
    return int(known.value(VcpuEvents, "interrupt_shadow") or 0) & (MOV_SS | STI)


def _interrupt_comes(known: Known) -> bool:
    """Whether an external interrupt is injected, by either state that says so; INT n is none."""
    injected = known.value(VcpuEvents, "interrupt_injected") and not known.value(VcpuEvents, "interrupt_soft")
    return bool(injected or known.value(Sregs, "interrupt_bitmap"))


@check("halted-is-privileged", "A processor that is halted has privilege level 0.", intel=ACTIVITY)
def halted_privilege(known: Known) -> Iterator[Broken]:
    """HLT is a privileged instruction."""
    stack = known.segment("ss")
    if _halted(known) and stack is not None and stack.dpl:
        remedy = "make it runnable, or clear SS.DPL"
        yield Broken("activity", "is halted with a privilege level", f"SS.DPL {stack.dpl}", "SS.DPL 0", remedy)


@check("halted-without-shadow", "A processor that is halted is in no shadow of STI or MOV SS.", intel=ACTIVITY)
def halted_shadow(known: Known) -> Iterator[Broken]:
    """A shadow ends with the instruction behind it."""
    if _halted(known) and _shadow(known):
        found = f"halted, blocked by {SHADOWS[_shadow(known)]}"
        yield Broken("activity", "is halted in an interrupt shadow", found, "no shadow", "clear interrupt_shadow")


@check("sti-shadow-needs-if", "A processor in the shadow of STI has RFLAGS.IF set.", intel=ACTIVITY)
def sti_shadow(known: Known) -> Iterator[Broken]:
    """STI has set it."""
    flags = known.rflags
    if _shadow(known) == STI and flags is not None and not flags.interrupt_enable:
        found = f"blocked by STI, {spelled('RFLAGS', flags)}"
        yield Broken("events", "are blocked by STI with interrupts off", found, "IF set", "clear interrupt_shadow")


@check("injected-interrupt-needs-if", "An external interrupt is injected only with RFLAGS.IF set.", intel=INJECTION)
def interrupt_needs_if(known: Known) -> Iterator[Broken]:
    """AMD's processors deliver it all the same."""
    flags = known.rflags
    if _interrupt_comes(known) and flags is not None and not flags.interrupt_enable:
        found = f"an interrupt injected, {spelled('RFLAGS', flags)}"
        yield Broken("RFLAGS", "interrupts are off, and one is injected", found, "IF set", "inject it later")


@check("injected-event-without-shadow", "No external interrupt or NMI is injected into a shadow.", intel=ACTIVITY)
def event_shadow(known: Known) -> Iterator[Broken]:
    """Of STI an NMI takes no notice."""
    shadow = _shadow(known)
    nmi = known.value(VcpuEvents, "nmi_injected")
    if shadow and (_interrupt_comes(known) or (nmi and shadow & MOV_SS)):
        what = "an NMI" if nmi else "an interrupt"
        found = f"{what} injected, blocked by {SHADOWS[shadow]}"
        yield Broken("events", "one is injected that is blocked", found, "no shadow", "clear interrupt_shadow")


@check(
    "injected-exception-is-one",
    "An injected exception has one of vectors 0 to 31, and not that of the NMI.",
    intel="SDM Vol. 3, 27.2.1.3",
    amd="APM Vol. 2, 15.20",
)
def exception_vector(known: Known) -> Iterator[Broken]:
    """Others are interrupts."""
    vector = known.value(VcpuEvents, "exception_vector")
    comes = known.value(VcpuEvents, "exception_injected") or known.value(VcpuEvents, "exception_pending")
    if comes and vector is not None and (not 0 <= vector <= LAST_EXCEPTION or vector == NMI_VECTOR):
        wanted = f"0 to {LAST_EXCEPTION}, and not {NMI_VECTOR}"
        yield Broken(
            "events", "the injected exception is none", f"vector {vector}", wanted, "inject an interrupt instead"
        )
