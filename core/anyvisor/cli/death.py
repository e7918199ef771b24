"""What the command line says of how a guest ended, or of one that goes nowhere."""

from __future__ import annotations

from typing import TYPE_CHECKING

from anyvisor.cli.failure import FAILURE, TIMEOUT, Ended

if TYPE_CHECKING:
    from anyvisor.diagnosis import Cause, Report
    from anyvisor.machine import Machine
    from anyvisor.outcome import Outcome
    from anyvisor.panics import Panic

LOOK_SECONDS = 2.0
"""How long a look at a guest that is out of time may take."""
CERTAIN = 92
"""A cause of this weight is told of a guest that has not died, too."""


def tell_end(machine: Machine, outcome: Outcome) -> None:
    """Ended with exit code 1 and why, when a machine ended as it should, but by a panic or a kernel that gave up."""
    if outcome.panic:
        raise Ended(FAILURE, "\n".join(panic_lines(outcome.panic)))
    if outcome.reason == "halted" and (cause := _why_halted(machine)):
        raise Ended(FAILURE, "\n".join(["the guest halted, and not because it was done", *_cause_lines(cause)]))


def _why_halted(machine: Machine) -> Cause | None:
    """What is wrong with a guest that has halted without a word; None where nothing is known to be."""
    from anyvisor.errors import AnyvisorError

    if any(console.end for console in machine.consoles.values()):
        return None
    try:
        reports = machine.inspect().reports
    except AnyvisorError:
        return None
    return next(filter(None, map(_certain, reports)), None)


def panic_lines(panic: Panic) -> list[str]:
    """A panic in a line, then what it means and what to do, where that is known."""
    from anyvisor.panic_advice import advice

    known = advice(panic)
    if known is None:
        return [str(panic)]
    meaning, remedy = known
    return [str(panic), *_prose(meaning), *(_prose(f"What to do: {remedy}") if remedy else [])]


def out_of_time(machine: Machine, timeout: float) -> Ended:
    """What to say of a guest that still ran after `timeout` seconds: that, and what it did."""
    lines, causes = _hang(machine)
    said = [f"the machine was still running after {timeout:g} s (--timeout)", *lines]
    return Ended(TIMEOUT, "\n".join(said), causes)


def _hang(machine: Machine) -> tuple[list[str], tuple[Cause, ...]]:
    """What a guest that runs is doing, if it goes nowhere: in lines, and as causes."""
    from anyvisor.diagnosis import report
    from anyvisor.diagnosis.live import describe_hang, watch
    from anyvisor.errors import AnyvisorError

    try:
        watched = watch(machine, timeout=LOOK_SECONDS)
    except AnyvisorError as error:
        return [f"  it cannot be looked at: {error}"], ()
    panic = next((each.panic for each in watched if each.panic and each.panic.is_last), None)
    lines = [f"  {line}" for line in panic_lines(panic)] if panic else []
    causes = tuple(filter(None, (_certain(report(each)) or describe_hang(each) for each in watched)))
    return [*lines, *(line for each in causes for line in _cause_lines(each))], causes


def _certain(report: Report) -> Cause | None:
    """What is wrong with a guest, where that is beyond doubt."""
    likely = report.likely
    return likely if likely and likely.weight >= CERTAIN else None


def _prose(text: str) -> list[str]:
    from anyvisor.diagnosis.page import sentence, wrapped

    return wrapped(sentence(text), first="  ", rest="    ")


def _cause_lines(cause: Cause) -> list[str]:
    """A cause as on the page of a death, below a line of what happened."""
    from anyvisor.diagnosis.page import cause_lines

    return [f"  {line}" for line in cause_lines(cause)]
