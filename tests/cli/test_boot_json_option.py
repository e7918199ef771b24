"""`anyvisor boot --json FILE`: one document for every end of a boot."""

import json
import signal
import stat
import subprocess

import pytest
from guests_in_bytes import elf

BOOT = ("boot", "--backend", "scripted")
REPORT = ["summary", "vcpu", "exit", "causes", "findings", "sections", "notes"]
FIELDS = ["outcome", "exit_code", "machine", "panic", *REPORT]
NO_PAE = """
from anyvisor import hookimpl
from anyvisor.states import Change
from anyvisor.x86_64.state import Sregs

@hookimpl(wrapper=True)
def anyvisor_registers():
    return (*(yield), Change(Sregs, cr4=0))
"""


@pytest.fixture
def ending(run, tmp_path):
    """Boot, and give the result and the document, which must be there."""

    def boot(*arguments, script="hello", **options):
        path = tmp_path / "ending.json"
        path.write_text("of an earlier boot")
        path.chmod(0o644)
        done = run(*BOOT, "--json", path, *arguments, script=script, **options)
        told = json.loads(path.read_text())
        assert list(told) == FIELDS
        assert told["exit_code"] == done.returncode
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        return done, told

    return boot


ENDS = {
    # script: options, outcome, exit code, the machine's reason, the first cause
    "hello": ((), "ended", 0, "reset", None),
    "halt": ((), "ended", 0, "halted", None),
    "reader": ((), "ended", 0, "reset", None),
    "crash": ((), "died", 1, "died", "unknown-exception"),
    "broken": ((), "died", 1, "died", "root-file-system"),
    "panic": ((), "panicked", 1, "reset", "guest-panic"),
    "poll": (("--timeout", "0.2"), "timeout", 4, "stopped", "polling-nobody"),
    "wait": (("--timeout", "0.2"), "timeout", 4, "stopped", "guest-panic"),
}


@pytest.mark.parametrize("script", ENDS)
def test_every_end_of_a_machine_has_a_document(ending, kernel, script):
    options, outcome, code, reason, cause = ENDS[script]
    done, told = ending(kernel, *options, script=script)
    assert (told["outcome"], done.returncode, told["machine"]["reason"]) == (outcome, code, reason)
    assert told["machine"]["backend"] == "scripted" and 0 < told["machine"]["seconds"] < 60
    assert bool(told["panic"]) == (script in ("panic", "wait"))
    assert [each["name"] for each in told["causes"]][:1] == [cause] * bool(cause)
    assert bool(told["sections"]) == bool(code)


@pytest.mark.parametrize("script", ["crash", "broken", "panic", "poll"])
def test_it_says_what_the_page_says(ending, kernel, script):
    done, told = ending(kernel, *ENDS[script][0], script=script)
    page = " ".join(done.stderr.split())
    assert " ".join(told["summary"].split()) in page
    if script != "broken":  # of which nothing is known but that
        first = told["causes"][0]
        assert " ".join(first["remedy"].split()) in page
        assert all(" ".join(each.split()).lower() in page.lower() for each in first["because"])
    assert f"machine ended: {told['machine']['reason']} after {told['machine']['seconds']:.0f}"[:-1] in page


REFUSED = {
    # options: outcome, exit code, words of the summary
    ("absent",): ("refused", 2, "absent: cannot open the kernel"),
    ("kernel", "--cpu", "nobody"): ("refused", 2, "no CPU model"),
    ("kernel", "--append", "a\nb"): ("refused", 2, "one line of text"),
    ("kernel", "--symbols", "kernel"): ("refused", 2, "has no symbols"),
    ("kernel", "--on-death", "dump", "kernel"): ("refused", 2, "needs a directory"),
    ("kernel", "--cpus", "9"): ("unavailable", 3, "more than the scripted backend can run"),
    ("kernel", "--backend", "nobody"): ("unavailable", 3, "no backend"),
}


@pytest.mark.parametrize("options", REFUSED, ids=" ".join)
def test_a_machine_that_never_was_has_one_too(ending, monkeypatch, tmp_path, options):
    (tmp_path / "kernel").write_bytes(elf())
    monkeypatch.chdir(tmp_path)
    outcome, code, words = REFUSED[options]
    done, told = ending(*options)
    assert (told["outcome"], done.returncode, told["machine"]) == (outcome, code, None)
    assert words in told["summary"] and told["summary"] in done.stderr


def test_a_state_that_is_refused_is_told_with_the_rules_it_breaks(run, kernel, tmp_path):
    (tmp_path / "no_pae.py").write_text(NO_PAE)
    done = run("--plugin", "no_pae", *BOOT, "--json", "told.json", kernel, cwd=tmp_path)
    told = json.loads((tmp_path / "told.json").read_text())
    assert (done.returncode, told["outcome"], told["exit_code"], told["machine"]) == (1, "refused", 1, None)
    assert [each["check"] for each in told["findings"]] == ["long-mode-needs-pae"]
    assert told["findings"][0]["section"] and "EINVAL" in told["summary"] and "\n" not in told["summary"]


def test_a_guest_that_ended_well_while_something_else_failed_is_told_apart(ending, kernel):
    done, told = ending(kernel, "--record", "/dev/full")
    assert (told["outcome"], done.returncode, told["machine"]["reason"]) == ("failed", 1, "reset")
    assert "recording ended early" in told["summary"]


def test_an_end_by_a_signal_is_told_as_such(start, kernel, tmp_path):
    path = tmp_path / "ending.json"
    process = start(*BOOT, kernel, "--json", path, script="spin", stdin=subprocess.DEVNULL, stdout=subprocess.PIPE)
    assert process.stdout.readline() == b"spinning\r\n"
    process.terminate()
    assert process.wait(60) == 128 + signal.SIGTERM
    told = json.loads(path.read_text())
    assert (told["outcome"], told["exit_code"], told["summary"]) == ("stopped", 143, "ended by SIGTERM")
    assert told["machine"]["reason"] == "stopped" and not told["sections"], "nothing was wrong with it"


def test_a_kernel_that_gave_up_without_a_word_is_told_from_one_that_is_done(run, tmp_path):
    pytest.importorskip("unicorn")
    raw = ("--protocol", "raw", "--raw-mode", "long", "--backend", "unicorn")
    for code, outcome in ((b"\xf4\xeb\xfd" + bytes(64) + b" -- System halted\0", "halted"), (b"\xf4", "ended")):
        (tmp_path / "guest.bin").write_bytes(code)
        run("boot", "guest.bin", *raw, "--json", "told.json", cwd=tmp_path)
        told = json.loads((tmp_path / "told.json").read_text())
        assert (told["outcome"], told["machine"]["reason"]) == (outcome, "halted")
        assert told["machine"]["note"].startswith("vCPU 0 halted")


@pytest.mark.parametrize("place", ["missing/report.json", ".", "-", ""])
def test_no_place_for_it_is_a_mistake_and_nothing_runs(run, kernel, tmp_path, place):
    done = run(*BOOT, kernel, "--json", place, script="crash", cwd=tmp_path)
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1), done.stderr
