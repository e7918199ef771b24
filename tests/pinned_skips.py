"""Skips of conformance tests that are known, and so cannot hide a failure.

A class of conformance tests of ours has `LACKS`: the names of all that its backend lacks. A test that is skipped for
anything else fails, and a name that no test was skipped for, though all ran, fails the run.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Generator

import pytest


class PinnedSkips:
    """A plugin of pytest that sees to it."""

    def __init__(self) -> None:
        self.ran: dict[type, set[str]] = defaultdict(set)
        self.lacked: dict[type, set[str]] = defaultdict(set)

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_makereport(
        self, item: pytest.Item, call: pytest.CallInfo[None]
    ) -> Generator[None, pytest.TestReport, pytest.TestReport]:
        report = yield
        cls = getattr(item, "cls", None)
        if hasattr(cls, "LACKS"):
            self.ran[cls].add(item.originalname)
            if report.skipped and not hasattr(report, "wasxfail"):
                self._judge(cls, getattr(call.excinfo.value.__cause__, "need", ""), report)
        return report

    def _judge(self, cls: type, need: str, report: pytest.TestReport) -> None:
        self.lacked[cls].add(need)
        report.is_pinned = need in cls.LACKS
        if not report.is_pinned:
            report.outcome = "failed"
            report.longrepr = f"{cls.__name__}.LACKS does not have {need or 'that'!r}: {report.longrepr}"

    def problems(self) -> list[str]:
        """What is pinned and was not lacked, in the classes of which every test ran."""
        found = []
        for cls, names in self.ran.items():
            complete = {name for name in dir(cls) if name.startswith("test")} <= names
            found += [
                f"{cls.__name__}.LACKS has {need!r}, and no test was skipped for it"
                for need in sorted(cls.LACKS - self.lacked[cls])
                if complete
            ]
        return found
