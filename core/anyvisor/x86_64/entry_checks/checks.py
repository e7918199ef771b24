"""All the checks, and what runs them over plans and processors."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from types import ModuleType

from anyvisor.finding import Finding
from anyvisor.plan import BootPlan
from anyvisor.states import VcpuState
from anyvisor.x86_64.entry_checks import (
    activity,
    control,
    extension_msrs,
    flags,
    msrs,
    paging,
    segments,
    system_segments,
    tables,
)
from anyvisor.x86_64.entry_checks.check import Check
from anyvisor.x86_64.entry_checks.state import AMD, INTEL, Known, Read


def _checks_in(*modules: ModuleType) -> tuple[Check, ...]:
    """The checks that these modules declare, in their order."""
    return tuple(each for module in modules for each in vars(module).values() if isinstance(each, Check))


CHECKS = _checks_in(control, paging, segments, system_segments, tables, flags, activity, msrs, extension_msrs)
"""Every check, as a value: its name, what it wants, and the sections of both makers' manuals."""


def check_plan(plan: BootPlan, *, vcpu: int | None = None) -> list[Finding]:
    """Why a processor would refuse to enter the vCPUs of a plan, or that one; empty for a plan that it would enter.

    The rules of both makers are looked at, of what the plan sets. Each finding names its vCPU, the register, and the
    manuals' sections.
    """
    wanted = (each for each in plan.vcpus if vcpu in (None, each.index))
    return [found for each in wanted for found in _findings(Known.of_plan(plan, each), each.index)]


def check_states(
    states: Mapping[type[VcpuState], VcpuState],
    *,
    vcpu: int | None = None,
    rules: str | None = None,
    read: Read | None = None,
) -> list[Finding]:
    """Why a processor would refuse to enter a guest in these states; empty when it would enter it.

    `states` has any of a vCPU's states by their type, `vcpu` is its index, to be named. `rules` is `intel` or `amd` for
    what processors of that maker check, None for both. ValueError for another. `read(guest_address, size_bytes)` gives
    the guest's memory, for the entries that a processor keeps of it: of a guest that has been running, memory may have
    changed since the processor read it.
    """
    if rules not in (None, INTEL, AMD):
        raise ValueError(f"there are no rules of {rules!r}; there are {INTEL}, {AMD}, and None for both")
    return list(_findings(Known.of_states(states, rules, read), vcpu))


def _findings(known: Known, vcpu: int | None) -> Iterator[Finding]:
    for each in CHECKS:
        if each.made_by(known.rules):
            yield from each.findings(known, vcpu)
