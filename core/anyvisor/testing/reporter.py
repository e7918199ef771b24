"""What watches pytest at the conformance suite, and keeps its results as values; and what ends a test that hangs."""

from __future__ import annotations

import os
import re
import signal
import threading
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from typing import Any

import attrs
import pytest

from anyvisor.hypervisor import Hypervisor
from anyvisor.testing.report import FAILED, PASSED, SKIPPED, Result
from anyvisor.testing.requirements import Lack

TEST_LIMIT_SECONDS = 120.0
"""How long setting up a test, the test and cleaning up behind it may take, each."""
SAID_BY_ITSELF = (AssertionError, pytest.fail.Exception, pytest.skip.Exception)
"""What is raised to say something: the class adds nothing to it."""

HINT = re.compile("[Uu]se '?-v")
"""pytest's advice on how to see more, which is for who runs pytest."""


class Reporter:
    """A plugin of pytest, for one run of the suite on the hypervisors that `factory` opens."""

    def __init__(self, factory: Callable[[], Hypervisor], version: int):
        self.factory = factory
        self.version = version
        self.results: dict[str, Result] = {}
        self.trouble = ""
        """Why the suite itself could not be run."""

    @pytest.fixture
    def conformance_run(self) -> Reporter:
        """What the suite's own test class takes its hypervisor and its version from."""
        return self

    def pytest_itemcollected(self, item: pytest.Item) -> None:
        """Let `-k` find a test by its contract."""
        item.extra_keyword_matches.add(contract_of(item).__name__)

    @pytest.hookimpl(tryfirst=True)
    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        """Run the contracts in the order in which `HypervisorTests` names them: what others rest on comes first."""
        items.sort(key=_rank)

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        """A suite that cannot be imported."""
        if report.failed:
            self.trouble = report.longreprtext

    def pytest_internalerror(self, excrepr: object) -> None:
        """An error of pytest's, or of a plugin's."""
        self.trouble = str(excrepr)

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_makereport(
        self, item: pytest.Item, call: pytest.CallInfo[None]
    ) -> Generator[None, pytest.TestReport, pytest.TestReport]:
        """Keep what came of a phase: the first that did not go well counts, and a failure more than a skip."""
        report = yield
        before = self.results.get(item.nodeid)
        if before is None or (before.outcome != FAILED and report.outcome != PASSED):
            kept = result_of(item, call, report)
        else:
            kept = before
        seconds = report.duration + (before.seconds if before else 0)
        self.results[item.nodeid] = attrs.evolve(kept, seconds=round(seconds, 3))
        return report

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_setup(self) -> Generator[None, object, object]:
        """Within the time limit."""
        with time_limit("setting up the test"):
            return (yield)

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_call(self) -> Generator[None, object, object]:
        """Within the time limit."""
        with time_limit("the test"):
            return (yield)

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_teardown(self) -> Generator[None, object, object]:
        """Within the time limit."""
        with time_limit("cleaning up behind the test"):
            return (yield)


def contract_of(item: pytest.Item) -> type:
    """The class that a test was written in."""
    cls: type = item.cls  # type: ignore[attr-defined]
    name = getattr(item, "originalname", item.name)
    return next(each for each in cls.__mro__ if name in vars(each))


def _rank(item: pytest.Item) -> int:
    cls: type = item.cls  # type: ignore[attr-defined]
    return cls.__mro__.index(contract_of(item))


def result_of(item: pytest.Item, call: pytest.CallInfo[None], report: pytest.TestReport) -> Result:
    """What came of a test by this phase of it."""
    function = item.function  # type: ignore[attr-defined]
    known: dict[str, Any] = {
        "contract": contract_of(item).__name__,
        "test": item.name,
        "outcome": report.outcome,
        "must_hold": " ".join((function.__doc__ or "").split()),
        "seconds": round(report.duration, 3),
    }
    if call.excinfo is None:
        return Result(**known)
    message = message_of(call.excinfo)
    if report.outcome == SKIPPED:
        cause = call.excinfo.value.__cause__
        return Result(**known, message=message, need=cause.need if isinstance(cause, Lack) else message)
    printed = "\n".join(filter(None, (report.capstdout, report.capstderr)))
    return Result(**known, message=message, where=places(call.excinfo, function), printed=printed)


def message_of(excinfo: pytest.ExceptionInfo[BaseException]) -> str:
    """What an error says, with its class where that adds something."""
    lines = [line for line in excinfo.exconly().splitlines() if not HINT.search(line)]
    text = "\n".join(lines).strip()
    if isinstance(excinfo.value, SAID_BY_ITSELF):
        return text.removeprefix(f"{type(excinfo.value).__name__}: ")
    return text


def places(excinfo: pytest.ExceptionInfo[BaseException], function: Callable[..., object]) -> tuple[str, ...]:
    """The line of the test that is to blame, and the line that raised, unless they are one."""
    entries = [entry for entry in excinfo.traceback if not entry.ishidden(excinfo)]
    own = [entry for entry in entries if entry.frame.code.raw is getattr(function, "__code__", None)]
    found = [f"{_short(entry.path)}:{entry.lineno + 1}" for entry in (*own[-1:], *entries[-1:])]
    return tuple(dict.fromkeys(found))


def _short(path: os.PathLike[str] | str) -> str:
    """A path as seen from the current directory, if it lies in there."""
    relative = os.path.relpath(path)
    return os.fspath(path) if relative.startswith(os.pardir) else relative


@contextmanager
def time_limit(what: str, seconds: float = TEST_LIMIT_SECONDS) -> Iterator[None]:
    """Fail the test whose block takes longer; does nothing unless `alarm_is_free`.

    What holds Python's lock in a call of C can be ended by nobody.
    """
    if not alarm_is_free():
        yield
        return

    def end(number: int, frame: object) -> None:  # noqa: ARG001
        pytest.fail(f"{what} was not over within {seconds:g} s")

    before = signal.signal(signal.SIGALRM, end)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def alarm_is_free() -> bool:
    """Whether this thread gets signals, and nobody has set the alarm for something else."""
    is_main = threading.current_thread() is threading.main_thread()
    return is_main and hasattr(signal, "setitimer") and signal.getitimer(signal.ITIMER_REAL)[0] == 0
