"""`anyvisor check`: findings a block each, hints or not, and an exit code that tells a sound plan from another."""

import json
import re

import pytest

from anyvisor.checks import names

CPIO = b"070701".ljust(512, b"\0")


@pytest.fixture
def initrd(tmp_path):
    path = tmp_path / "initrd.img"
    path.write_bytes(CPIO)
    return path


@pytest.fixture
def kept(invoke, kernel, initrd, tmp_path):
    """A plan kept as JSON, after a change to its text: `kept("old", "new")` -> its file."""

    def keep(*change):
        text = invoke("plan", kernel, "--initrd", initrd, "--json").stdout
        assert not change or change[0] in text
        path = tmp_path / "plan.json"
        path.write_text(text.replace(*change) if change else text)
        return path

    return keep


def test_a_sound_plan_is_told_in_one_line(invoke, kernel, initrd):
    result = invoke("check", kernel, "--initrd", initrd, "--cpus", 2)
    assert result.exit_code == 0
    counted = re.fullmatch(r"(\d+) checks of the registers of 2 vCPUs and \d+ pieces of memory: nothing found\n", result.stdout)  # fmt: skip  # noqa: E501
    assert int(counted[1]) == len(names("x86_64")) > 40


def test_a_hint_is_a_block_and_no_failure(invoke, kernel, initrd):
    result = invoke("check", kernel, "--initrd", initrd, "--cmdline", "quiet")
    assert result.exit_code == 0
    first, *rest, empty, last = result.stdout.splitlines()
    assert first.startswith("hint: command line: names no console")
    assert [line.split()[0] for line in rest] == ["found", "wanted", "rule", "remedy"]
    assert (empty, last.endswith("1 hint")) == ("", True)
    quiet = invoke("check", kernel, "--initrd", initrd, "--cmdline", "quiet", "--no-hints")
    assert quiet.stdout.endswith("nothing found\n")
    assert len(quiet.stdout.splitlines()) == 1


def test_an_error_in_a_kept_plan_ends_with_the_exit_code_of_a_mistake(invoke, kept):
    result = invoke("check", "--plan", kept('"rsi": 28672', '"rsi": 28673'))
    assert result.exit_code == 2
    assert result.stdout.startswith("error: vCPU 0: RSI does not lead to the zero page")
    assert "found   RSI 0x7001\n  wanted  0x7000" in result.stdout
    assert result.stderr == "anyvisor: error: 1 error in the plan\n"


def test_a_plan_as_it_was_kept_is_sound(invoke, kept):
    assert invoke("check", "--plan", kept()).exit_code == 0


def test_json_has_the_findings_and_the_names_of_all_checks(invoke, kept):
    result = invoke("check", "--plan", kept('"rsi": 28672', '"rsi": 28673'), "--json")
    told = json.loads(result.stdout)
    assert result.exit_code == 2
    assert told["checks"] == names("x86_64")
    (found,) = told["findings"]
    assert (found["check"], found["severity"], found["vcpu"]) == ("handover-found", "error", 0)
    assert (found["found"], found["wanted"].split(",")[0]) == ("RSI 0x7001", "0x7000")


def test_a_kept_plan_whose_file_is_gone_is_an_error_that_names_it(invoke, kept, initrd):
    path = kept()
    initrd.unlink()
    result = invoke("check", "--plan", path)
    assert result.exit_code == 2
    assert f"its file {initrd} cannot be read" in result.stdout


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], "there is no kernel"),
        (["--plan", "PLAN", "--cpus", "2"], "a machine is described besides (cpus)"),
        (["--plan", "KERNEL"], "boot plan is not JSON"),
    ],
)
def test_mistakes_are_told_in_a_line(arguments, words, invoke, kept, kernel):
    files = {"PLAN": kept(), "KERNEL": kernel}
    result = invoke("check", *(files.get(each, each) for each in arguments))
    assert result.exit_code == 2
    assert words in result.stderr
    assert len(result.stderr.splitlines()) == 1


def test_the_help_has_an_example_and_the_exit_codes(invoke):
    text = invoke("check", "--help").stdout
    assert "anyvisor check vmlinuz" in text
    assert "The exit code is 2" in " ".join(text.split())
