"""The exception that a guest died of: as the hypervisor tells of it, or as registers, memory and code lead to it."""

from __future__ import annotations

import attrs

from anyvisor.exits import GuestException, Shutdown
from anyvisor.x86_64.diagnosis.control_faults import refused_msr
from anyvisor.x86_64.diagnosis.exceptions import DF, GP
from anyvisor.x86_64.diagnosis.fault import FETCH, Fault
from anyvisor.x86_64.diagnosis.faults import fault_at
from anyvisor.x86_64.diagnosis.instruction import take_apart
from anyvisor.x86_64.diagnosis.scene import Scene
from anyvisor.x86_64.diagnosis.segments import selector_problem
from anyvisor.x86_64.disassembly import MAX_INSTRUCTION_BYTES
from anyvisor.x86_64.exceptions import WITH_SELECTOR, SelectorCode, describe_error_code

SELECTOR = 0xFFF8
"""What an error code has of a selector: the index."""


@attrs.frozen
class Sight:
    """An exception as it was seen, with the scene in which it is raised.

    `since` is for one that is not sure: what state its way was followed from.
    """

    scene: Scene
    fault: Fault
    since: str = ""


def sight_of(scene: Scene) -> Sight | None:
    """The first exception of a shutdown; None where nothing is known of it."""
    return _told(scene) or _seen(scene)


def _told(scene: Scene) -> Sight | None:
    """The first exception that the hypervisor tells of."""
    exit_ = scene.evidence.exit
    told = [each for each in exit_.exceptions if each.vector != DF] if isinstance(exit_, Shutdown) else []
    if not told or scene.rip is None:
        return None
    first = told[0]
    rip = scene.rip if first.rip is None else scene.code_address(first.rip)
    seen = fault_at(scene, rip)
    if seen and _is_it(seen, first):
        return Sight(scene, seen)
    return Sight(scene, _by_selector(scene, rip, first) or _by_msr(scene, rip, first) or _as_told(scene, rip, first))


def _is_it(seen: Fault, told: GuestException) -> bool:
    """Whether the exception that is seen is the one that is told of."""
    if seen.vector != told.vector or told.address not in (None, seen.address):
        return False
    selector = None if told.error_code is None else told.error_code & SELECTOR
    return seen.selector is None or selector in (None, seen.selector & SELECTOR)


def _as_told(scene: Scene, rip: int, told: GuestException) -> Fault:
    """An exception that nothing here leads to."""
    about = "" if told.address is None else f" for {told.address:#x}"
    words = "" if told.error_code is None else describe_error_code(told.vector, told.error_code, told.address)
    code = "" if told.error_code is None else f", error code {told.error_code:#x}" + f" ({words})" * bool(words)
    why = f"the processor raised it at RIP {scene.place(rip)}{about}{code}"
    return Fault(told.vector, rip, why, told.address, FETCH if told.address == rip else "")


def _by_msr(scene: Scene, rip: int, told: GuestException) -> Fault | None:
    """The fault of an MSR that the processor does not have, or not with that value."""
    instruction = take_apart(scene.read(rip, MAX_INSTRUCTION_BYTES), scene.bits)
    return refused_msr(scene, rip, instruction) if instruction and told.vector == GP else None


def _by_selector(scene: Scene, rip: int, told: GuestException) -> Fault | None:
    """The fault of a selector that is in the error code."""
    code = SelectorCode(told.error_code or 0)
    if told.vector not in WITH_SELECTOR or not code.index or code.idt or code.ldt:
        return None
    selector = code.index << 3
    problem = selector_problem(scene, selector)
    why = f"the instruction loads a selector: {problem}"
    return Fault(told.vector, rip, why, selector=selector) if problem else None


def _seen(scene: Scene) -> Sight | None:
    """The exception that registers and memory lead to."""
    if scene.rip is None:
        return None
    if not scene.evidence.is_lost and (fault := fault_at(scene, scene.rip)):
        return Sight(scene, fault)
    end = scene.ahead
    return Sight(end.scene, end.fault, scene.evidence.since) if end and end.fault else None
