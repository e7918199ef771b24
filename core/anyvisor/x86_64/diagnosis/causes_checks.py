"""Causes that the checks name: a state that no processor enters, a plan whose pieces do not fit together."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from anyvisor.diagnosis.report import Cause
from anyvisor.exits import FailEntry, Halted
from anyvisor.finding import Finding, Severity
from anyvisor.x86_64.diagnosis.causes_console import last_words
from anyvisor.x86_64.diagnosis.scene import Scene

REFUSED, EARLY, GAVE_UP, LATE = 97, 94, 92, 72
"""How strongly a broken rule speaks: at a refused entry, of a guest never heard of, of one that gave up or goes nowhere
(a panic tells what the kernel missed, and the rule why), of one that has run for a while."""
HINT = 15


def broken_rules(scene: Scene, findings: Iterable[Finding]) -> Iterator[Cause]:
    """Each broken rule is a cause; how likely a one depends on how far the guest has got."""
    for each in findings:
        values = [f"found: {each.found}"] * bool(each.found) + [f"wanted: {each.wanted}"] * bool(each.wanted)
        yield Cause(
            name=each.check,
            summary=f"{each.subject}: {each.problem}",
            because=tuple(values),
            remedy=each.remedy,
            section=each.section,
            weight=_weight(scene, each),
        )


def _weight(scene: Scene, finding: Finding) -> int:
    if finding.severity is Severity.HINT:
        return HINT
    if isinstance(scene.evidence.exit, FailEntry):
        return REFUSED
    if scene.evidence.is_early:
        return EARLY
    panic, exit_ = last_words(scene), scene.evidence.exit
    return GAVE_UP if exit_ is None or isinstance(exit_, Halted) or (panic and panic.is_last) else LATE


def refused_entry(scene: Scene) -> Iterator[Cause]:
    """An entry that was refused, whatever rules are broken."""
    exit_ = scene.evidence.exit
    if isinstance(exit_, FailEntry):
        yield Cause(
            name="entry-refused",
            summary=f"the processor refused the guest's state: {exit_.cause or 'it does not say why'}",
            because=(f"its own code for the reason is {exit_.hardware_reason:#x}",),
            remedy="compare the registers in the report with those of a guest that runs; no rule that is checked here "
            "needs to be broken: the hypervisor adds controls of its own",
            section="SDM Vol. 3, 27.3.1; APM Vol. 2, 15.5.1",
            weight=40,
        )


CAUSES = (refused_entry,)
