"""`anyvisor plan --diff`: a plan that was kept is compared with the one that would be made now."""

import json

import pytest


@pytest.fixture
def kept(invoke, kernel, tmp_path):
    path = tmp_path / "before.json"
    path.write_text(invoke("plan", kernel, "--json").stdout)
    return path


def test_the_same_machine_has_no_difference(invoke, kernel, kept):
    assert invoke("plan", kernel, "--diff", kept).stdout == "no difference\n"
    assert json.loads(invoke("plan", kernel, "--diff", kept, "--json").stdout) == []


def test_what_an_option_changes_is_shown_and_nothing_else(invoke, kernel, kept):
    shown = invoke("plan", kernel, "--cpus", "2", "--diff", kept).stdout
    assert [line for line in shown.splitlines() if not line.startswith(" ")] == ["Memory", "vCPUs"]
    assert "  vCPU 1 added\n" in shown
    data = json.loads(invoke("plan", kernel, "--cpus", "2", "--diff", kept, "--json").stdout)
    assert {"part": "vCPUs", "subject": "vCPU 1", "words": "added", "before": "", "after": "", "details": []} in data


def test_a_plugin_that_was_installed_meanwhile_is_shown_with_its_work(run, kernel, kept, plugin_path, environment):
    source = "import anyvisor\n@anyvisor.hookimpl(wrapper=True)\ndef anyvisor_smbios():\n    yield\n"
    environment["PYTHONPATH"] = f"{plugin_path('quiet', 'quiet', source)}:{environment['PYTHONPATH']}"
    shown = run("plan", kernel, "--diff", kept).stdout.splitlines()
    assert shown[:3] == ["Steps", "  anyvisor_smbios: dropped by quiet", "Memory"]
    steps = run("plan", kernel).stdout.partition("Steps\n")[2]
    assert "anyvisor_smbios          linux, dropped by quiet" in steps


@pytest.mark.parametrize("text", ["", "[]", "{", '{"format": 1}'])
def test_a_file_that_is_no_plan_is_named_with_what_to_do(invoke, kernel, tmp_path, text):
    path = tmp_path / "other.json"
    path.write_text(text)
    done = invoke("plan", kernel, "--diff", path)
    assert done.exit_code == 2
    assert f"anyvisor: error: {path}: " in done.stderr and "anyvisor plan --json" in done.stderr
    assert done.stdout == ""


def test_a_file_that_is_not_there_is_refused(invoke, kernel, tmp_path):
    done = invoke("plan", kernel, "--diff", tmp_path / "absent.json")
    assert done.exit_code == 2 and "absent.json" in done.stderr
