"""What all tests share: where their helpers are, patience on busy machines, and that CI skips nothing."""

import os
import sys
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

sys.path.insert(0, str(Path(__file__).parent))

settings.register_profile("anyvisor", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("anyvisor")  # a shared machine is slow at times, and that is no failure

IN_CI = os.environ.get("CI") == "true"


def skipped(config):
    """The reports of tests that were skipped."""
    reporter = config.pluginmanager.get_plugin("terminalreporter")
    return reporter.stats.get("skipped", []) if reporter else []


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish(session, exitstatus):
    """In CI every judge is there, so a skipped test is a hole."""
    if IN_CI and exitstatus == pytest.ExitCode.OK and skipped(session.config):
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


def pytest_terminal_summary(terminalreporter, config):
    if IN_CI and skipped(config):
        terminalreporter.line("CI=true: nothing may be skipped, so this run has failed", red=True)
