"""Causes of a triple fault: the exception that began it, and the table that should have led to its handler."""

from __future__ import annotations

from collections.abc import Iterator

import attrs

from anyvisor.diagnosis.report import Cause
from anyvisor.exits import InternalError, Shutdown
from anyvisor.memory import PAGE_BYTES
from anyvisor.x86_64.diagnosis.exceptions import (
    BP,
    PF,
    SS,
    UD,
    an_exception,
    exception_name,
    gate,
    is_own_idt,
)
from anyvisor.x86_64.diagnosis.fault import FETCH, NAMES, REMEDIES, Fault
from anyvisor.x86_64.diagnosis.faults import fault_at
from anyvisor.x86_64.diagnosis.scene import Scene
from anyvisor.x86_64.diagnosis.sights import Sight, sight_of

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
OTHERWISE = (
    "give the guest a handler before this can happen, or keep it from happening: the code in the report shows where"
)


def triple_fault(scene: Scene) -> Iterator[Cause]:
    """The exception of a shutdown, and a table of the guest's own that cannot deliver it."""
    if not isinstance(scene.evidence.exit, Shutdown):
        return
    sight = sight_of(scene)
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
        remedy=fault.remedy or REMEDIES.get(name, OTHERWISE),
        section=MANUAL,
        weight=GUESSED if sight.since else SEEN,
    )


def _name(scene: Scene, fault: Fault) -> str:
    """What kind of a fault it is, more exactly than its vector says."""
    if fault.check:
        return fault.check
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
    end = scene.ahead
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
