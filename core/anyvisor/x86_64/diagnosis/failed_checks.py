"""Which checks to make of a guest that died, and of what."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterator

from anyvisor.diagnosis.evidence import Evidence
from anyvisor.exits import FailEntry, Halted, Kicked
from anyvisor.finding import Finding, Severity
from anyvisor.plan import BootPlan
from anyvisor.x86_64 import boot_checks, entry_checks

IMPOSSIBLE = frozenset(
    {"paging-needs-protection", "long-mode-needs-pae", "nw-needs-cd", "cr4-reserved", "efer-reserved"}
)
"""Rules that no guest of a real processor can break: it refuses the instruction. Some emulators do not."""


class BootFindings:
    """The boot checks of the plan that was looked at last: reports on all vCPUs of a machine are of the same one."""

    def __init__(self) -> None:
        self._last: tuple[Callable[[], BootPlan | None], list[Finding]] = (lambda: None, [])

    def of(self, plan: BootPlan) -> list[Finding]:
        """What they find in it, looked for once."""
        last, found = self._last
        if last() is not plan:
            found = boot_checks.check_plan(plan)
            self._last = (weakref.ref(plan), found)
        return found


BOOT_FINDINGS = BootFindings()


def failed_checks(evidence: Evidence) -> list[Finding]:
    """The findings, errors first, each rule once.

    The state that the plan gave a vCPU is of interest while it may be what the guest died of: at a refused entry, and
    until the guest is heard of. What was put into memory may show its effect at any time, and so may a state that the
    guest has put its processor into and that there should not be.
    """
    found = {(each.check, each.vcpu): each for each in _found(evidence)}
    return sorted(found.values(), key=lambda each: each.severity is Severity.HINT)


def _found(evidence: Evidence) -> Iterator[Finding]:
    refused = isinstance(evidence.exit, FailEntry)
    if refused:
        yield from entry_checks.check_states(evidence.states, vcpu=evidence.vcpu, read=evidence.read)
    if refused or (evidence.is_early and not isinstance(evidence.exit, Halted | Kicked | None)):
        yield from entry_checks.check_plan(evidence.plan, vcpu=evidence.vcpu)
    if evidence.exit is not None and not refused and not evidence.is_lost:
        found = entry_checks.check_states(evidence.states, vcpu=evidence.vcpu)
        yield from (each for each in found if each.check in IMPOSSIBLE)
    if not refused:
        yield from BOOT_FINDINGS.of(evidence.plan)
