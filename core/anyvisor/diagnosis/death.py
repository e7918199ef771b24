"""The error that a death becomes: what happened, why, and the report on it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from anyvisor.diagnosis.collect import collect
from anyvisor.diagnosis.report import Report, report
from anyvisor.errors import GuestError
from anyvisor.exits import Exit
from anyvisor.section import readable

if TYPE_CHECKING:
    from anyvisor.hypervisor import Vcpu
    from anyvisor.machine import Machine


def death(machine: Machine, vcpu: Vcpu, exit_: Exit) -> GuestError:
    """The error for a vCPU that cannot go on: what happened, the likely cause, the registers; its `report` has all."""
    try:
        found = report(collect(machine, vcpu, exit_, machine.symbols))
    except Exception as error:  # noqa: BLE001 - whatever is wrong with the report, the death must be told
        summary = f"vCPU {vcpu.index} died: {exit_.describe()}"
        found = Report(summary, vcpu.index, exit_, notes=(f"report: {type(error).__name__}: {error}",))
    text = readable("\n".join([found.summary, *_told(found)]))
    return GuestError(text, exit=exit_, vcpu=vcpu.index, report=found)


def _told(found: Report) -> list[str]:
    """The likely cause, and the registers."""
    lines = [f"the report is not complete: {note}" for note in found.notes]
    if found.likely:
        lines.append(f"likely cause: {found.likely.summary} [{found.likely.name}]")
        lines += [f"  {found.likely.remedy}"] if found.likely.remedy else []
    registers = found.section("Registers")
    return lines + [f"  {line}" for line in (registers.text.splitlines() if registers else ())]
