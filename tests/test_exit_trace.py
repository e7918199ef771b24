"""The trace of exits in a file: what stands in it, its rate, its limit, and what becomes of it when things go wrong."""

import json
import stat
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from anyvisor import exit_trace
from anyvisor.acts import MmioRead, MmioWrite, PortIn, PortOut
from anyvisor.bus import Bus
from anyvisor.errors import ConfigError, GuestError
from anyvisor.exit_trace import ExitTrace
from anyvisor.exits import Halted, Shutdown
from anyvisor.flight import EXIT, NotedExit
from anyvisor.launch import launch
from anyvisor.memory import MIB, Region
from anyvisor.plan import BootPlan, VcpuPlan
from anyvisor.testing.listener import Listener
from anyvisor.x86_64.generic import FACTS
from anyvisor_mock import MockHypervisor

PLAN = BootPlan("x86_64", (Region(0, 2 * MIB, "RAM"),), vcpus=(VcpuPlan(0, ()),))
PORTS, WINDOW = Region(0x10, 8, 'the "ports"'), Region(8 * MIB, 0x1000, "window")
SCRIPT = (
    PortOut(0x10, 1, 0x41),
    PortIn(0x11, 2),
    MmioWrite(WINDOW.start, 4, 7),
    MmioRead(WINDOW.start + 4, 1),
    PortOut(0x99, 1, 1),
    Shutdown(),
)


class Clock:
    """A monotonic clock that stands still."""

    now = 1000.0

    def monotonic(self):
        return self.now


@pytest.fixture
def clock(monkeypatch):
    made = Clock()
    monkeypatch.setattr(exit_trace, "time", made)
    return made


def lines(path):
    return [json.loads(line) for line in Path(path).read_text().splitlines()]


def out(number, rip=0):
    return ("out", 0x10, 4, number, rip)


def values(found):
    return [each["value"] for each in found if "value" in each]


def run(script, trace, *, answers=(0x1234,)):
    """Run a machine to its end, with a trace."""
    with launch(PLAN, MockHypervisor(FACTS, script=script), trace_exits=trace) as made:
        made.bus.add_ports(PORTS, Listener(answers))
        made.bus.add_mmio(WINDOW, Listener([9]))
        made.start()
        try:
            made.wait(10)
        except GuestError as error:
            return made, error
        return made, None


def test_every_exit_is_a_line_with_who_answered(tmp_path, clock):
    clock.now += 0  # the trace begins here
    with ExitTrace(tmp_path / "exits") as trace:
        clock.now += 1.5
        made, _ = run(SCRIPT, trace)
    common = {"t": 1.5, "vcpu": 0}
    assert lines(tmp_path / "exits") == [
        common | {"kind": "out", "port": 0x10, "size": 1, "value": 0x41, "device": 'the "ports"'},
        common | {"kind": "in", "port": 0x11, "size": 2, "value": 0x1234, "device": 'the "ports"'},
        common | {"kind": "write", "address": WINDOW.start, "size": 4, "value": 7, "device": "window"},
        common | {"kind": "read", "address": WINDOW.start + 4, "size": 1, "value": 9, "device": "window"},
        common | {"kind": "out", "port": 0x99, "size": 1, "value": 1},
        common | {"kind": "exit", "exit": "Shutdown", "words": Shutdown().describe()},
    ]
    assert [each.kind for each in made.flight[0].last()] == ["out", "in", "write", "read", "out", "exit"]
    assert trace.skipped == 0 and trace.error is None


def test_rip_is_told_where_it_is_known_and_a_read_without_an_answer_is_null(tmp_path):
    with ExitTrace(tmp_path / "exits") as trace:
        ring = trace.ring(3, Bus())
        ring.append(("in", 0x10, 1, None, 0xFFFFFFFF81000000))
    (line,) = lines(tmp_path / "exits")
    del line["t"]
    assert line == {"vcpu": 3, "kind": "in", "port": 0x10, "size": 1, "value": None, "rip": 0xFFFFFFFF81000000}


def test_a_line_has_what_a_noted_exit_says_of_itself(tmp_path):
    entries = [out(7, rip=0x1000), ("in", 0x11, 1, None, 0), ("read", 8 * MIB, 4, 9, 0), (EXIT, 0, 0, Shutdown(), 0)]
    with ExitTrace(tmp_path / "trace") as trace:
        for each in entries:
            trace.add(0, each, Bus())
    written = [{name: value for name, value in line.items() if name not in ("t", "vcpu")} for line in lines(trace.path)]
    assert written == [NotedExit.of(each).to_data() for each in entries]


def test_what_comes_faster_than_the_rate_is_skipped_and_counted(tmp_path, clock):
    trace = ExitTrace(tmp_path / "exits", per_second=10)
    ring = trace.ring(0, Bus())
    for number in range(25):  # the first ten are there at once
        ring.append(out(number))
    clock.now += 0.5  # five more
    for number in range(25, 35):
        ring.append(out(number))
    ring.append(("exit", 0, 0, Halted(), 0))  # never skipped
    trace.close()
    found = lines(tmp_path / "exits")
    assert values(found) == [*range(10), *range(25, 30)]
    assert [each["skipped"] for each in found if "skipped" in each] == [15, 5]
    assert found[-1]["exit"] == "Halted"
    assert found[10]["skipped"] == 15, "it stands where the exits would"
    assert trace.skipped == 20


def test_a_rate_below_one_a_second_is_one_at_a_time(tmp_path, clock):
    with ExitTrace(tmp_path / "exits", per_second=0.5) as trace:
        ring = trace.ring(0, Bus())
        for number in range(9):
            ring.append(out(number))
            clock.now += 0.5
    assert values(lines(tmp_path / "exits")) == [0, 4, 8]


def test_a_trace_ends_at_its_limit_and_says_so_and_a_death_still_comes(tmp_path):
    with ExitTrace(tmp_path / "exits", limit_bytes=2000) as trace:
        ring = trace.ring(0, Bus())
        for number in range(1000):
            ring.append(out(number))
        ring.append(("exit", 0, 0, Shutdown(), 0))
    found = lines(tmp_path / "exits")
    count = len(values(found))
    assert 10 < count < 40
    assert values(found) == list(range(count))
    assert found[count]["limit_bytes"] == 2000
    assert [each.get("exit") or each.get("skipped") for each in found[count + 1 :]] == [1000 - count, "Shutdown"]
    assert trace.skipped == 1000 - count
    assert (tmp_path / "exits").stat().st_size < 2000 + 500


def test_a_trace_is_its_owners_alone_even_over_a_file_that_was_not(tmp_path):
    old = tmp_path / "exits"
    old.write_text("what was there before\n")
    old.chmod(0o644)
    for path in (old, tmp_path / "new"):
        ExitTrace(path).close()
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        assert path.read_text() == ""


def test_a_file_that_cannot_be_opened_is_an_error_at_once(tmp_path):
    with pytest.raises(FileNotFoundError, match="the exit trace cannot be opened") as caught:
        ExitTrace(tmp_path / "absent" / "exits")
    assert caught.value.filename == str(tmp_path / "absent" / "exits")
    with pytest.raises(IsADirectoryError):
        ExitTrace(tmp_path)


@pytest.mark.parametrize("wrong", [{"per_second": 0}, {"per_second": -1}, {"limit_bytes": 0}])
def test_a_trace_that_could_hold_nothing_is_refused(tmp_path, wrong):
    with pytest.raises(ConfigError, match="holds nothing"):
        ExitTrace(tmp_path / "exits", **wrong)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="this host has no /dev/full")
def test_a_full_disk_ends_the_trace_and_not_the_guest():
    before = Path("/dev/full").stat().st_mode
    with ExitTrace("/dev/full") as trace:
        made, error = run((*SCRIPT[:-1], Halted()), trace)
        assert error is None and made.outcome.reason == "halted"
        assert "the exit trace ended early: No space left on device" in str(trace.error)
    assert len(made.flight[0].last()) == len(SCRIPT)
    assert Path("/dev/full").stat().st_mode == before, "a device's mode is not a trace's to change"


def test_vcpus_share_a_trace_and_no_line_is_torn(tmp_path):
    with ExitTrace(tmp_path / "exits", per_second=1e9) as trace:
        rings = [trace.ring(vcpu, Bus()) for vcpu in range(4)]

        def work(ring):
            for number in range(300):
                ring.append(out(number))

        threads = [threading.Thread(target=work, args=(ring,)) for ring in rings]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    found = lines(tmp_path / "exits")
    for vcpu in range(4):
        assert values(each for each in found if each["vcpu"] == vcpu) == list(range(300))


def test_a_trace_can_be_closed_twice_and_takes_nothing_afterwards(tmp_path):
    trace = ExitTrace(tmp_path / "exits")
    ring = trace.ring(0, Bus())
    ring.append(out(1))
    trace.close()
    ring.append(out(2))
    trace.close()
    assert values(lines(tmp_path / "exits")) == [1]
    assert [each.value for each in ring.last()] == [1, 2]


def test_a_process_that_is_killed_has_written_what_its_guest_did(tmp_path):
    program = f"""
import os, signal
from anyvisor.bus import Bus
from anyvisor.exit_trace import ExitTrace
ring = ExitTrace({str(tmp_path / "exits")!r}).ring(0, Bus())
for number in range(50):
    ring.append(("out", 0x10, 4, number, 0))
os.kill(os.getpid(), signal.SIGKILL)
"""
    done = subprocess.run([sys.executable, "-c", program], timeout=30, check=False)
    assert done.returncode == -9
    assert values(lines(tmp_path / "exits")) == list(range(50))


def test_a_name_on_the_bus_is_that_of_who_answers():
    bus = Bus()
    bus.add_ports(PORTS, Listener())
    bus.add_mmio(WINDOW, Listener())
    assert [bus.name_at(port, port=True) for port in (0xF, 0x10, 0x17, 0x18)] == ["", PORTS.name, PORTS.name, ""]
    assert [bus.name_at(address) for address in (0x10, WINDOW.start, WINDOW.end - 1, WINDOW.end)] == [
        "",
        "window",
        "window",
        "",
    ]
