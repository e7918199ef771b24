"""The suite without a test file: what it reports, and that nothing around it has a say in it."""

import contextlib
import json
import os
import signal
import threading
import time

import pytest

from anyvisor.errors import AnyvisorError, ConfigError, HypervisorUnavailable, PluginError
from anyvisor.exits import Kicked
from anyvisor.testing import bench, reporter, run, run_conformance
from anyvisor.testing.report import FAILED, PASSED, SKIPPED, Report, Result
from anyvisor_unicorn.hypervisor import open_unicorn
from wrapped import Wrapped

ONE = "test_a_port_write_reaches_the_bus"


def broken(**replaced):
    """A factory of emulated processors whose vCPUs have other methods: `run=function(vcpu, bus)`."""
    return lambda: Wrapped(open_unicorn(), vcpu=replaced)


# -- what is reported --------------------------------------------------------------------------------------------------


def test_a_backend_is_run_by_its_name_or_by_what_opens_it():
    by_name, by_factory = run_conformance("unicorn", match=ONE), run_conformance(open_unicorn, match=ONE)
    assert by_name.passed
    assert [each.name for each in by_name.results] == [each.name for each in by_factory.results]
    assert (by_name.backend, by_name.architecture, by_name.version) == ("unicorn", "x86_64", 1)


def test_a_failure_says_what_must_hold_what_was_found_and_where():
    def lie(vcpu, bus):
        vcpu.run(bus)
        return Kicked()

    report = run_conformance(broken(run=lie), match=ONE)
    assert not report.passed
    (failure,) = report.failures
    assert failure.name == f"RunningContract::{failure.test}"
    assert failure.must_hold.startswith("OUT is answered inside `run`")
    assert failure.message.startswith("assert Kicked() == Halted()")
    (place,) = failure.where
    assert "running.py:" in place


def test_an_error_of_the_backend_is_told_with_both_places():
    def fail(vcpu, bus):
        raise LookupError("lost")

    (failure,) = run_conformance(broken(run=fail), match=ONE).failures
    assert failure.message == "LookupError: lost"
    assert [place.rpartition("/")[2].partition(":")[0] for place in failure.where] == [
        "running.py",
        "test_run_conformance.py",
    ]


def test_what_is_skipped_is_grouped_by_what_is_lacking():
    results = [
        Result("A", "one", PASSED),
        Result("A", "two", SKIPPED, need="irqchip"),
        Result("B", "three", SKIPPED, need="irqchip"),
        Result("B", "four", FAILED),
    ]
    report = Report("some", "x86_64", 1, tuple(results))
    assert report.lacking == {"irqchip": (results[1], results[2])}
    assert report.contracts == {"A": {PASSED: 1, SKIPPED: 1}, "B": {SKIPPED: 1, FAILED: 1}}
    assert report.failures == (results[3],)
    assert not report.passed


def test_nothing_but_skips_is_no_pass():
    assert not Report("some", "x86_64", 1, (Result("A", "one", SKIPPED, need="irqchip"),)).passed


def test_a_report_is_data_for_json():
    report = run_conformance("unicorn", match=ONE)
    data = json.loads(json.dumps(report.to_data()))
    assert data["passed"] is True
    assert data["contracts"] == [{"name": "RunningContract", "passed": 1, "failed": 0, "skipped": 0}]
    assert [each["outcome"] for each in data["tests"]] == ["passed"]


def test_a_match_finds_contracts_too():
    contracts = run_conformance("unicorn", match="RunningContract").contracts
    assert list(contracts) == ["RunningContract"]


def test_the_first_failure_can_end_it():
    def fail(vcpu, bus):
        raise LookupError("lost")

    report = run_conformance(broken(run=fail), match="RunningContract", first=True)
    assert [each.outcome for each in report.results].count(FAILED) == 1
    assert report.results[-1].outcome == FAILED


# -- mistakes ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"match": "a and"}, "match: Wrong expression"),
        ({"match": "no_such_test"}, "match: no test of the suite fits it"),
        ({"version": 0}, "version: the suite has versions 1 to"),
        ({"version": 99}, "version: the suite has versions 1 to"),
    ],
)
def test_a_mistake_is_a_config_error(options, words):
    with pytest.raises(ConfigError, match=words):
        run_conformance("unicorn", **options)


def test_a_backend_that_there_is_not_is_unavailable():
    with pytest.raises(HypervisorUnavailable, match="no backend 'absent'"):
        run_conformance("absent")


def test_what_is_no_hypervisor_is_refused():
    with pytest.raises(PluginError, match="no hypervisor: NoneType has no HostFacts"):
        run_conformance(contextlib.nullcontext)


def test_without_pytest_or_hypothesis_the_extra_is_named(monkeypatch):
    monkeypatch.setattr(run, "NEEDED", ("pytest", "hypothesis_that_is_not_there"))
    with pytest.raises(ConfigError, match=r"needs hypothesis_that_is_not_there: pip install 'anyvisor\[testing\]'"):
        run_conformance("unicorn")


def test_a_suite_that_cannot_be_imported_says_why(monkeypatch, tmp_path):
    (tmp_path / "suite_of_no_use.py").write_text("import a_module_that_is_not_there")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(run, "SUITE", "suite_of_no_use")
    with pytest.raises(AnyvisorError, match=r"(?s)suite cannot be run: .*a_module_that_is_not_there"):
        run_conformance("unicorn")


# -- nothing around it has a say ---------------------------------------------------------------------------------------


def test_no_configuration_conftest_or_environment_reaches_it(tmp_path, monkeypatch, capfd):
    (tmp_path / "pytest.ini").write_text("[pytest]\naddopts = --no-such-option\n")
    (tmp_path / "conftest.py").write_text("raise SystemExit('the conftest was imported')")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTEST_ADDOPTS", "--no-such-option")
    monkeypatch.setenv("PYTEST_PLUGINS", "a_module_that_is_not_there")
    before = dict(os.environ)
    assert run_conformance("unicorn", match=ONE).passed
    assert dict(os.environ) == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["conftest.py", "pytest.ini"]
    assert capfd.readouterr() == ("", "")


def test_what_a_backend_prints_is_kept_for_the_failure(capfd):
    def talk(vcpu, bus):
        print("for the author")
        os.write(2, b"from a library in C\n")
        raise LookupError("lost")

    (failure,) = run_conformance(broken(run=talk), match=ONE).failures
    assert "for the author" in failure.printed
    assert "from a library in C" in failure.printed
    assert capfd.readouterr() == ("", "")


# -- what hangs --------------------------------------------------------------------------------------------------------


def test_a_guest_that_never_comes_back_is_a_failure_and_not_a_hang(monkeypatch):
    monkeypatch.setattr(bench, "PATIENCE_SECONDS", 0.1)
    let_go = threading.Event()
    (failure,) = run_conformance(broken(run=lambda vcpu, bus: let_go.wait()), match=ONE).failures
    let_go.set()
    assert failure.message.startswith("the guest did not end within 0.1 s (a kick did not help)")


def test_what_hangs_in_the_tests_own_thread_is_ended(monkeypatch):
    monkeypatch.setattr(reporter, "alarm_is_free", lambda: True)  # this test's own limit gives way to it
    with pytest.raises(pytest.fail.Exception, match=r"the test was not over within 0.05 s"):  # noqa: SIM117
        with reporter.time_limit("the test", 0.05):
            time.sleep(20)


def test_the_time_limit_gives_the_alarm_back_as_it_was():
    before = signal.getsignal(signal.SIGALRM)
    timer = signal.getitimer(signal.ITIMER_REAL)
    with reporter.time_limit("the test", 20):
        assert (signal.getsignal(signal.SIGALRM) == before) == (timer[0] > 0), "an alarm that is in use is left alone"
    assert signal.getsignal(signal.SIGALRM) == before
    assert (signal.getitimer(signal.ITIMER_REAL)[0] > 0) == (timer[0] > 0)
