"""`anyvisor boot` on a terminal: keys go to the guest, the escape key to us, and the terminal is as it was at
every end.
"""

import os
import re
import signal
import sys
import time

import pytest
from terminals import Terminal

from guests import debian
from guests.availability import available


@pytest.fixture
def terminal():
    terminal = Terminal()
    yield terminal
    terminal.close()


@pytest.fixture
def boot(terminal, environment, kernel):
    """Start `anyvisor boot` on the terminal with a script; the modes the terminal had before."""

    def boot(script, *options, **streams):
        before = terminal.modes
        command = [sys.executable, "-m", "anyvisor", "boot", str(kernel), "--backend", "scripted", *options]
        terminal.start(command, env={**environment, "SCRIPT": script}, **streams)
        return before

    return boot


def test_keys_go_to_the_guest_and_its_output_is_shown(terminal, boot):
    before = boot("echo")
    assert b"Ctrl-A x" in terminal.wait_for(b"ready\r\n")
    assert terminal.is_raw
    terminal.type(b"abc\x03\x1a\x01\x01")  # Ctrl-C and Ctrl-Z are the guest's; Ctrl-A Ctrl-A is one Ctrl-A
    terminal.wait_for(b"abc\x03\x1a\x01")
    terminal.type(b"q")
    assert terminal.wait() == 0
    assert b"q\r\nanyvisor: machine ended: reset" in terminal.shown, "the guest's last line has no end of its own"
    assert terminal.modes == before


def test_the_escape_key_ends_a_machine_that_does_not_listen(terminal, boot):
    before = boot("spin")
    terminal.wait_for(b"spinning")
    terminal.type(b"\x01x")
    assert terminal.wait() == 130
    assert b"machine ended: stopped" in terminal.shown
    assert terminal.modes == before


def test_the_escape_key_is_seen_behind_a_paste_that_nobody_reads(terminal, boot):
    before = boot("spin")
    terminal.wait_for(b"spinning")
    began = time.monotonic()
    for _ in range(200):
        terminal.type(b"x" * 1000)
    terminal.type(b"\x01x")
    assert terminal.wait() == 130
    assert time.monotonic() - began < 15
    assert terminal.modes == before


def test_the_escape_keys_help_is_shown(terminal, boot):
    boot("spin")
    terminal.wait_for(b"spinning")
    terminal.type(b"\x01h")
    terminal.wait_for(b"Ctrl-A x  end the machine\r\n")


def test_a_key_shows_what_the_guest_does_and_the_guest_goes_on(terminal, boot):
    boot("echo")
    terminal.wait_for(b"ready")
    terminal.type(b"\x01i")
    page = terminal.wait_for(b"Last exits\r\n").decode()
    assert "The machine is running, with 1 vCPU(s).\r\n" in page
    assert re.search(r"rip +0x[0-9a-f]{16}", page)
    terminal.wait_for(b"in    port 0x3fd -> 0x60")
    terminal.type(b"xyz")
    terminal.wait_for(b"xyz")
    terminal.type(b"\x01iq")
    assert terminal.wait() == 0
    assert terminal.shown.count(b"The machine is running") == 2


@pytest.mark.parametrize("script", ["hello", "halt", "crash", "broken"])
def test_the_terminal_is_as_it_was_however_the_guest_ends(terminal, boot, script):
    before = boot(script)
    terminal.wait_for(b"machine ended")
    assert terminal.wait() == {"hello": 0, "halt": 0}.get(script, 1)
    assert terminal.modes == before


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT, signal.SIGINT])
def test_the_terminal_is_as_it_was_after_a_signal(terminal, boot, number):
    before = boot("spin")
    terminal.wait_for(b"spinning")
    assert terminal.is_raw
    terminal.process.send_signal(number)
    assert terminal.wait() == 128 + number
    assert terminal.modes == before


def test_the_terminal_is_as_it_was_after_an_error_of_ours(terminal, boot, environment, plugin_path, tmp_path):
    """A plugin that raises when the machine has started: an exception in the middle of it all."""
    source = "import anyvisor\n@anyvisor.hookimpl\ndef anyvisor_machine_started(machine):\n    1 / 0\n"
    environment["PYTHONPATH"] = f"{plugin_path('rude', 'rude', source)}:{environment['PYTHONPATH']}"
    before = boot("spin")
    assert terminal.wait() == 1
    assert b"plugin rude failed in anyvisor_machine_started" in terminal.shown
    assert terminal.modes == before


def test_a_timeout_leaves_the_terminal_as_it_was(terminal, boot):
    before = boot("spin", "--timeout", "0.5")
    assert terminal.wait() == 4
    assert terminal.modes == before


def test_a_terminal_that_is_not_read_does_not_keep_the_machine_from_ending(terminal, boot, tmp_path):
    with (tmp_path / "stderr").open("wb") as messages:
        before = boot("flood", "--timeout", "1", stderr=messages)
        assert terminal.process.wait(20) == 4
    assert terminal.modes == before


@pytest.mark.guest
def test_the_first_command_of_all_ends_at_a_shell_and_its_end_gives_the_terminal_back(terminal, tmp_path):
    """`anyvisor boot`, with what it fetches already there, on whatever backend this machine has."""
    cache = tmp_path / "cache"
    cache.mkdir()
    (cache / "linux-image-cloud-amd64").symlink_to(available(debian.cloud_kernel).vmlinuz.parent.parent)
    (tmp_path / "sitecustomize.py").write_text("import platform\nplatform.release = lambda: '0-of-this-test'\n")
    path = os.pathsep.join([str(tmp_path), *filter(None, [os.environ.get("PYTHONPATH")])])
    before = terminal.modes
    command = [sys.executable, "-m", "anyvisor", "boot", "--memory", "256M"]
    terminal.start(command, env={**os.environ, "PYTHONPATH": path, "ANYVISOR_CACHE": str(cache)})
    terminal.wait_for(b"guest# ", 50)
    assert terminal.is_raw
    terminal.type(b"echo $((6 * 7)) | tr 4 5; tty\n")
    terminal.wait_for(b"\r\n52\r\n/dev/ttyS0\r\n")
    terminal.type(b"sleep 1000\n")
    time.sleep(1)
    terminal.type(b"\x03")
    terminal.type(b"echo status $?\n")
    terminal.wait_for(b"status 130\r\n")
    terminal.type(b"exit\n")
    assert terminal.wait() == 0
    assert b"machine ended: reset" in terminal.shown
    assert terminal.modes == before
