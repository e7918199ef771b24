"""What the command line says of how a guest ended, or of one that goes nowhere."""

from __future__ import annotations

from typing import TYPE_CHECKING

from anyvisor.cli.failure import FAILURE, Ended

if TYPE_CHECKING:
    from anyvisor.machine import Machine
    from anyvisor.outcome import Outcome
    from anyvisor.panics import Panic

LOOK_SECONDS = 2.0
"""How long a look at a guest that is out of time may take."""


def tell_end(machine: Machine, outcome: Outcome) -> None:  # noqa: ARG001 - the page on a death needs the machine
    """Ended with exit code 1 and the kernel's last words, when a machine ended as it should but by a panic."""
    if outcome.panic:
        raise Ended(FAILURE, "\n".join(panic_lines(outcome.panic)))


def panic_lines(panic: Panic) -> list[str]:
    """A panic in a line, then what it means and what to do, where that is known."""
    from anyvisor.panic_advice import advice

    known = advice(panic)
    if known is None:
        return [str(panic)]
    meaning, remedy = known
    return [str(panic), f"  {meaning}", *([f"  what to do: {remedy}"] if remedy else [])]


def out_of_time(machine: Machine, timeout: float) -> str:
    """What to say of a guest that still ran after `timeout` seconds: that, and what it did."""
    return "\n".join([f"the machine was still running after {timeout:g} s (--timeout)", *_hang_lines(machine)])


def _hang_lines(machine: Machine) -> list[str]:
    """What a guest that runs is doing, if it goes nowhere: a line each, and what shows it further in."""
    from anyvisor.diagnosis.live import describe_hang, watch
    from anyvisor.errors import AnyvisorError

    try:
        watched = watch(machine, timeout=LOOK_SECONDS)
    except AnyvisorError as error:
        return [f"  it cannot be looked at: {error}"]
    panic = next((each.panic for each in watched if each.panic and each.panic.is_last), None)
    lines = [f"  {line}" for line in panic_lines(panic)] if panic else []
    for cause in filter(None, map(describe_hang, watched)):
        lines += [f"  {cause.summary}", *(f"    {each}" for each in cause.because)]
    return lines
