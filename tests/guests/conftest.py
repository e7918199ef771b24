"""Shows the tests that ran inside the emulated machine in the summary of the run outside."""

from __future__ import annotations

import pytest
from inner_results import InnerTest
from run import InnerRun

INNER_RESULTS = pytest.StashKey[list[tuple[str, list[InnerTest]]]]()


@pytest.fixture
def show_inner_results(pytestconfig, request):
    """A function that puts a run and its tests into the terminal's summary."""

    def show(run: InnerRun, tests: list[InnerTest]) -> None:
        outcome = run.outcome
        timing = f"tests began after {outcome.boot_seconds:.1f} s, off after {outcome.seconds:.1f} s"
        pytestconfig.stash.setdefault(INNER_RESULTS, []).append((f"{request.node.name}: {timing}", tests))

    return show


def pytest_terminal_summary(terminalreporter, config):
    for title, tests in config.stash.get(INNER_RESULTS, []):
        terminalreporter.section("inside the emulated machine")
        terminalreporter.line(title)
        for test in tests:
            terminalreporter.line(str(test))
