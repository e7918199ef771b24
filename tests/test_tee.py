import contextlib
import io
import os
import re
import subprocess
import sys
import textwrap
import threading
import time

import pytest

from anyvisor.console import Console
from anyvisor.errors import ConfigError

NOTICE = rb"\r\n\[anyvisor: (\d+) bytes of output are missing here: the reader was too slow\]\r\n"


def wait_until(true, seconds: float = 10.0) -> None:
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline, "it never came true"
        time.sleep(0.005)


def test_functions_and_files_get_all_output_in_order():
    console, pieces, file = Console(), [], io.BytesIO()
    console.output(b"before ")
    console.tee(pieces.append)
    console.tee(file)
    for number in range(5000):
        console.output(b"%d " % number)
    console.close()
    expected = b"before " + b"".join(b"%d " % number for number in range(5000))
    assert b"".join(pieces) == file.getvalue() == expected


def test_a_file_with_a_descriptor_gets_all_output(tmp_path):
    console = Console()
    with (tmp_path / "log").open("wb") as file:
        file.write(b"log: ")
        console.tee(file)
        for _ in range(100):
            console.output(b"x" * 3000)
        console.close()
    assert (tmp_path / "log").read_bytes() == b"log: " + b"x" * 300_000


def test_output_is_passed_on_soon():
    console, pieces = Console(), []
    console.tee(pieces.append)
    for byte in b"login: ":
        console.output(bytes([byte]))
    wait_until(lambda: b"".join(pieces) == b"login: ")
    console.close()


def test_a_full_pipe_stops_neither_the_guest_nor_the_end_and_is_told_what_it_missed():
    console = Console(output_bytes=10_000)
    read_end, write_end = os.pipe()
    tee = console.tee(os.fdopen(write_end, "wb"))
    other = []
    console.tee(other.append)
    for number in range(20_000):
        console.output(b"%09d\n" % number)
    wait_until(lambda: other and other[-1].endswith(b"000019999\n"))
    got = bytearray()
    while not got.endswith(b"000019999\n"):
        got += os.read(read_end, 65536)
    console.close()
    os.close(read_end)
    told = [int(count) for count in re.findall(NOTICE, got)]
    numbers = [line for line in got.split(b"\n") if len(line) == 9 and line.isdigit()]
    assert sum(told) == tee.missed_bytes > 0
    assert len(re.sub(NOTICE, b"", got)) + tee.missed_bytes == 200_000, "each byte is passed on or told to be missing"
    assert numbers == sorted(numbers)


def test_closing_does_not_wait_for_a_reader_that_never_comes():
    console = Console()
    read_end, write_end = os.pipe()
    tee = console.tee(os.fdopen(write_end, "wb"))
    console.output(bytes(500_000))
    began = time.monotonic()
    console.close()
    assert time.monotonic() - began < 30, "it is given a moment"
    assert not tee.running
    assert isinstance(tee.error, TimeoutError)
    os.close(read_end)


def test_a_process_whose_stdout_nobody_reads_can_end():
    program = """
        import sys
        from anyvisor.console import Console
        console = Console()
        console.tee(sys.stdout.buffer)
        console.output(bytes(1 << 20))
        import time; time.sleep(0.2)
        print("ending", file=sys.stderr)
    """
    command = [sys.executable, "-c", textwrap.dedent(program)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stderr.read() == b"ending\n"
        assert process.wait(20) == 0


def test_a_reader_that_goes_away_ends_its_tee_only():
    console, pieces = Console(), []
    read_end, write_end = os.pipe()
    tee = console.tee(os.fdopen(write_end, "wb"))
    console.tee(pieces.append)
    os.close(read_end)
    console.output(b"hello")
    wait_until(lambda: not tee.running)
    assert isinstance(tee.error, BrokenPipeError)
    console.output(b" world")
    console.close()
    assert b"".join(pieces) == b"hello world"


def test_a_sink_that_raises_ends_its_tee_and_is_remembered():
    console = Console()
    tee = console.tee(lambda data: 1 / 0)
    console.output(b"x")
    wait_until(lambda: not tee.running)
    assert isinstance(tee.error, ZeroDivisionError)
    console.close()


def test_one_tee_can_be_closed_alone_and_its_descriptor_goes():
    console = Console()
    read_end, write_end = os.pipe()
    tee = console.tee(file := os.fdopen(write_end, "wb"))
    console.output(b"for both")
    tee.close()
    tee.close()
    assert not tee.running
    console.output(b"for nobody")
    file.close()
    with os.fdopen(read_end, "rb") as reader:
        assert reader.read() == b"for both"


def test_a_sink_may_close_its_console():
    console = Console()
    tee = console.tee(lambda data: console.close("enough"))
    console.output(b"x")
    wait_until(lambda: not tee.running)
    assert tee.error is None


def test_what_is_no_sink_is_refused():
    with pytest.raises(ConfigError, match="cannot be a console's sink"):
        Console().tee(42)


def test_no_thread_is_left_and_none_is_there_without_a_tee():
    before = threading.active_count()
    console = Console()
    console.output(b"x")
    with contextlib.suppress(TimeoutError):
        console.expect("y", timeout=0.01)
    assert threading.active_count() == before
    for _ in range(5):
        console.tee(io.BytesIO())
    assert threading.active_count() == before + 5
    console.close()
    assert threading.active_count() == before


def test_waiting_costs_no_time():
    console = Console()
    console.tee(io.BytesIO())
    time.sleep(0.05)
    began = time.process_time()
    time.sleep(0.5)
    assert time.process_time() - began < 0.25
    console.close()
