"""What came of the conformance suite, as values: a result for each test, and the report of all."""

from __future__ import annotations

from collections import Counter
from typing import Any

import attrs

PASSED, FAILED, SKIPPED = "passed", "failed", "skipped"
OUTCOMES = (PASSED, FAILED, SKIPPED)
"""What a test can come to."""


@attrs.frozen
class Result:
    """What came of one test, and for one that failed, all there is to say."""

    contract: str
    """The class that the test stands in."""
    test: str
    """Its name, with its parameters in brackets."""
    outcome: str
    """One of `OUTCOMES`."""
    must_hold: str = ""
    """What it checks, in words: its docstring."""
    message: str = ""
    """How it failed, or why it was skipped."""
    need: str = ""
    """What a test that was skipped needs and the backend lacks."""
    where: tuple[str, ...] = ()
    """`file:line` of the assertion that failed; behind it the place that raised, if that is another."""
    printed: str = ""
    """What the backend and the test printed meanwhile."""
    seconds: float = 0.0

    @property
    def name(self) -> str:
        """The contract and the test."""
        return f"{self.contract}::{self.test}"


@attrs.frozen
class Report:
    """What came of the suite on a backend; see `run_conformance`."""

    backend: str
    architecture: str
    version: int
    """The version of the suite that was run."""
    results: tuple[Result, ...]
    seconds: float = 0.0

    @property
    def passed(self) -> bool:
        """Whether the backend conforms: nothing failed, and something passed."""
        counts = self.counts()
        return bool(counts[PASSED]) and not counts[FAILED]

    @property
    def failures(self) -> tuple[Result, ...]:
        """The tests that failed."""
        return self._with(FAILED)

    @property
    def skipped(self) -> tuple[Result, ...]:
        """The tests that were not run."""
        return self._with(SKIPPED)

    @property
    def lacking(self) -> dict[str, tuple[Result, ...]]:
        """What the backend lacks, by name, and the tests that were skipped for it."""
        needs = sorted({result.need for result in self.skipped})
        return {need: tuple(result for result in self.skipped if result.need == need) for need in needs}

    @property
    def contracts(self) -> dict[str, Counter[str]]:
        """How many tests of each contract came to what, in the suite's order."""
        names = dict.fromkeys(result.contract for result in self.results)
        return {name: self.counts(name) for name in names}

    def counts(self, contract: str = "") -> Counter[str]:
        """How many tests came to what, of one contract or of all."""
        return Counter(result.outcome for result in self.results if contract in ("", result.contract))

    def _with(self, outcome: str) -> tuple[Result, ...]:
        return tuple(result for result in self.results if result.outcome == outcome)

    def to_data(self) -> dict[str, Any]:
        """All of it as plain values, for JSON."""
        return {
            "backend": self.backend,
            "architecture": self.architecture,
            "version": self.version,
            "passed": self.passed,
            "seconds": round(self.seconds, 3),
            "contracts": [
                {"name": name, **{each: counts[each] for each in OUTCOMES}} for name, counts in self.contracts.items()
            ],
            "lacking": {need: [result.name for result in results] for need, results in self.lacking.items()},
            "tests": [attrs.asdict(result) for result in self.results],
        }
