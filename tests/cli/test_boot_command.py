"""`anyvisor boot` on the scripted backend: everything but the processor is real, and the processor does what
is asked of it.
"""

import json
import os
import re
import signal
import subprocess
import time
from pathlib import Path

import pytest
from guests_in_bytes import CRASH, ECHO, HELLO, SPIN, elf
from terminals import TIMEOUT

BOOT = ("boot", "--backend", "scripted")
PIPE_BYTES = 64 * 1024


def wait_for(stream, text):
    """Read until `text` has come; what was read."""
    seen = b""
    while text not in seen:
        piece = os.read(stream.fileno(), 4096)
        assert piece, f"{text!r} did not come, only {seen!r}"
        seen += piece
    return seen


def test_a_guest_that_resets_ends_the_command_with_success(run, kernel):
    done = run(*BOOT, kernel)
    assert done.returncode == 0
    assert done.stdout == "hello from the guest\r\n"
    assert re.fullmatch(r"anyvisor: machine ended: reset after \d+\.\d s\n", done.stderr)


def test_what_comes_on_stdin_is_typed(run, kernel):
    done = run(*BOOT, kernel, script="echo", stdin=b"abcq")
    assert (done.returncode, done.stdout) == (0, "ready\r\nabcq")


def test_what_comes_on_stdin_waits_for_a_guest_that_begins_late(run, kernel):
    done = run(*BOOT, kernel, "--timeout", "5", script="late", stdin=b"poweroffq")
    assert (done.returncode, done.stdout) == (0, "ready\r\npoweroffq"), done.stderr


def test_more_input_than_any_buffer_holds_is_typed_in_order(run, kernel):
    text = b"".join(b"%05d " % number for number in range(8000))
    done = run(*BOOT, kernel, script="echo", stdin=text + b"q")
    assert done.stdout == "ready\r\n" + text.decode() + "q"


def test_the_guest_goes_on_after_the_end_of_stdin(run, kernel):
    done = run(*BOOT, kernel, "--timeout", "1", script="echo", stdin=b"abc")
    assert done.stdout == "ready\r\nabc"
    assert done.returncode == 4


def test_stdin_and_stdout_may_be_closed(start, kernel):
    process = start(*BOOT, kernel, stderr=subprocess.PIPE, preexec_fn=lambda: (os.close(0), os.close(1)))
    _, err = process.communicate(timeout=TIMEOUT)
    assert process.returncode == 0
    assert b"machine ended: reset" in err


def test_stdin_is_read_no_further_than_the_console_has_room(start, kernel):
    """The guest reads nothing: what leaves the writer is what the console's queue and the pipe can hold."""
    process = start(*BOOT, kernel, script="spin", stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    wait_for(process.stdout, b"spinning")
    os.set_blocking(process.stdin.fileno(), False)
    taken, refused = 0, 0
    while refused < 20 and taken < 4 * PIPE_BYTES:
        try:
            taken, refused = taken + os.write(process.stdin.fileno(), b"x" * PIPE_BYTES), 0
        except BlockingIOError:
            refused += 1
            time.sleep(0.05)
    assert PIPE_BYTES < taken < 4 * PIPE_BYTES


def test_a_timeout_ends_the_machine_and_says_so(run, kernel):
    began = time.monotonic()
    done = run(*BOOT, kernel, "--timeout", "0.5", script="spin")
    assert done.returncode == 4
    assert "machine ended: stopped" in done.stderr
    assert "anyvisor: error: the machine was still running after 0.5 s (--timeout)\n" in done.stderr
    assert time.monotonic() - began < 10


def test_a_timeout_tells_what_a_guest_does_that_goes_nowhere(run, kernel):
    done = run(*BOOT, kernel, "--timeout", "0.5", script="poll")
    assert done.returncode == 4
    assert "  vCPU 0 polls port 0x399, which no device answers, " in done.stderr


def test_a_timeout_tells_of_a_kernel_that_has_panicked_and_waits(run, kernel):
    done = run(*BOOT, kernel, "--timeout", "0.5", script="wait")
    assert done.returncode == 4
    assert "  the guest's kernel panicked: sysrq triggered crash\n" in done.stderr


def test_a_guest_whose_kernel_panics_has_failed_and_is_told_what_to_do(run, kernel):
    done = run(*BOOT, kernel, script="panic")
    assert done.returncode == 1
    ended, error, meaning, *rest, remedy, _, _ = done.stderr.splitlines()
    assert ended.startswith("anyvisor: machine ended: reset after")
    wanted = "VFS: Unable to mount root fs on unknown-block(0,0)"
    assert error == f"anyvisor: error: the guest's kernel panicked: {wanted}"
    assert "no initrd with an executable /init" in meaning
    assert remedy.startswith("  What to do: give an initrd (--initrd FILE")
    assert max(map(len, (meaning, *rest, remedy))) <= 80


def test_a_guest_that_shows_the_log_of_a_panic_and_resets_has_not_failed(run, kernel):
    done = run(*BOOT, kernel, script="reader")
    assert done.returncode == 0
    assert "panicked" not in done.stderr


def test_a_guest_that_dies_is_told_with_its_registers(run, kernel):
    done = run(*BOOT, kernel, script="crash")
    assert done.returncode == 1
    assert done.stdout == "about to crash\r\n"
    assert "machine ended: died" in done.stderr
    assert "anyvisor: error: vCPU 0 died: triple fault" in done.stderr
    assert "rip  0x0000000000100000" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_backend_that_breaks_is_an_error_and_no_traceback(run, kernel):
    done = run(*BOOT, kernel, script="broken")
    assert done.returncode == 1
    assert "RuntimeError: the backend is broken" in done.stderr
    assert "Traceback" not in done.stderr


def test_debugging_shows_the_traceback(run, kernel):
    done = run(*BOOT, kernel, script="broken", env={"ANYVISOR_DEBUG": "1"})
    assert "Traceback" in done.stderr
    assert done.returncode != 0


def test_a_guest_that_halts_for_good_has_ended_by_itself(run, kernel):
    done = run(*BOOT, kernel, script="halt")
    assert done.returncode == 0
    assert re.search(
        r"machine ended: halted after .* s \(vCPU 0 halted with interrupts off, before rip 0x\w+\)", done.stderr
    )


@pytest.mark.parametrize(
    ("number", "code"),
    [(signal.SIGTERM, 143), (signal.SIGHUP, 129), (signal.SIGQUIT, 131), (signal.SIGINT, 130)],
)
def test_a_signal_ends_the_machine_and_gives_the_shells_exit_code(start, kernel, number, code):
    process = start(*BOOT, kernel, script="spin", stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    wait_for(process.stdout, b"spinning")
    process.send_signal(number)
    _, err = process.communicate(timeout=TIMEOUT)
    assert process.returncode == code
    assert b"machine ended: stopped" in err
    assert b"Traceback" not in err


def test_a_closed_stdout_ends_it_quietly(start, kernel):
    process = start(
        *BOOT, kernel, script="flood", stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    wait_for(process.stdout, b"xxx")
    process.stdout.close()
    assert process.wait(TIMEOUT) == 141
    err = process.stderr.read()
    assert err.startswith(b"anyvisor: machine ended: stopped") and err.count(b"\n") == 1


def resident_kib(process):
    status = Path(f"/proc/{process.pid}/status").read_text()
    return int(re.search(r"VmRSS:\s+(\d+)", status)[1])


def test_a_blocked_stdout_neither_grows_memory_nor_outlives_the_timeout(start, kernel):
    process = start(
        *BOOT,
        kernel,
        "--timeout",
        "6",
        script="flood",
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    wait_for(process.stdout, b"xxx")
    time.sleep(2)  # the guest goes on printing, nobody reads
    before = resident_kib(process)
    time.sleep(2)
    assert resident_kib(process) < before + 2048
    assert process.wait(TIMEOUT) == 4


def test_a_slow_reader_gets_all_that_the_guest_printed(start, kernel):
    """The machine has ended long before; what it printed fits in the console, so none of it may be lost."""
    process = start(
        *BOOT, kernel, script="big", stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    time.sleep(1)
    out, err = process.communicate(timeout=TIMEOUT)
    assert out.split() == [b"%014d" % number for number in range(32 * 1024)]
    assert process.returncode == 0, err


def test_a_full_disk_is_told_and_does_not_stop_the_guest(start, kernel, tmp_path):
    options = (*BOOT, kernel, "--json", tmp_path / "told.json")
    with Path("/dev/full").open("wb") as full:
        process = start(*options, stdin=subprocess.DEVNULL, stdout=full, stderr=subprocess.PIPE)
        _, err = process.communicate(timeout=TIMEOUT)
    assert process.returncode == 1
    assert err.decode().splitlines()[-2:] == [
        "anyvisor: warning: some of the console's output is lost",
        "anyvisor: error: standard output: No space left on device",
    ]
    told = json.loads((tmp_path / "told.json").read_text())
    assert (told["outcome"], told["machine"]["reason"]) == ("failed", "reset")


def test_options_override_the_file(run, kernel, tmp_path):
    config = tmp_path / "vm.toml"
    config.write_text('kernel = "vmlinux"\nmemory = "64M"\nvcpus = 2\n')
    assert run(*BOOT, "--config", config).returncode == 0
    shown = run("plan", "--config", config, "--memory", "96M", "--cpus", "3")
    assert "RAM (96M)" in shown.stdout
    assert "vCPUs: 3" in shown.stdout


REAL_GUESTS = {
    "resets": (HELLO, b"", 0, "hello from the guest\r\n"),
    "echoes": (ECHO, b"abcq", 0, "abcq"),
    "spins": (SPIN, b"", 4, ""),
    "crashes": (CRASH, b"", 1, ""),
}


@pytest.mark.kvm
@pytest.mark.parametrize("guest", REAL_GUESTS)
def test_a_real_guest_on_kvm(kvm, run, tmp_path, guest):
    run_real_guest(run, tmp_path / "guest", guest, kvm)


@pytest.mark.parametrize("more", [[], ["--deterministic"]], ids=["fast", "deterministic"])
@pytest.mark.parametrize("guest", REAL_GUESTS)
def test_a_real_guest_on_an_emulated_processor(run, tmp_path, guest, more):
    run_real_guest(run, tmp_path / "guest", guest, "unicorn", *more)


def run_real_guest(run, path, guest, backend, *more):
    code, typed, exit_code, shown = REAL_GUESTS[guest]
    path.write_bytes(elf(code))
    limit = ["--timeout", "0.5"] if guest == "spins" else ["--timeout", "30"]
    done = run("boot", path, "--backend", backend, "--memory", "16M", *limit, *more, stdin=typed)
    assert (done.returncode, done.stdout) == (exit_code, shown), done.stderr
