"""Running the conformance suite without a test file: `run_conformance("kvm")` gives a `Report`.

Some facts about the run. It is pytest's, in this process, and depends on nothing around it: no configuration, no
conftest, no plugin but anyvisor's, no environment, no cache. Nothing is printed. What hangs in a thread is left behind
(see `anyvisor.testing.watch`).
"""

from __future__ import annotations

import contextlib
import importlib.util
import io
import os
import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

from anyvisor.backends import open_hypervisor
from anyvisor.errors import AnyvisorError, ConfigError, PluginError
from anyvisor.facts import HostFacts
from anyvisor.hypervisor import Hypervisor
from anyvisor.testing.report import Report

if TYPE_CHECKING:
    from anyvisor.testing.reporter import Reporter

NEEDED = ("pytest", "hypothesis")
"""What the extra `testing` installs."""
OPTIONS = (
    "-c", os.devnull, "--noconftest", "--pyargs", "--capture", "fd",
    "-p", "no:cacheprovider", "-p", "no:terminal", "-p", "no:faulthandler", "-p", "no:logging",
    "-p", "anyvisor.testing.plugin",
)  # fmt: skip
SUITE = "anyvisor.testing.suite"


def run_conformance(
    backend: str | Callable[[], Hypervisor], *, match: str = "", version: int | None = None, first: bool = False
) -> Report:
    """Run the suite on a backend, by its name or by what opens it; one is opened for each test.

    `match` chooses tests, as pytest's `-k` does: by words of their names and contracts, with `and`, `or` and `not`.
    `version` leaves out those that are newer than that version of the suite; `first` ends it at the first failure.
    ConfigError for a match that is none or fits nothing, and without the extra `testing`; HypervisorUnavailable when
    the backend cannot be used.
    """
    check_installed()
    from anyvisor.testing.reporter import Reporter  # noqa: PLC0415 - needs pytest
    from anyvisor.testing.requirements import CONFORMANCE_VERSION  # noqa: PLC0415

    version = CONFORMANCE_VERSION if version is None else version
    if not 1 <= version <= CONFORMANCE_VERSION:
        raise ConfigError(f"version: the suite has versions 1 to {CONFORMANCE_VERSION}, not {version}")
    factory = _factory(backend)
    facts = _facts(factory)
    reporter = Reporter(factory, version)
    started = time.monotonic()
    _run(reporter, [*(("-k", match) if match else ()), *(("-x",) if first else ())])
    results = tuple(reporter.results.values())
    return Report(facts.backend, facts.architecture, version, results, time.monotonic() - started)


def check_installed() -> None:
    """ConfigError, naming the extra, where the suite cannot run for want of pytest or hypothesis."""
    absent = [name for name in NEEDED if importlib.util.find_spec(name) is None]
    if absent:
        raise ConfigError(f"the conformance suite needs {' and '.join(absent)}: pip install 'anyvisor[testing]'")


def _factory(backend: str | Callable[[], Hypervisor]) -> Callable[[], Hypervisor]:
    return (lambda: open_hypervisor(backend)) if isinstance(backend, str) else backend


def _facts(factory: Callable[[], Hypervisor]) -> HostFacts:
    with factory() as hypervisor:
        facts: object = getattr(hypervisor, "facts", None)
    if not isinstance(facts, HostFacts):
        raise PluginError(f"what is to be tested is no hypervisor: {type(hypervisor).__name__} has no HostFacts")
    return facts


def _run(reporter: Reporter, choice: list[str]) -> None:
    """Let pytest run it; ConfigError, KeyboardInterrupt or AnyvisorError when it does not come to its end."""
    import pytest  # noqa: PLC0415

    with _untouched(), contextlib.redirect_stderr(io.StringIO()) as said:
        ended = pytest.main([*OPTIONS, *choice, SUITE], plugins=[reporter])
    if reporter.trouble or ended == pytest.ExitCode.INTERNAL_ERROR:
        raise AnyvisorError(f"the conformance suite cannot be run: {reporter.trouble or said.getvalue().strip()}")
    if ended == pytest.ExitCode.INTERRUPTED:
        raise KeyboardInterrupt
    if ended == pytest.ExitCode.USAGE_ERROR:
        raise ConfigError(f"match: {said.getvalue().strip().removeprefix('ERROR: ')}")
    if ended == pytest.ExitCode.NO_TESTS_COLLECTED:
        raise ConfigError("match: no test of the suite fits it")


@contextlib.contextmanager
def _untouched() -> Iterator[None]:
    """pytest's variables in the environment do not reach it, and are afterwards as they were."""
    before = {name: value for name, value in os.environ.items() if name.startswith("PYTEST_")}
    for name in before:
        del os.environ[name]
    os.environ["PYTEST_DISABLE_PLUGIN_AUTOLOAD"] = "1"
    try:
        yield
    finally:
        for name in [name for name in os.environ if name.startswith("PYTEST_")]:
            del os.environ[name]
        os.environ.update(before)
