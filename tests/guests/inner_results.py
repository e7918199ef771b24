"""What the tests inside the emulated machine came to, read from the junit.xml that their pytest wrote."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ElementTree
from collections.abc import Iterable, Sequence
from pathlib import Path

import attrs

ALLOWED_SKIPS: tuple[str, ...] = (
    "needs .*; the kvm backend has not",  # conformance tests of what KVM lacks; which, is pinned by their class
    "a flaw of QEMU's processor: ",  # the test must fail in there, and not elsewhere
)
"""Regular expressions for the reasons a test may be skipped for inside; a comment must say why for each."""

FAILURES = ("failure", "error")


@attrs.frozen
class InnerTest:
    """One test: its name, its seconds in there, how it ended, and what pytest said about that.

    `outcome` is `passed`, `failure`, `error` or `skipped`; an expected failure (xfail) counts as skipped.
    """

    name: str
    seconds: float
    outcome: str
    text: str = ""

    def __str__(self) -> str:
        return f"{self.outcome:8} {self.seconds:7.2f} s  {self.name}"


def read_results(junit: Path) -> list[InnerTest]:
    """The tests in a junit.xml, in the order in which they ran."""
    return [_read_test(case) for case in ElementTree.parse(junit).iter("testcase")]


def problems(tests: Sequence[InnerTest], allowed_skips: Iterable[str] = ALLOWED_SKIPS) -> list[str]:
    """What keeps a run from being a success: failures, skips that nobody allowed, and no tests at all."""
    found = [f"{test}\n{test.text}" for test in tests if test.outcome in FAILURES]
    for test in tests:
        if test.outcome == "skipped" and not any(re.search(reason, test.text) for reason in allowed_skips):
            found.append(f"{test}\nskipped for a reason that inner_results.ALLOWED_SKIPS does not have: {test.text}")
    if not any(test.outcome == "passed" for test in tests):
        found.append(f"of {len(tests)} tests inside, none passed")
    return found


def _read_test(case: ElementTree.Element) -> InnerTest:
    """A test is what its worst element says; one without such an element passed."""
    name = "::".join(part for part in (case.get("classname"), case.get("name")) if part)
    seconds = float(case.get("time", "0"))
    for outcome in (*FAILURES, "skipped"):
        element = case.find(outcome)
        if element is not None:
            return InnerTest(name, seconds, outcome, f"{element.get('message', '')}\n{element.text or ''}".strip())
    return InnerTest(name, seconds, "passed")
