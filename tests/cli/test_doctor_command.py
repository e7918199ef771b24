"""`anyvisor doctor` and `anyvisor backends`: what is said agrees with what is there."""

import json
import platform

import pytest

import anyvisor


def test_the_doctor_reports_versions_machine_and_hypervisors(run):
    done = run("doctor", script="halt")
    for title in ("Software", "Optional packages", "Machine", "Hypervisors", "Plugin problems"):
        assert f"{title}\n" in done.stdout
    assert platform.python_version() in done.stdout and anyvisor.__version__ in done.stdout


def test_the_doctor_runs_a_guest_and_is_content_only_when_it_ran(run):
    """The scripted guest halts without writing to the self-test's port: that is no pass."""
    report = json.loads(run("doctor", "--json", script="halt").stdout)
    scripted = next(each for each in report["backends"] if each["name"] == "scripted")
    assert scripted["available"] is True
    assert "it wrote []" in scripted["self_test"]


def test_the_doctor_fails_when_no_hypervisor_works(run, environment, plugin_path):
    """A plugin takes kvm's place in the list with one that cannot be opened."""
    source = """
import anyvisor
from anyvisor.errors import HypervisorUnavailable

@anyvisor.hookimpl
def anyvisor_hypervisors():
    return {"sick": "sick:open_sick"}

def open_sick():
    raise HypervisorUnavailable("the sick backend is sick; wait until it is well")
"""
    environment["PYTHONPATH"] = f"{plugin_path('sick', 'sick', source)}:{environment['PYTHONPATH']}"
    done = run("doctor", "--json", script="halt")
    backends = json.loads(done.stdout)["backends"]
    works = any(each["self_test"] == "ok" for each in backends)
    assert done.returncode == (0 if works else 1)
    sick = next(each for each in backends if each["name"] == "sick")
    assert (sick["available"], sick["reason"]) == (False, "the sick backend is sick; wait until it is well")
    assert "not available: the sick backend is sick" in run("doctor", script="halt").stdout


@pytest.mark.kvm
def test_a_guest_runs_on_kvm(kvm, run):
    done = run("doctor", "--json", script="halt")
    report = json.loads(done.stdout)
    assert {each["name"]: each["self_test"] for each in report["backends"]}["kvm"] == "ok"
    assert done.returncode == 0


def test_the_emulated_processor_runs_a_guest_and_says_how_it_runs(run):
    report = json.loads(run("doctor", "--json", script="halt").stdout)
    unicorn = next(each for each in report["backends"] if each["name"] == "unicorn")
    assert unicorn["self_test"] == "ok"
    assert "full-system" in unicorn["facts"]["capabilities"] and unicorn["facts"]["max_vcpus"] == 1
    (note,) = unicorn["facts"]["notes"]
    assert f"works: a guest ran; {note}" in run("doctor", script="halt").stdout
    assert f"note: {note}\n" in run("backends").stdout


def test_missing_packages_are_told_with_how_to_get_them(run_cold, environment, tmp_path):
    """Hide rich behind a finder that knows it not."""
    (tmp_path / "sitecustomize.py").write_text(
        "import sys\n"
        "class Hide:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        if name == 'rich':\n"
        "            raise ModuleNotFoundError(name)\n"
        "sys.meta_path.insert(0, Hide())\n"
    )
    environment["PYTHONPATH"] = f"{tmp_path}:{environment['PYTHONPATH']}"
    done = run_cold("doctor", script="halt")
    assert "rich     missing, for prettier tables: pip install 'anyvisor[rich]'" in done.stdout
    assert "unicorn  present, for an emulated processor" in done.stdout


def test_backends_are_listed_with_what_they_can_do(run):
    listed = json.loads(run("backends", "--json").stdout)
    assert {each["name"] for each in listed} == {"kvm", "mock", "unicorn", "scripted"}
    scripted = next(each for each in listed if each["name"] == "scripted")
    assert scripted["plugin"] == "scripted" and scripted["facts"]["max_vcpus"] == 8
    shown = run("backends").stdout
    assert "scripted: available\n" in shown and "up to 8 vCPUs" in shown


def test_output_that_is_not_read_is_no_traceback(start):
    import subprocess

    process = start("plugins", stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    process.stdout.close()
    process.wait(30)
    assert b"Traceback" not in process.stderr.read()
