"""The report on a guest: what happened, why, likeliest first, and everything there is to see."""

from __future__ import annotations

from typing import Any

import attrs

from anyvisor.architectures import part
from anyvisor.diagnosis.collect import Notes
from anyvisor.diagnosis.evidence import Evidence
from anyvisor.exits import Exit
from anyvisor.finding import Finding
from anyvisor.section import Section, plain


@attrs.frozen
class Cause:
    """A cause that the evidence speaks for. `name` is its short name (`entry-not-mapped`), for programs.

    `summary` is a sentence; `because` the observations that speak for it, a sentence each; `remedy` what to do;
    `section` the manual's. `weight` says how strongly the evidence speaks for it, from 0 to 100.
    """

    name: str
    summary: str
    because: tuple[str, ...] = ()
    remedy: str = ""
    section: str = ""
    weight: int = 50


@attrs.frozen
class Report:
    """What is known of a guest that died, hangs, or is looked at. `str` of it is the page for a reader.

    `summary` is what happened, in a sentence; `exit` what it died by, None when it was only looked at; `causes` come
    likeliest first; `findings` are the checks that the state or the plan fails; `sections` the rest: registers,
    segments, page walks, code, stack, last exits, console. `notes` say what is missing from the report, and why.
    """

    summary: str
    vcpu: int | None = None
    exit: Exit | None = None
    causes: tuple[Cause, ...] = ()
    findings: tuple[Finding, ...] = ()
    sections: tuple[Section, ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def likely(self) -> Cause | None:
        """The likeliest cause; None where nothing speaks for any."""
        return self.causes[0] if self.causes else None

    def section(self, title: str) -> Section | None:
        """The section of that title."""
        return next((each for each in self.sections if each.title == title), None)

    def to_data(self) -> dict[str, Any]:
        """The report for JSON."""
        return {
            "summary": self.summary,
            "vcpu": self.vcpu,
            "exit": plain(self.exit),
            "causes": [plain(each) for each in self.causes],
            "findings": [plain(each) for each in self.findings],
            "sections": [each.to_data() for each in self.sections],
            "notes": list(self.notes),
        }

    def __str__(self) -> str:
        from anyvisor.diagnosis.page import page  # noqa: PLC0415 - it needs this module

        return page(self)


def report(evidence: Evidence) -> Report:
    """What the evidence says. Raises nothing: what cannot be worked out is a note in the report."""
    notes = Notes()
    reader = part(evidence.plan.architecture, "diagnosis")
    nothing: tuple[Any, ...] = ()
    findings = notes.attempt("checks", lambda: tuple(reader.findings(evidence)), nothing)
    return Report(
        summary=notes.attempt("summary", lambda: reader.summary(evidence), f"vCPU {evidence.vcpu}: {evidence.exit}"),
        vcpu=evidence.vcpu,
        exit=evidence.exit,
        causes=notes.attempt("causes", lambda: tuple(reader.causes(evidence, findings)), nothing),
        findings=findings,
        sections=notes.attempt("sections", lambda: tuple(reader.sections(evidence)), nothing),
        notes=tuple(f"{what}: {why}" for what, why in {**evidence.unreadable, **notes.found}.items()),
    )
