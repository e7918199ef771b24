"""Which checks to make of a guest that died, and of what."""

from __future__ import annotations

from collections.abc import Iterator

from anyvisor.diagnosis.evidence import Evidence
from anyvisor.exits import FailEntry, Halted, Kicked
from anyvisor.finding import Finding, Severity
from anyvisor.x86_64 import boot_checks, entry_checks


def failed_checks(evidence: Evidence) -> list[Finding]:
    """The findings, errors first, each rule once.

    The state that the plan gave a vCPU is of interest while it may be what the guest died of: at a refused entry, and
    until the guest is heard of. What was put into memory may show its effect at any time.
    """
    found = {(each.check, each.vcpu): each for each in _found(evidence)}
    return sorted(found.values(), key=lambda each: each.severity is Severity.HINT)


def _found(evidence: Evidence) -> Iterator[Finding]:
    refused = isinstance(evidence.exit, FailEntry)
    if refused:
        yield from entry_checks.check_states(evidence.states, vcpu=evidence.vcpu)
    if refused or (evidence.is_early and not isinstance(evidence.exit, Halted | Kicked | None)):
        yield from (each for each in entry_checks.check_plan(evidence.plan) if each.vcpu in (evidence.vcpu, None))
    if not refused:
        yield from boot_checks.check_plan(evidence.plan)
