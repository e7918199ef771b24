"""A recorder notes interrupts and clocks; what it writes to a file is never far behind."""

import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from acting_hypervisor import ActingHypervisor
from recorders import ACTS, SECONDS, Device, bus_with, events, every_access, recorded

from anyvisor.bus import Bus
from anyvisor.errors import PlanError
from anyvisor.exits import Halted
from anyvisor.recording.failure import Failure
from anyvisor.recording.recorder import Recorder
from anyvisor.recording.trace import (
    Acted,
    Call,
    ClockRead,
    DeviceRaised,
    InterruptTaken,
    TimerCalled,
    Trace,
)

# -- interrupts and clocks ---------------------------------------------------------------------------------------------


class Source:
    pending = True

    def acknowledge(self):
        return 0x24


def test_interrupts_come_from_the_callers_source_and_are_noted():
    recorder, _, (vcpu,) = recorded([lambda bus: taken.append(vcpu.inner.source.acknowledge()), Halted()])
    taken = []
    vcpu.take_interrupts_from(source := Source())
    vcpu.run(Bus())
    assert taken == [0x24]
    assert recorder.trace.of(2)[0] == Call(2, "take_interrupts_from")
    assert recorder.trace.runs(2)[0].acts == (InterruptTaken(0x24),)
    source.pending = False
    assert vcpu.inner.source.pending is False


def test_a_source_that_raises_is_noted():
    recorder, _, (vcpu,) = recorded([lambda bus: vcpu.inner.source.acknowledge()])
    source = Source()
    source.acknowledge = {}.popitem
    vcpu.take_interrupts_from(source)
    with pytest.raises(KeyError) as error:
        vcpu.run(Bus())
    assert recorder.trace.of(2)[-3:-1] == (
        Acted(2, InterruptTaken(None)),
        DeviceRaised(2, Failure("Exception", str(error.value))),
    )


def test_looks_at_the_clock_and_timers_are_noted():
    recorder, vm, _ = recorded()
    called = threading.Event()
    timer = vm.clock.timer(lambda: None)
    timer.set(0)
    timer.clear()
    vm.clock.timer(called.set).set(0)
    assert called.wait(SECONDS)
    now, wall = vm.clock.now(), vm.clock.wall_seconds()
    assert events(recorder, TimerCalled)[-1] == TimerCalled(1, 1)
    assert events(recorder, ClockRead) == [ClockRead(1, "now", now), ClockRead(1, "wall", wall)]
    vm.close()


def test_what_a_timer_raises_is_told():
    _, vm, _ = recorded()
    told = []
    done = threading.Event()
    vm.clock.on_failure(lambda error: (told.append(error), done.set()))
    vm.clock.timer({}.popitem).set(0)
    assert done.wait(SECONDS)
    assert [type(error) for error in told] == [KeyError]
    vm.clock.close()


# -- files -------------------------------------------------------------------------------------------------------------


def test_a_file_holds_the_same_trace(tmp_path):
    with Recorder(ActingHypervisor([every_access, Halted()]), tmp_path / "it.trace") as recorder:
        recorder.create_vm().create_vcpu(0).run(bus_with(Device()))
        during = recorder.trace
    assert during.runs(2)[0].acts == ACTS
    assert Trace.load(tmp_path / "it.trace") == recorder.trace
    assert recorder.trace.events == (*during.events, Call(0, "close"))
    recorder.close()


def test_closing_closes_the_hypervisor_and_ends_the_thread(tmp_path):
    threads = threading.active_count()
    recorder = Recorder(ActingHypervisor(), tmp_path / "it.trace")
    assert threading.active_count() == threads + 1
    recorder.close()
    assert recorder.inner.closed == 1
    assert threading.active_count() == threads


KILLED = """
import os, sys, time
from anyvisor.bus import Bus
from anyvisor.recording.recorder import Recorder
from acting_hypervisor import ActingHypervisor

def accesses(bus):
    for value in range(1000):
        bus.write_port(1, 2, value)
    print("done", flush=True)
    while True:
        time.sleep(1)

Recorder(ActingHypervisor([accesses]), sys.argv[1]).create_vm().create_vcpu(0).run(Bus())
"""


def test_a_process_that_is_killed_leaves_a_trace_of_what_it_did(tmp_path):
    path = tmp_path / "it.trace"
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parent)}
    process = subprocess.Popen([sys.executable, "-c", KILLED, path], stdout=subprocess.PIPE, env=environment)
    assert process.stdout.readline() == b"done\n"
    deadline = threading.Event()
    while path.read_bytes().count(b'"out"') < 1000 and process.poll() is None:
        deadline.wait(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait(SECONDS)
    process.stdout.close()
    (run,) = Trace.load(path).runs(2)
    assert [act.value for act in run.acts] == list(range(1000))
    assert (run.exit, run.failure) == (None, None)


def test_a_file_that_cannot_be_written_is_refused_before_anything_runs(tmp_path):
    with pytest.raises(FileNotFoundError):
        Recorder(ActingHypervisor(), tmp_path / "absent" / "it.trace")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="to run this: a system with /dev/full")
def test_a_full_disk_ends_the_recording_and_not_the_guest():
    recorder = Recorder(ActingHypervisor([every_access, Halted()]), "/dev/full")
    assert recorder.create_vm().create_vcpu(0).run(bus_with(Device())) == Halted()
    with pytest.raises(OSError, match="the recording ended early: No space left on device"):
        recorder.close()
    assert recorder.inner.closed == 1


def test_what_a_recorder_wrote_is_read_only_as_a_whole(tmp_path):
    with Recorder(ActingHypervisor(), tmp_path / "it.trace") as recorder:
        recorder.create_vm()
    text = (tmp_path / "it.trace").read_text()
    with pytest.raises(PlanError, match="line 2"):
        Trace.from_json(text.replace("create_vm", "create_world"))


def test_a_file_that_cannot_be_opened_leaves_no_hypervisor_open(tmp_path):
    inner = ActingHypervisor()
    with pytest.raises(FileNotFoundError):
        Recorder(inner, tmp_path / "nowhere" / "it.trace")
    assert inner.closed == 1
