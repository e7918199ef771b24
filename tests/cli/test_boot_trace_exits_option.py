"""`anyvisor boot --trace-exits`: every exit of the guest in a file, whatever becomes of the guest."""

import json
import stat

from guests_in_bytes import HELLO, elf

BOOT = ("boot", "--backend", "scripted")


def exits(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def printed(path):
    return bytes(each["value"] for each in exits(path) if each.get("port") == 0x3F8 and each["kind"] == "out")


def test_what_the_guest_did_is_in_the_file_and_the_console_says_what_it_says(run, kernel, tmp_path):
    path = tmp_path / "exits"
    done = run(*BOOT, kernel, "--trace-exits", path)
    assert (done.returncode, done.stdout) == (0, "hello from the guest\r\n")
    assert printed(path) == b"hello from the guest\r\n"
    assert {each["device"] for each in exits(path) if each.get("port") == 0x3F8} == {"serial0"}
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert "lacks" not in done.stderr


def test_a_guest_that_dies_leaves_its_exits_and_its_death(run, kernel, tmp_path):
    done = run(*BOOT, kernel, "--trace-exits", tmp_path / "exits", script="crash")
    assert done.returncode == 1
    assert printed(tmp_path / "exits") == b"about to crash\r\n"
    assert exits(tmp_path / "exits")[-1]["exit"] == "Shutdown"


def test_the_rate_is_for_the_user_to_say_and_what_is_skipped_is_told(run, kernel, tmp_path):
    done = run(*BOOT, kernel, "--trace-exits", tmp_path / "exits", "--trace-rate", 5)
    assert done.returncode == 0
    skipped = sum(each.get("skipped", 0) for each in exits(tmp_path / "exits"))
    assert skipped > 0
    assert f"{tmp_path / 'exits'} lacks {skipped} exits" in done.stderr


def test_a_rate_without_a_file_is_a_mistake(invoke, kernel):
    done = invoke("boot", kernel, "--trace-rate", 5)
    assert done.exit_code == 2
    assert "--trace-rate is for --trace-exits FILE" in done.output


def test_a_file_that_cannot_be_written_is_a_mistake_in_one_line(run, kernel, tmp_path):
    path = tmp_path / "absent" / "exits"
    done = run(*BOOT, kernel, "--trace-exits", path)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == f"anyvisor: error: {path}: the exit trace cannot be opened: No such file or directory\n"


def test_a_full_disk_is_a_warning_after_the_guest_has_ended(run, kernel):
    done = run(*BOOT, kernel, "--trace-exits", "/dev/full")
    assert (done.returncode, done.stdout) == (0, "hello from the guest\r\n")
    assert "warning: /dev/full: the exit trace ended early: No space left on device" in done.stderr


def test_an_emulated_guest_tells_where_it_was(run, tmp_path):
    (tmp_path / "guest").write_bytes(elf(HELLO))
    done = run(
        "boot", tmp_path / "guest", "--backend", "unicorn", "--memory", "16M", "--trace-exits", tmp_path / "exits"
    )
    assert done.returncode == 0, done.stderr
    assert printed(tmp_path / "exits") == b"hello from the guest\r\n"
    assert all(each["rip"] for each in exits(tmp_path / "exits") if each["kind"] == "out")
