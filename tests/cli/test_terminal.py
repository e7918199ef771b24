"""The tty layer: the escape key, and that a terminal made raw is as it was afterwards, whatever happens."""

import os
import signal
import sys
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from terminals import Terminal

from anyvisor.terminal import EscapeKeys, Key, RawTerminal


def meant(*reads):
    """What a sequence of reads means, neighbouring bytes joined."""
    keys, parts = EscapeKeys(), []
    for part in (part for read in reads for part in keys.feed(read)):
        if isinstance(part, bytes) and parts and isinstance(parts[-1], bytes):
            parts[-1] += part
        else:
            parts.append(part)
    return parts


@pytest.mark.parametrize(
    ("typed", "parts"),
    [
        (b"ls\r", [b"ls\r"]),
        (b"\x03\x1a\x04", [b"\x03\x1a\x04"]),
        (b"\x01x", [Key.QUIT]),
        (b"\x01h", [Key.HELP]),
        (b"\x01i", [Key.INSPECT]),
        (b"\x01\x01", [b"\x01"]),
        (b"\x01a", [b"\x01"]),
        (b"\x01\x01x", [b"\x01x"]),
        (b"\x01z", []),
        (b"a\x01", [b"a"]),
        (b"a\x01hb\x01xc", [b"a", Key.HELP, b"b", Key.QUIT, b"c"]),
    ],
)
def test_keys_after_the_escape_key_are_for_us_and_all_others_for_the_guest(typed, parts):
    assert meant(typed) == parts


@given(st.lists(st.binary(max_size=8)), st.integers(0, 100))
def test_how_typing_is_cut_into_reads_makes_no_difference(reads, cut):
    whole = b"".join(reads)
    assert meant(*reads) == meant(whole) == meant(whole[:cut], whole[cut:])


@given(st.binary())
def test_typing_without_the_escape_key_reaches_the_guest_unchanged(typed):
    plain = typed.replace(b"\x01", b"")
    assert meant(plain) == ([plain] if plain else [])


@pytest.fixture
def terminal():
    terminal = Terminal()
    yield terminal
    terminal.close()


def test_a_raw_terminal_is_as_it_was_after_the_block(terminal):
    before = terminal.modes
    with RawTerminal(terminal.far) as raw:
        assert raw.raw and terminal.is_raw
    assert terminal.modes == before


def test_a_raw_terminal_is_as_it_was_after_an_exception(terminal):
    before = terminal.modes
    with pytest.raises(ZeroDivisionError), RawTerminal(terminal.far):
        1 / 0  # noqa: B018
    assert terminal.modes == before


def test_restoring_twice_does_nothing_more(terminal):
    before = terminal.modes
    with RawTerminal(terminal.far) as raw:
        raw.restore()
        assert terminal.modes == before
        raw.restore()
    assert terminal.modes == before


def test_every_key_comes_as_it_is_typed(terminal):
    keys = b"\x00\x01\x03\x04\x11\x13\x1a\x7f\r\n\xff"
    with RawTerminal(terminal.far):
        terminal.type(keys)
        assert os.read(terminal.far, 64) == keys


def test_every_byte_is_shown_as_the_guest_printed_it(terminal):
    """A line feed alone moves down and not left: full-screen programs rely on it."""
    with RawTerminal(terminal.far):
        os.write(terminal.far, b"one\ntwo\r\n\tthree")
        terminal.wait_for(b"one\ntwo\r\n\tthree")


def test_what_is_no_terminal_is_left_alone(tmp_path):
    reader, writer = os.pipe()
    with RawTerminal(reader) as raw:
        assert not raw.raw
    os.close(reader)
    os.close(writer)


def test_handlers_of_others_come_back(terminal):
    before = [signal.getsignal(number) for number in (signal.SIGTSTP, signal.SIGCONT)]
    with RawTerminal(terminal.far):
        assert signal.getsignal(signal.SIGTSTP) != before[0]
    assert [signal.getsignal(number) for number in (signal.SIGTSTP, signal.SIGCONT)] == before


PROGRAM = """
import os, sys, time
from anyvisor.terminal import RawTerminal
raw = RawTerminal(0)
raw.__enter__()
print("raw", flush=True)
{then}
"""


@pytest.mark.parametrize(
    "then", ["sys.exit(3)", "raise RuntimeError('oh')", "import signal; os.kill(os.getpid(), signal.SIGINT)"]
)
def test_a_terminal_whose_block_is_never_left_is_restored_at_the_interpreters_end(terminal, then):
    before = terminal.modes
    terminal.start([sys.executable, "-c", PROGRAM.format(then=then)])
    terminal.wait_for(b"raw")
    terminal.wait()
    assert terminal.modes == before


def test_a_suspended_process_leaves_the_terminal_as_it_was_and_takes_it_back(terminal):
    before = terminal.modes
    process = terminal.start([sys.executable, "-c", PROGRAM.format(then="time.sleep(60)")])
    terminal.wait_for(b"raw")
    assert terminal.is_raw
    process.send_signal(signal.SIGTSTP)
    terminal.wait_until(lambda: terminal.modes == before, "the terminal stayed raw")
    terminal.wait_until(lambda: state(process) == "T", "the process was not stopped")
    process.send_signal(signal.SIGCONT)
    terminal.wait_until(lambda: terminal.is_raw, "the terminal did not become raw again")
    time.sleep(0.1)
    assert state(process) != "T"


def state(process):
    return Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()[0]
