"""What a check found: a rule that a plan or a processor's state breaks, with what would keep it."""

from __future__ import annotations

import enum
from collections.abc import Iterable

import attrs


class Severity(enum.Enum):
    """How bad a finding is: an `ERROR` keeps a guest from running, a `HINT` is worth a thought."""

    ERROR = "error"
    HINT = "hint"


@attrs.frozen
class Finding:
    """One broken rule. `check` is the rule's name (`tr-busy`), `subject` what breaks it (`vCPU 0`, `initrd`).

    `problem` is a sentence, `found` and `wanted` the values (empty where the sentence has them), `section` the
    manual's, and `remedy` the way out. `vcpu` is the index of the vCPU that it is about, None for the whole plan.
    """

    check: str
    subject: str
    problem: str
    found: str = ""
    wanted: str = ""
    section: str = ""
    remedy: str = ""
    severity: Severity = Severity.ERROR
    vcpu: int | None = None

    def __str__(self) -> str:
        values = [f"found {self.found}" * bool(self.found), f"wanted {self.wanted}" * bool(self.wanted)]
        rest = ", ".join(filter(None, [*values, self.section]))
        return f"{self.subject}: {self.problem} [{self.check}]" + (f" ({rest})" if rest else "")


def errors(findings: Iterable[Finding]) -> list[Finding]:
    """Those that keep a guest from running."""
    return [each for each in findings if each.severity is Severity.ERROR]
