"""A look at a guest that has not died: where it is, what it last did, and whether it goes anywhere.

Some facts about looking. A vCPU's state can be read only while it does not run, so a look pauses the machine for as
long as it takes, a few milliseconds, and lets it go on as it was; the guest notices by its clock at most. A guest that
hangs is told from one that works by several looks: RIP stays in a few bytes, or one device is asked again and again.
"""

from __future__ import annotations

import itertools
import time
from typing import TYPE_CHECKING

import attrs

from anyvisor.architectures import part
from anyvisor.diagnosis.collect import Notes, collect
from anyvisor.diagnosis.evidence import Evidence
from anyvisor.diagnosis.report import Cause, Report, report
from anyvisor.errors import GuestError
from anyvisor.exits import Exit, Halted
from anyvisor.section import readable

if TYPE_CHECKING:
    from anyvisor.hypervisor import Vcpu
    from anyvisor.machine import Machine

SAMPLES = 16
INTERVAL_SECONDS = 0.02


@attrs.frozen
class Inspection:
    """What there was to see of a machine. `phase` is where in its life it was, `reports` hold one for each vCPU.

    `str` of it is a page for a reader.
    """

    phase: str
    reports: tuple[Report, ...]

    def __str__(self) -> str:
        pages = [f"The machine is {self.phase}, with {len(self.reports)} vCPU(s)."]
        told: set[str] = set()
        for each in self.reports:
            rest = tuple(section for section in each.sections if section.text not in told)
            told |= {section.text for section in rest}
            pages.append(str(attrs.evolve(each, sections=rest)))
        return readable("\n\n".join(pages))


def inspect(machine: Machine, timeout: float) -> Inspection:
    """Look at every vCPU. A machine that runs is paused meanwhile; GuestError when that takes longer than `timeout`."""
    phase = machine.phase.value
    with machine.held(timeout):
        found = [collect(machine, vcpu, death_of(machine, vcpu), machine.symbols) for vcpu in machine.vcpus]
        return Inspection(phase, tuple(map(report, found)))  # which reads memory: not that of a guest that goes on


def death_of(machine: Machine, vcpu: Vcpu) -> Exit | None:
    """The exit that this vCPU died by, or halted for good; None while it lives."""
    if machine.outcome and machine.outcome.reason == "halted":
        return Halted()
    error = machine.outcome.error if machine.outcome else None
    return error.exit if isinstance(error, GuestError) and error.vcpu == vcpu.index else None


def watch(
    machine: Machine, samples: int = SAMPLES, interval_seconds: float = INTERVAL_SECONDS, timeout: float = 10.0
) -> tuple[Evidence, ...]:
    """What is known of each vCPU, with the RIPs that several looks at a running machine found.

    GuestError when a vCPU does not answer a kick within `timeout` seconds.
    """
    pointer = part(machine.plan.architecture, "diagnosis.hangs").instruction_pointer
    newest = [ring.newest for ring in machine.flight]
    rips: list[list[int]] = [[] for _ in machine.vcpus]

    def look() -> None:
        for vcpu, seen in zip(machine.vcpus, rips, strict=True):
            seen.append(pointer(vcpu))

    for _ in range(samples - 1):
        with machine.held(timeout):
            look()
        time.sleep(interval_seconds)
    with machine.held(timeout):
        look()
        exits = [ring.since(before) for ring, before in zip(machine.flight, newest, strict=True)]
        found = [collect(machine, vcpu, symbols=machine.symbols) for vcpu in machine.vcpus]
    return tuple(
        attrs.evolve(each, rips=tuple(seen), watched_exits=count)
        for each, seen, count in itertools.zip_longest(found, rips, exits)
    )


def describe_hang(evidence: Evidence) -> Cause | None:
    """Why a guest that was watched goes nowhere; None for one that does not look as if it hung. Raises nothing."""

    def judge() -> Cause | None:
        found: Cause | None = part(evidence.plan.architecture, "diagnosis.hangs").describe_hang(evidence)
        return found

    return Notes().attempt("hang", judge, None)


def describe_halt(machine: Machine) -> str:
    """How the vCPUs of a machine that has halted for good did so, in words; empty where that cannot be told."""

    def judge() -> str:
        tell = part(machine.plan.architecture, "diagnosis.hangs").describe_halt
        return "; ".join(map(tell, machine.vcpus))

    return Notes().attempt("halt", judge, "")
