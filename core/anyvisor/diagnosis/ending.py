"""What there is to add to how a machine ended: the last words of its guest's kernel, and how its vCPUs halted."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from anyvisor.console import Console
from anyvisor.diagnosis.collect import Notes, panics
from anyvisor.diagnosis.live import describe_halt
from anyvisor.outcome import DIED, Outcome
from anyvisor.panics import OOPS, Panic

if TYPE_CHECKING:
    from anyvisor.machine import Machine

BY_ACCIDENT = (DIED, "stopped")
"""How a machine ends whose guest did not end it; an oops before any other end was survived."""


def judge(machine: Machine, outcome: Outcome) -> tuple[Panic | None, str]:
    """The panic that the machine ended by, if there is one, and a note in words. Raises nothing."""
    panic = Notes().attempt("panic", lambda: last_words(machine.consoles.values()), None)
    if panic and panic.kind == OOPS and outcome.reason not in BY_ACCIDENT:
        panic = None
    return panic, describe_halt(machine) if outcome.reason == "halted" else ""


def last_words(consoles: Iterable[Console]) -> Panic | None:
    """The panic that a console ends with: nothing was printed behind it."""
    return next((each for each in panics(consoles) if each.is_last), None)
