"""`anyvisor conformance`: a table, what was left out, the failures and a verdict; and that it always ends."""

import json
import os
import signal
import time

import pytest

ONE = ("--match", "test_a_port_write_reaches_the_bus")
SOURCE = """
import threading, time
import anyvisor
from anyvisor.testing import bench
from anyvisor_unicorn.hypervisor import open_unicorn
from wrapped import Wrapped

@anyvisor.hookimpl
def anyvisor_hypervisors():
    return {name: f"odd_backends:open_{name}" for name in ("broken", "stuck", "slow")}

def write_twice(vcpu, bus):
    bus.write_port(0x10, 1, 42)
    return vcpu.run(bus)

def hang(vcpu, bus):
    threading.Event().wait()

def open_broken():
    return Wrapped(open_unicorn(), vcpu={"run": write_twice})

def open_stuck():
    bench.PATIENCE_SECONDS = 0.1
    return Wrapped(open_unicorn(), vcpu={"run": hang})

def open_slow():
    if hasattr(open_slow, "called"):
        open("waiting", "w").close()
        time.sleep(60)
    open_slow.called = True
    return open_unicorn()
"""


@pytest.fixture
def odd(environment, plugin_path):
    """Backends that are not as they should be, installed."""
    environment["PYTHONPATH"] = f"{plugin_path('odd', 'odd_backends', SOURCE)}{os.pathsep}{environment['PYTHONPATH']}"


def conformance(run, *arguments, **options):
    return run("conformance", "--backend", *arguments, **options)


def test_a_backend_that_conforms_gets_a_table_a_verdict_and_code_0(run):
    done = conformance(run, "unicorn", *ONE)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[0].split() == ["contract", "passed", "failed", "skipped"]
    assert done.stdout.splitlines()[1].split() == ["RunningContract", "1", "0", "0"]
    verdict = done.stdout.splitlines()[-1]
    assert verdict.startswith("unicorn conforms to version 1 of the suite: 1 test passed in ")
    assert done.stderr == ""


def test_one_that_does_not_gets_each_failure_and_code_1(run, odd):
    done = conformance(run, "broken", *ONE)
    assert done.returncode == 1, done.stderr
    assert "FAILED RunningContract::test_a_port_write_reaches_the_bus" in done.stdout
    assert "must hold: OUT is answered inside `run`: the device sees it once" in done.stdout
    assert "[(0, 1, 42), (0, 1, 42)] == [(0, 1, 42)]" in done.stdout
    assert "running.py:" in done.stdout
    assert done.stdout.splitlines()[-1].startswith("unicorn does not conform to version 1 of the suite: 0 tests passed")


def test_many_failures_come_with_advice_on_where_to_begin(run, odd):
    many = conformance(run, "broken", "--match", "AccessContract").stdout
    assert many.count("FAILED") > 3 and "Begin with the first" in many
    assert "Begin with the first" not in conformance(run, "broken", *ONE).stdout
    assert conformance(run, "broken", "--match", "AccessContract", "--first").stdout.count("FAILED") == 1


def test_as_json_it_is_all_there(run, odd):
    done = conformance(run, "broken", "--json", *ONE)
    report = json.loads(done.stdout)
    assert done.returncode == 1
    assert report["passed"] is False
    (test,) = report["tests"]
    assert test["outcome"] == "failed"
    assert "[(0, 1, 42), (0, 1, 42)]" in test["message"]


def test_what_is_lacking_is_listed_with_how_many_tests_need_it(invoke):
    from click.testing import CliRunner

    from anyvisor.cli.conformance import show
    from anyvisor.testing.report import PASSED, SKIPPED, Report, Result

    names = {"one": "irqchip", "two": "kick", "three": "irqchip"}
    skipped = tuple(Result("Odd", name, SKIPPED, need=need) for name, need in names.items())
    report = Report("some", "x86_64", 1, (Result("Odd", "zero", PASSED), *skipped), 1.23)
    with CliRunner().isolation() as (out, *_):
        show(report)
        text = out.getvalue().decode()
    assert "not asked of some\n  needs irqchip: 2 tests\n  needs kick: 1 test\n" in text
    assert text.endswith("some conforms to version 1 of the suite: 1 test passed, 3 skipped in 1.2 s\n")


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (("absent",), 3, "there is no backend 'absent'"),
        (("unicorn", "--match", "a and"), 2, "match: Wrong expression"),
        (("unicorn", "--match", "no_such_test"), 2, "match: no test of the suite fits it"),
        (("unicorn", "--version", "99"), 2, "version: the suite has versions 1 to"),
        (("unicorn", "--version", "new"), 2, "not a valid integer"),
    ],
)
def test_a_mistake_is_one_line_and_a_code(run, arguments, code, words):
    done = conformance(run, *arguments)
    assert (done.returncode, done.stdout) == (code, "")
    assert done.stderr.startswith("anyvisor: error: ")
    assert words in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_without_a_backend_it_asks_for_one(run):
    done = run("conformance")
    assert done.returncode == 2
    assert "Missing option '--backend'" in done.stderr


def test_without_pytest_the_extra_is_named(run_cold, environment, tmp_path):
    """pytest cannot be found, as where it was never installed."""
    hidden = tmp_path / "hidden"
    hidden.mkdir()
    (hidden / "sitecustomize.py").write_text(
        "import importlib.util as util\nfind = util.find_spec\n"
        "util.find_spec = lambda name, *rest: None if name == 'pytest' else find(name, *rest)\n"
    )
    environment["PYTHONPATH"] = f"{hidden}{os.pathsep}{environment['PYTHONPATH']}"
    done = conformance(run_cold, "unicorn")
    assert done.returncode == 2
    assert done.stderr == "anyvisor: error: the conformance suite needs pytest: pip install 'anyvisor[testing]'\n"


def test_a_guest_that_hangs_does_not_hang_the_command(run, odd):
    done = conformance(run, "stuck", *ONE)
    assert done.returncode == 1, done.stderr
    assert "did not end within 0.1 s (a kick did not help)" in done.stdout
    assert done.stdout.splitlines()[-1].startswith("unicorn does not conform")
    assert done.stderr == ""


def test_ctrl_c_ends_it(start, odd, tmp_path):
    process = start("conformance", "--backend", "slow", *ONE, cwd=tmp_path, stdout=-1, stderr=-1)
    deadline = time.monotonic() + 30
    while not (tmp_path / "waiting").exists():
        assert time.monotonic() < deadline
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=20)
    assert (process.returncode, out, err.strip()) == (130, b"", b"")


def test_it_leaves_nothing_behind_in_the_directory(run, tmp_path):
    directory = tmp_path / "empty"
    directory.mkdir()
    assert conformance(run, "unicorn", "--match", "RunningContract", cwd=directory).returncode == 0
    assert list(directory.iterdir()) == []
