"""What all tests share: where their helpers are, patience on busy machines, and that CI skips nothing."""

import gc
import os
import sys
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

sys.path.insert(0, str(Path(__file__).parent))

from pinned_skips import PinnedSkips  # found by the line above
from warm_command import WarmCommand

settings.register_profile("anyvisor", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("anyvisor")  # a shared machine is slow at times, and that is no failure

IN_CI = os.environ.get("CI") == "true"


PINNED = pytest.StashKey[PinnedSkips]()


def pytest_configure(config):
    config.stash[PINNED] = PinnedSkips()
    config.pluginmanager.register(config.stash[PINNED])


def skipped(config):
    """The reports of tests that were skipped, but for those that are known to be."""
    reporter = config.pluginmanager.get_plugin("terminalreporter")
    found = reporter.stats.get("skipped", []) if reporter else []
    return [report for report in found if not getattr(report, "is_pinned", False)]


def pytest_collection_finish(session):
    """Thousands of tests are there to the end, and need not be walked by each collection of garbage."""
    gc.collect()
    gc.freeze()


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish(session, exitstatus):
    """In CI every judge is there, so a skipped test is a hole; and what is pinned must be so everywhere."""
    holes = (IN_CI and skipped(session.config)) or session.config.stash[PINNED].problems()
    if exitstatus == pytest.ExitCode.OK and holes:
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


def pytest_terminal_summary(terminalreporter, config):
    if IN_CI and skipped(config):
        terminalreporter.line("CI=true: nothing may be skipped, so this run has failed", red=True)
    for problem in config.stash[PINNED].problems():
        terminalreporter.line(f"{problem}, so this run has failed", red=True)


@pytest.fixture(scope="session")
def warm_command():
    """Runs `anyvisor` in processes that need not import it first."""
    with WarmCommand() as command:
        yield command


@pytest.fixture
def no_environment(monkeypatch):
    """The user's own choice of plugins does not count."""
    for name in ("ANYVISOR_BLOCK", "ANYVISOR_STRICT", "ANYVISOR_TRACE"):
        monkeypatch.delenv(name, raising=False)
