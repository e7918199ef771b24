"""stdout that nobody reads, or that cannot be written: every command ends as any Unix tool does."""

import contextlib
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from guests_in_bytes import elf
from terminals import Terminal

from anyvisor.cli import COMMANDS, cli

UNREAD = 128 + signal.SIGPIPE
PRINTING = (
    ("plan", "KERNEL"), ("plan", "KERNEL", "--json"), ("plan", "KERNEL", "--svg", "-"), ("check", "KERNEL"),
    ("cpuid", "models"), ("dump", "acpi", "made"), ("decode", "cpuid.txt"), ("backends",), ("hooks", "gdt"),
    ("plugins", "--json"), ("plugin", "new", "acme", "--kind", "step"), ("doctor",), ("--help",), ("plan", "-h"),
)  # fmt: skip
ELSEWHERE = {"boot", "conformance"}
"""What runs for long; what those print goes the same way, a guest's output apart."""
FULL = Path("/dev/full")
needs_full = pytest.mark.skipif(not FULL.exists(), reason="on Linux, which has /dev/full")


@pytest.fixture(autouse=True)
def desk(tmp_path, monkeypatch, invoke):
    """A directory with a kernel and a table in it."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "KERNEL").write_bytes(elf())
    assert invoke("dump", "cpuid", ".").exit_code == 0


def broken_pipe():
    reader, writer = os.pipe()
    os.close(reader)
    return os.fdopen(writer, "w")


def ended(*arguments, stdout=None, stderr=None):
    """The exit code of a command in this process, with the streams that are given."""
    streams = contextlib.redirect_stdout(stdout or sys.stdout), contextlib.redirect_stderr(stderr or sys.stderr)
    with streams[0], streams[1], pytest.raises(SystemExit) as end:
        cli.main([str(each) for each in arguments], prog_name="anyvisor")
    return end.value.code


@pytest.mark.parametrize("arguments", PRINTING, ids=" ".join)
def test_a_command_whose_reader_is_gone_ends_by_sigpipe_without_a_word(capsys, arguments):
    with broken_pipe() as unread:
        assert (ended(*arguments, stdout=unread), capsys.readouterr().err) == (UNREAD, "")


def test_every_command_is_among_them():
    assert {arguments[0] for arguments in PRINTING} | ELSEWHERE >= set(COMMANDS)


def test_what_is_to_be_written_is_written_all_the_same():
    with broken_pipe() as unread:
        ended("dump", "acpi", "made", stdout=unread)
    assert {"RSDP.dat", "XSDT.dat", "FACP.dat", "APIC.dat", "DSDT.dat"} <= {
        each.name for each in Path("made").iterdir()
    }


def test_the_interpreters_end_does_not_complain_either(start):
    with broken_pipe() as unread:
        process = start("plan", "KERNEL", "--json", stdout=unread, stderr=subprocess.PIPE)
        assert (process.communicate(timeout=60)[1], process.returncode) == (b"", UNREAD)


def test_a_mistake_is_told_although_nobody_reads_stdout(capsys):
    with broken_pipe() as unread:
        assert ended("plan", "absent", stdout=unread) == 2
    assert capsys.readouterr().err.startswith("anyvisor: error: absent: ")


def test_an_exit_code_counts_although_nobody_reads_stderr():
    with broken_pipe() as unread:
        assert ended("plan", "absent", stderr=unread) == 2


@pytest.mark.parametrize(("name", "told"), [("/run/other.sock", "/run/other.sock: "), (None, "[Errno 32] ")])
def test_a_broken_pipe_of_somebody_elses_is_an_error(monkeypatch, capsys, name, told):
    def fail():
        raise BrokenPipeError(32, "Broken pipe", name)

    monkeypatch.setattr("anyvisor.backends.hypervisors", fail)
    reader, writer = os.pipe()
    with os.fdopen(reader), os.fdopen(writer, "w") as stream:
        assert ended("backends", stdout=stream) == 1
    assert capsys.readouterr().err == f"anyvisor: error: {told}Broken pipe\n"


@needs_full
@pytest.mark.parametrize("arguments", [("plan", "KERNEL"), ("plan", "KERNEL", "--json"), ("--help",)], ids=" ".join)
def test_a_full_disk_is_told(capsys, arguments):
    with FULL.open("w") as stream:
        assert ended(*arguments, stdout=stream) == 1
    told = capsys.readouterr().err
    assert told == "anyvisor: error: standard output cannot be written: No space left on device\n"


@needs_full
def test_a_full_disk_under_another_file_is_told_with_its_name(capsys):
    assert ended("plan", "KERNEL", "--svg", FULL) == 1
    assert capsys.readouterr().err == "anyvisor: error: /dev/full: No space left on device\n"


def test_a_terminal_is_as_it_was_when_nobody_reads_the_guest(environment):
    command = [sys.executable, "-m", "anyvisor", "boot", "KERNEL", "--backend", "scripted"]
    with broken_pipe() as unread, contextlib.closing(Terminal()) as terminal:
        before = terminal.modes
        terminal.start(command, stdout=unread, env={**environment, "SCRIPT": "echo"})
        assert terminal.wait() == UNREAD
        assert terminal.modes == before
        assert b"machine ended: stopped" in terminal.shown
