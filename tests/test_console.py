import re
import threading
import time

import pytest

from anyvisor.console import Console
from anyvisor.errors import ExpectError


def type_slowly(console: Console, data: bytes, pause: float = 0.002) -> threading.Thread:
    def run():
        for byte in data:
            console.output(bytes([byte]))
            time.sleep(pause)

    thread = threading.Thread(target=run)
    thread.start()
    return thread


# -- expect --------------------------------------------------------------------------------------------------


def test_expect_finds_what_is_there_already_and_goes_on_after_it():
    console = Console()
    console.output(b"one two one three")
    assert console.expect("one").start() == 0
    assert console.expect("one").group() == "one"
    with pytest.raises(ExpectError):
        console.expect("one", timeout=0)
    assert console.expect("three", timeout=0).group() == "three"


def test_expect_waits_for_text_that_comes_byte_by_byte():
    console = Console()
    writer = type_slowly(console, b"Debian GNU/Linux vm ttyS0\r\n\r\nvm login: ")
    assert console.expect("login: ", timeout=10).group() == "login: "
    writer.join()


def test_text_is_taken_literally_and_a_compiled_pattern_is_not():
    console = Console()
    console.output(b"a+b $ x=42")
    assert console.expect("a+b $ ", timeout=0)
    assert console.expect(re.compile(r"x=(\d+)"), timeout=0).group(1) == "42"
    console.output(b"(z) y=43")
    assert console.expect(b"(z)", timeout=0).group() == b"(z)"
    assert console.expect(re.compile(rb"y=(\d+)"), timeout=0).group(1) == b"43"


def test_positions_are_right_behind_text_of_several_bytes_a_character_and_behind_garbage():
    console = Console()
    console.output("äöü€ ".encode() + b"\xff\xfe\xe2\x82 end." + "né ".encode() + b"tail")
    assert console.expect("end.", timeout=0)
    assert console.expect("né ", timeout=0)
    assert console.expect(re.compile("^tail$"), timeout=0)


def test_a_character_split_between_two_outputs_is_found():
    console = Console()
    console.output("€".encode()[:2])
    threading.Timer(0.05, console.output, ["€".encode()[2:]]).start()
    assert console.expect("€", timeout=5)


def test_a_timeout_shows_the_last_lines_and_nothing_that_could_harm_a_terminal():
    console = Console("serial0")
    console.output(b"".join(b"line %d\r\n" % number for number in range(100)) + b"\x1b]0;evil\x07 panic")
    with pytest.raises(ExpectError, match=r"console serial0: waited for 'login: ', but 0\.05 s are over") as caught:
        console.expect("login: ", timeout=0.05)
    lines = str(caught.value).split("\n  | ")
    assert lines[1:] == [*(f"line {number}" for number in range(81, 100)), r"\x1b]0;evil\x07 panic"]


def test_a_timeout_without_any_output_says_what_to_look_at():
    with pytest.raises(ExpectError, match=r"nothing was ever printed.*console=ttyS0"):
        Console().expect(re.compile("x"), timeout=0)


def test_expect_ends_when_the_machine_does():
    console = Console()
    console.output(b"goodbye")
    threading.Timer(0.05, console.close, ["reset"]).start()
    began = time.monotonic()
    with pytest.raises(ExpectError, match=r"the machine stopped: reset.*\n  \| goodbye"):
        console.expect("login", timeout=30)
    assert time.monotonic() - began < 20
    assert console.expect("goodbye", timeout=0), "what was printed can still be read"


class LastWords(Console):
    """A console whose guest prints and stops right after somebody looked."""

    def read_output(self, since: int = 0) -> tuple[bytes, int]:
        seen = super().read_output(since)
        if not self.closed:
            self.output(b"done")
            self.close("shutdown")
        return seen


def test_last_words_between_two_looks_are_not_missed():
    assert LastWords().expect("done", timeout=5)


def test_a_stream_without_the_pattern_costs_little_time():
    """Each search covers all that came since the last match, so they must not follow one another at once."""
    console = Console()
    console.output(b"x" * (1 << 20))
    stop = threading.Event()

    def flood():
        while not stop.is_set():
            console.output(b"x")
            time.sleep(0.0005)

    thread = threading.Thread(target=flood)
    thread.start()
    began = time.thread_time()
    with pytest.raises(ExpectError):
        console.expect("never", timeout=1)
    used = time.thread_time() - began
    stop.set()
    thread.join()
    assert used < 0.5


# -- output --------------------------------------------------------------------------------------------------


def test_a_flood_keeps_the_newest_and_counts_the_rest():
    console = Console(output_bytes=64)
    data = bytes(range(256)) * 10
    for byte in data:
        console.output(bytes([byte]))
        assert len(console._kept) <= 64
    kept, end = console.read_output(0)
    assert end == console.end == len(data)
    assert kept == data[-len(kept) :]
    assert console.dropped_bytes == len(data) - len(kept)
    assert len(kept) >= 56


def test_one_output_larger_than_the_buffer_leaves_its_end():
    console = Console(output_bytes=64)
    console.output(bytes(1000) + b"end")
    assert console.read_output(0)[0].endswith(b"end")
    assert console.end == 1003


def test_reading_goes_on_where_it_was():
    console = Console()
    console.output(b"abc")
    data, offset = console.read_output(0)
    console.output(b"def")
    assert (data, console.read_output(offset)) == (b"abc", (b"def", 6))
    assert console.read_output(100) == (b"", 6)
    assert console.text == "abcdef"


def test_expect_survives_that_its_place_was_dropped():
    console = Console(output_bytes=64)
    console.output(b"first")
    console.expect("first", timeout=0)
    console.output(bytes(1000) + b"second third")
    assert console.expect("second", timeout=0)
    assert console.expect(" third", timeout=0)


def test_last_lines_are_whole_and_few():
    console = Console()
    assert console.last_lines() == [""]
    console.output(b"one\r\ntwo\nthree\n")
    assert console.last_lines(2) == ["two", "three"]


# -- input ---------------------------------------------------------------------------------------------------


def test_input_is_taken_in_order_and_in_pieces():
    console = Console()
    console.write("héllo")
    console.write(b" world")
    assert console.take_input(4) == "hél".encode()
    assert console.take_input(100) == b"lo world"
    assert console.take_input(1) == b""


def test_the_device_is_told_after_the_input_is_there_and_with_no_lock_held():
    console, seen = Console(), []
    console.on_input(lambda: seen.append(console.take_input(100)))
    console.write("ls\n")
    assert seen == [b"ls\n"]
    console.on_input(None)
    console.write("x")
    assert seen == [b"ls\n"]


def test_a_megabyte_reaches_a_slow_guest_whole_and_the_queue_stays_small():
    console, data, got, longest = Console(), bytes(range(256)) * 4096, bytearray(), 0

    def guest():
        nonlocal longest
        while len(got) < len(data):
            longest = max(longest, len(console._input))
            got.extend(console.take_input(16))

    thread = threading.Thread(target=guest, daemon=True)
    thread.start()
    console.write(data, timeout=30)
    thread.join(30)
    assert bytes(got) == data
    assert longest <= 64 * 1024


def test_typing_to_a_guest_that_does_not_read_times_out():
    console = Console("serial0", input_bytes=4)
    with pytest.raises(ExpectError, match=r"serial0: 2 byte\(s\) could not be typed in 0\.05 s"):
        console.write("abcdef", timeout=0.05)
    assert console.take_input(100) == b"abcd"


def test_typing_ends_when_the_machine_does():
    console = Console(input_bytes=4)
    threading.Timer(0.05, console.close, ["panic"]).start()
    with pytest.raises(ExpectError, match="the machine stopped: panic"):
        console.write("abcdef")
    with pytest.raises(ExpectError):
        console.write("x", timeout=10)


def test_the_first_reason_of_an_end_stays():
    console = Console()
    console.close("reset")
    console.close("closed")
    assert console.closed == "reset"


def test_after_a_death_without_output_the_cause_is_told_and_no_hint_at_the_command_line():
    console = Console()
    console.close("died: vCPU 0: triple fault")
    with pytest.raises(
        ExpectError, match=r"the machine stopped: died: vCPU 0: triple fault; nothing was ever printed$"
    ):
        console.expect("login", timeout=0)
