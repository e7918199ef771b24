"""A report as a page of text for a terminal of 80 columns or more."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Iterator

from anyvisor.diagnosis.report import Cause, Report
from anyvisor.finding import Finding, Severity
from anyvisor.section import readable

COLUMNS = 78
"""How wide prose is set, with room for its indent; tables are as wide as they must be."""


def page(report: Report, opening: str = "") -> str:
    """What happened, behind the words of `opening`; why, what to do, then all there is to see."""
    parts = [_prose(opening + report.summary), *map(_note, report.notes), *_causes(report), *_findings(report)]
    parts += [_titled(each.title, each.text.splitlines()) for each in report.sections]
    return readable("\n\n".join(parts))


def cause_lines(cause: Cause, name: str = "") -> Iterator[str]:
    """A cause as it stands on the page, in lines: what it is, what speaks for it, what to do."""
    yield from wrapped(f"{name}: {cause.summary}" if name else sentence(cause.summary))
    for each in cause.because:
        yield from wrapped(sentence(each), first="  - ", rest="    ")
    if cause.remedy:
        yield from wrapped(f"What to do: {cause.remedy}", first="  ", rest="    ")
    if cause.section:
        yield f"  See: {cause.section}"


def wrapped(text: str, *, first: str = "", rest: str = "  ") -> list[str]:
    """Prose in lines that fit, those but the `first` with an indent."""
    return textwrap.wrap(
        text, COLUMNS, initial_indent=first, subsequent_indent=rest, break_long_words=False, break_on_hyphens=False
    )


def _causes(report: Report) -> Iterator[str]:
    causes = report.causes
    if not causes:
        if report.exit is not None:
            yield _titled("Likely cause", ["none known: nothing that is looked for here was found"])
        return
    yield _titled(f"Likely cause: {causes[0].name}", cause_lines(causes[0]))
    if causes[1:]:
        yield _titled(
            "Other causes, less likely", [line for each in causes[1:] for line in cause_lines(each, each.name)]
        )


def _findings(report: Report) -> Iterator[str]:
    """The checks that fail and are not among the causes already."""
    told = {each.name for each in report.causes}
    if rest := [each for each in report.findings if each.check not in told]:
        yield _titled("Checks that fail", [line for each in rest for line in _finding(each)])


def _finding(finding: Finding) -> Iterator[str]:
    hint = "a hint: " if finding.severity is Severity.HINT else ""
    yield from wrapped(f"{finding.check}: {hint}{finding.subject}: {finding.problem}")
    values = [f"found {finding.found}"] * bool(finding.found) + [f"wanted {finding.wanted}"] * bool(finding.wanted)
    if rest := ", ".join(filter(None, [*values, finding.section])):
        yield from wrapped(sentence(rest), first="  ", rest="    ")
    if finding.remedy:
        yield from wrapped(f"What to do: {finding.remedy}", first="  ", rest="    ")


def sentence(text: str) -> str:
    """With a capital letter, unless it begins with a name."""
    return text[:1].upper() + text[1:] if text.partition(" ")[0].islower() else text


def _note(note: str) -> str:
    return _prose(f"The report is not complete: {note}")


def _titled(title: str, lines: Iterable[str]) -> str:
    return "\n".join([title, *(f"  {line}".rstrip() for line in lines)])


def _prose(text: str) -> str:
    return "\n".join(wrapped(text, rest=""))
