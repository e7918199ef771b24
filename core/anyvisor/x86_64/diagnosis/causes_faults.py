"""Causes of a triple fault: the exception that began it, and the table that should have led to its handler."""

from __future__ import annotations

from collections.abc import Iterator

import attrs

from anyvisor.diagnosis.report import Cause
from anyvisor.exits import InternalError, Shutdown
from anyvisor.memory import PAGE_BYTES
from anyvisor.x86_64.diagnosis.ahead import look_ahead
from anyvisor.x86_64.diagnosis.exceptions import (
    BP,
    DB,
    DE,
    DF,
    GP,
    NM,
    NP,
    PF,
    SS,
    UD,
    an_exception,
    exception_name,
    gate,
    is_own_idt,
)
from anyvisor.x86_64.diagnosis.faults import FETCH, Fault, fault_at
from anyvisor.x86_64.diagnosis.scene import Scene
from anyvisor.x86_64.exceptions import describe_error_code

SEEN, GUESSED = 88, 82
"""How strongly an exception speaks that was told or seen, and one that the code leads to."""
OWN_IDT, SPARSE_IDT = 91, 75
"""A table of the guest's own that delivers nothing is the bug, whatever exception comes first; one that has other
handlers (a decompressor's has one for page faults) need not have all.
"""
EXCEPTIONS = 32
RESET = 93
NEAR_STACK_BYTES = 256
MANUAL = "SDM Vol. 3, 6.15; APM Vol. 2, 8.2"
NAMES = {
    DE: "divide-error",
    DB: "debug-exception",
    BP: "breakpoint",
    UD: "undefined-opcode",
    NM: "device-not-available",
    NP: "segment-not-present",
    SS: "stack-fault",
    GP: "general-protection",
    PF: "page-fault",
}
REMEDIES = {
    "undefined-opcode": "look at the code below: is it what you meant to run, built for this mode and this CPU model "
    "(CPUID)? A UD2 is a failed assertion of the guest's own",
    "page-fault": "map that address in the page tables, or find out where the guest got it from",
    "entry-not-mapped": "map the entry in anyvisor_page_tables, or enter the kernel at an address that is mapped",
    "stack-not-mapped": "point RSP at mapped RAM in anyvisor_registers, with room below it",
    "jump-to-zero": "look for a null function pointer or a return from an empty stack: the stack below says who called",
    "code-not-mapped": "find out how it got there: a bad jump, a return from a broken stack, or page tables that "
    "do not map the code that switched to them",
    "selector-beyond-gdt": "make GDTR's limit the GDT's size in bytes less one (Gdt.limit_bytes), and put the "
    "descriptor into the table",
    "bad-selector": "put a present descriptor of the right kind at that selector of the GDT",
}
OTHERWISE = "give the guest a handler before this can happen, or keep it from happening: the code below shows where"


@attrs.frozen
class Sight:
    """An exception as it was seen, with the scene in which it is raised.

    `since` is for one that is not sure: what state its way was followed from.
    """

    scene: Scene
    fault: Fault
    since: str = ""


def triple_fault(scene: Scene) -> Iterator[Cause]:
    """The exception of a shutdown, and a table of the guest's own that cannot deliver it."""
    if not isinstance(scene.evidence.exit, Shutdown):
        return
    sight = _told(scene) or _seen(scene)
    if sight is None:
        yield from _unknown(scene)
        return
    if _is_reset(sight):
        yield _reset(sight)
    handler = gate(sight.scene, sight.fault.vector)
    cause = _exception(sight, f"nothing handles it: {handler.problem}" if handler.problem else "")
    if is_own_idt(sight.scene) and handler.problem:
        yield _bad_idt(sight, handler.problem)
    yield cause


def undelivered(scene: Scene) -> Iterator[Cause]:
    """An instruction that a hypervisor could not emulate, as it raises an exception that has nowhere to go."""
    if not isinstance(scene.evidence.exit, InternalError) or scene.rip is None:
        return
    fault = fault_at(scene, scene.rip)
    problem = gate(scene, fault.vector).problem if fault else ""
    if fault and problem:
        sight = Sight(scene, fault)
        if is_own_idt(scene):
            yield _bad_idt(sight, problem)
        yield _exception(sight, f"nothing handles it: {problem}")


def _told(scene: Scene) -> Sight | None:
    """The first exception that the hypervisor tells of."""
    exit_ = scene.evidence.exit
    told = [each for each in exit_.exceptions if each.vector != DF] if isinstance(exit_, Shutdown) else []
    if not told or scene.rip is None:
        return None
    first = told[0]
    rip = scene.rip if first.rip is None else first.rip
    seen = fault_at(scene, rip)
    if seen and seen.vector == first.vector and first.address in (None, seen.address):
        return Sight(scene, seen)
    about = "" if first.address is None else f" for {first.address:#x}"
    words = "" if first.error_code is None else describe_error_code(first.vector, first.error_code, first.address)
    code = "" if first.error_code is None else f", error code {first.error_code:#x}" + f" ({words})" * bool(words)
    why = f"the processor raised it at RIP {scene.place(rip)}{about}{code}"
    access = FETCH if first.address == rip else ""
    return Sight(scene, Fault(first.vector, rip, why, first.address, access))


def _seen(scene: Scene) -> Sight | None:
    """The exception that registers and memory lead to."""
    if scene.rip is None:
        return None
    if not scene.evidence.is_lost and (fault := fault_at(scene, scene.rip)):
        return Sight(scene, fault)
    end = look_ahead(scene) if scene.evidence.is_lost else None
    return Sight(end.scene, end.fault, scene.evidence.since) if end and end.fault else None


def _exception(sight: Sight, undelivered: str) -> Cause:
    fault, scene = sight.fault, sight.scene
    name = _name(scene, fault)
    at = scene.place(fault.rip)
    what = "the guest raised" if not sight.since else f"the guest's code from {sight.since} on leads to"
    hedge = "its registers are lost; this is read off the code that it was about to execute" if sight.since else ""
    return Cause(
        name=name,
        summary=f"{what} {an_exception(fault.vector)} at {at}",
        because=tuple(filter(None, (fault.why, undelivered, hedge))),
        remedy=REMEDIES.get(name, OTHERWISE),
        section=MANUAL,
        weight=GUESSED if sight.since else SEEN,
    )


def _name(scene: Scene, fault: Fault) -> str:
    """What kind of a fault it is, more exactly than its vector says."""
    if fault.selector is not None:
        return "selector-beyond-gdt" if "beyond" in fault.why else "bad-selector"
    if fault.vector == PF and fault.access == FETCH:
        if fault.rip == scene.entry and not _was_mapped(scene, fault.rip):
            return "entry-not-mapped"
        return "jump-to-zero" if fault.rip < PAGE_BYTES else "code-not-mapped"
    if fault.vector in (PF, SS) and (fault.stack or _is_near_stack(scene, fault)):
        return "stack-not-mapped"
    return NAMES.get(fault.vector, f"exception-{fault.vector}")


def _was_mapped(scene: Scene, address: int) -> bool:
    """Whether the page tables of the plan mapped an address: then the guest has changed them since."""
    before = Scene(attrs.evolve(scene.evidence, read=scene.evidence.plan.read))
    return before.walk(address).guest_address is not None


def _is_near_stack(scene: Scene, fault: Fault) -> bool:
    if scene.rsp is None or fault.address is None:
        return False
    return abs(scene.rsp - fault.address) <= NEAR_STACK_BYTES


def _is_reset(sight: Sight) -> bool:
    """Whether it is the way in which kernels reset a machine: they load an empty IDT, then raise an exception."""
    sregs = sight.scene.sregs
    on_purpose = sight.fault.vector in (BP, UD) and sregs is not None and sregs.idt.limit == 0
    return on_purpose and sregs is not None and sight.scene.planned_sregs.get("idt") != sregs.idt


def _reset(sight: Sight) -> Cause:
    return Cause(
        name="reset-by-triple-fault",
        summary="the guest reset the machine on purpose, by a triple fault",
        because=("IDTR's limit is 0: no table is that short by accident", sight.fault.why),
        remedy="that is a kernel's last resort to reboot (Linux: reboot=t), after a panic or on request: see why it "
        "rebooted, and why the ways before that one did not work (keyboard controller, ACPI)",
        weight=RESET,
    )


def _has_a_handler(scene: Scene) -> bool:
    """Whether the IDT has a handler for any exception: the table is there, and leaves the others out on purpose."""
    return any(not gate(scene, vector).problem for vector in range(EXCEPTIONS))


def _bad_idt(sight: Sight, problem: str) -> Cause:
    scene = sight.scene
    assert scene.sregs
    idt = scene.sregs.idt
    return Cause(
        name="idt-bad",
        summary=f"the guest's IDT leads to no handler for the {exception_name(sight.fault.vector)} that it raised",
        because=(
            f"IDTR has base {idt.base:#x} and limit {idt.limit:#x}; {problem}",
            sight.fault.why,
        ),
        remedy="load IDTR with the address and limit of a table that has a present gate for every exception; keep it "
        "mapped when the page tables change",
        section="SDM Vol. 3, 6.10 and 6.14; APM Vol. 2, 8.9",
        weight=SPARSE_IDT if _has_a_handler(scene) else OWN_IDT,
    )


def _unknown(scene: Scene) -> Iterator[Cause]:
    """An exception that nothing is seen of."""
    because = []
    end = look_ahead(scene) if scene.evidence.is_lost else None
    if end:
        code = scene.read(end.rip, 8).hex(" ")
        because = [
            f"the hypervisor reset the vCPU; from {scene.evidence.since} its code can be followed to "
            f"{scene.place(end.rip)} ({code}), and no further"
        ]
    elif problem := gate(scene, PF).problem:
        because = [f"an exception has nowhere to go: for a page fault, {problem}"]
    yield Cause(
        name="unknown-exception",
        summary="the guest raised an exception that it has no handler for; which one is not known",
        because=tuple(because),
        remedy="run the same machine with --backend unicorn, whose processor says which exception it was and keeps "
        "the registers; or single-step it",
        section=MANUAL,
        weight=20,
    )


CAUSES = (triple_fault, undelivered)
