"""What a boot check is: a rule by its name, and a function that finds what breaks it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any

import attrs

from anyvisor.finding import Finding, Severity
from anyvisor.x86_64.boot_checks.scene import Scene

Look = Callable[[Scene], Iterable[Finding]]


@attrs.frozen
class Check:
    """One rule. `wants` says it in a sentence, `sections` where manuals do; `look` yields what breaks it.

    Call `findings` to be given them with the check's name and, where one has none of its own, its sections.
    """

    name: str
    wants: str
    sections: tuple[str, ...]
    look: Look = attrs.field(repr=False)

    @property
    def section(self) -> str:
        """The sections in one line."""
        return "; ".join(self.sections)

    def findings(self, scene: Scene) -> Iterator[Finding]:
        """What of a plan breaks the rule."""
        for each in self.look(scene):
            yield attrs.evolve(each, check=self.name, section=each.section or self.section)


def check(name: str, wants: str, *sections: str) -> Callable[[Look], Check]:
    """Decorator: makes the check of a function that looks; it need not name its check (see `broken`)."""
    return lambda look: Check(name, wants, sections, look)


def broken(subject: str, problem: str, **more: Any) -> Finding:
    """A finding whose check is filled in by the `Check` that yields it; `more` are the other fields."""
    return Finding("", subject, problem, **more)


def hint(subject: str, problem: str, **more: Any) -> Finding:
    """The same that is worth a thought, and keeps no guest from running."""
    return broken(subject, problem, severity=Severity.HINT, **more)
