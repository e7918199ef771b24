"""`anyvisor boot --on-death dump DIR`: when a guest is kept, and when it is not."""

import functools
import resource
import subprocess

import pytest
from guests_in_bytes import CRASH, SPIN, elf

from anyvisor.cli.failure import Ended
from anyvisor.cli.on_death import kept
from anyvisor.errors import GuestError
from elf_cores import ElfCore

FILES = {"core", "report.txt", "report.json", "plan.json", "console.log", "console-debug.log", "exits.jsonl"}
BOOT = ("boot", "--backend", "scripted")


@pytest.fixture
def place(tmp_path):
    return tmp_path / "dead"


def test_a_guest_that_dies_is_kept_and_the_command_says_where_in_one_line(run, kernel, place):
    bare, done = (run(*BOOT, kernel, *more, script="crash") for more in ((), ("--on-death", "dump", place)))
    assert (done.returncode, done.stdout) == (bare.returncode, bare.stdout) == (1, "about to crash\r\n")
    assert {each.name for each in place.iterdir()} == FILES
    lines = [line for line in done.stderr.splitlines() if str(place) in line]
    assert lines == [f"anyvisor: the guest is kept in {place}: gdb vmlinux {place}/core"]
    assert "triple fault" in (place / "report.txt").read_text()


def test_an_emulated_guest_that_dies_leaves_its_registers(run, tmp_path, place):
    (tmp_path / "guest").write_bytes(elf(CRASH))
    options = ("--memory", "16M", "--on-death", "dump", place)
    done = run("boot", tmp_path / "guest", "--backend", "unicorn", *options)
    assert done.returncode == 1, done.stderr
    core = ElfCore(place / "core")
    assert core.instruction_pointer == 0x100000
    assert core.read(0x100000, 2) == CRASH


def test_a_guest_that_is_out_of_time_is_kept(run, tmp_path, place):
    (tmp_path / "guest").write_bytes(elf(SPIN))
    options = ("--memory", "16M", "--timeout", "0.5", "--on-death", "dump", place)
    done = run("boot", tmp_path / "guest", "--backend", "unicorn", *options)
    assert done.returncode == 4, done.stderr
    assert ElfCore(place / "core").read(0x100000, 2) == SPIN
    assert "the guest is kept" in done.stderr


def test_a_guest_whose_kernel_panicked_before_it_was_reset_is_kept(run, kernel, place):
    done = run(*BOOT, kernel, "--on-death", "dump", place, script="panic")
    assert done.returncode == 1
    assert "Kernel panic - not syncing" in (place / "console.log").read_text()
    assert (place / "core").exists()


def test_a_guest_that_ends_well_is_not_whatever_logs_it_has_shown(run, kernel, place):
    done = run(*BOOT, kernel, "--on-death", "dump", place, script="reader")
    assert done.returncode == 0
    assert not place.exists()
    assert "kept" not in done.stderr


def test_what_goes_wrong_with_keeping_hides_nothing(start, kernel, place):
    """A disk that is full by then is played by a limit on the length of files."""
    options = {"script": "crash", "stdout": subprocess.DEVNULL, "stderr": subprocess.PIPE}
    no_more = functools.partial(resource.setrlimit, resource.RLIMIT_FSIZE, (0, 0))
    process = start(*BOOT, kernel, "--on-death", "dump", place, preexec_fn=no_more, **options)
    told = process.communicate(timeout=60)[1].decode()
    assert process.returncode == 1
    assert f"warning: the guest could not be kept in {place}: {place}/report.txt: File too large" in told
    assert "triple fault" in told


def test_a_signal_while_it_is_kept_is_obeyed_and_told(monkeypatch, capsys, place):
    def interrupted(machine, directory):
        raise Ended(143)

    monkeypatch.setattr("anyvisor.death_dump.dump_machine", interrupted)
    with pytest.raises(Ended) as caught, kept(None, ("dump", place)):
        raise GuestError("it died")
    assert caught.value.exit_code == 143
    assert f"interrupted: what there is of the guest in {place} is not complete" in capsys.readouterr().err


def test_a_place_that_cannot_be_is_a_mistake_before_there_is_a_guest(run, kernel):
    done = run(*BOOT, kernel, "--on-death", "dump", kernel)
    assert done.returncode == 2
    assert done.stdout == ""
    assert f"a dump needs a directory, and {kernel} is none; name another" in done.stderr


@pytest.mark.parametrize(
    ("options", "why"), [(["dump"], "requires 2 arguments"), (["burn", "dir"], "'burn' is not 'dump'")]
)
def test_what_is_not_said_in_full_or_not_known_is_a_mistake(invoke, kernel, options, why):
    done = invoke("boot", kernel, "--on-death", *options)
    assert done.exit_code == 2
    assert why in done.output
