"""What is wrong with a boot plan, before anything is launched: what a processor refuses, and what a kernel dies of.

What is looked at is the architecture's own: `entry_checks` has the rules by which a processor enters a guest,
`boot_checks` what a kernel relies on from its first instruction on.
"""

from __future__ import annotations

from anyvisor.architectures import part
from anyvisor.finding import Finding, Severity
from anyvisor.plan import BootPlan

PARTS = ("entry_checks", "boot_checks")
"""The modules of an architecture that have checks, each with `CHECKS` and `check_plan`."""


def check(plan: BootPlan) -> list[Finding]:
    """What is wrong with a plan: errors first, which keep the guest from running, then hints; empty if nothing is.

    It reads the files that the plan names. Unsupported for an architecture that is not there.

    >>> from anyvisor.memory import Region
    >>> check(BootPlan("x86_64", (Region(0, 4096),)))
    []
    """
    found = [each for name in PARTS for each in part(plan.architecture, name).check_plan(plan)]
    return sorted(found, key=lambda each: each.severity is not Severity.ERROR)


def names(architecture: str) -> list[str]:
    """The names of all checks of an architecture, in the order in which they are made."""
    return [each.name for name in PARTS for each in part(architecture, name).CHECKS]
