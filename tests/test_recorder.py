"""A recorder changes nothing of what goes through it, and notes all of it in its order."""

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from acting_hypervisor import ActingHypervisor
from anyvisor.acts import MmioRead, MmioWrite, PortIn, PortOut
from anyvisor.bus import Bus
from anyvisor.errors import HypervisorError, PlanError
from anyvisor.exits import Halted, Kicked
from anyvisor.memory import GuestMemory, Region
from anyvisor.recording.failure import Failure
from anyvisor.recording.format import encode
from anyvisor.recording.recorder import Recorder
from anyvisor.recording.trace import (
    Acted,
    Call,
    ClockRead,
    DeviceRaised,
    InterruptTaken,
    RunBegan,
    RunEnded,
    TimerCalled,
    Trace,
)
from anyvisor.states import VcpuState
from anyvisor.x86_64.chips import Irqchip
from anyvisor.x86_64.generic import FACTS
from anyvisor.x86_64.state import Msrs, Regs

PORT, MMIO = 0x10, 0xD0000
SECONDS = 10


class Device:
    """Answers with one number after another, of more bits than are asked for."""

    def __init__(self):
        self.seen = []

    def read(self, offset, size_bytes):
        answer = 0x1_0000_0000_0000_0001 + len(self.seen)
        self.seen.append((offset, size_bytes, answer))
        return answer

    def write(self, offset, size_bytes, value):
        self.seen.append((offset, size_bytes, value))


class Broken:
    def read(self, offset, size_bytes):
        raise ValueError("a broken read")

    def write(self, offset, size_bytes, value):
        raise ValueError("a broken write")


def bus_with(device):
    bus = Bus()
    bus.add_ports(Region(PORT, 8), device)
    bus.add_mmio(Region(MMIO, 0x1000), device)
    return bus


def recorded(*scripts):
    """A recorder around a fake whose vCPU 0, 1, ... do these; the vCPUs."""
    recorder = Recorder(ActingHypervisor(*scripts))
    vm = recorder.create_vm()
    return recorder, vm, [vm.create_vcpu(index) for index in range(len(scripts))]


def events(recorder, kind):
    return [event for event in recorder.trace.events if isinstance(event, kind)]


# -- accesses ----------------------------------------------------------------------------------------------------------


def every_access(bus):
    bus.write_port(PORT, 1, 0x41)
    bus.read_port(PORT + 2, 2)
    offset, read, write = bus.port(PORT + 4)
    write(offset, 4, 0xFFFFFFFF)
    assert read(offset, 4) & 0xFFFFFFFF == 4
    assert read(offset, 1) & 0xFF == 5
    bus.write_mmio(MMIO + 8, 8, 1 << 63)
    assert bus.read_mmio(MMIO, 1) == 7


ACTS = (
    PortOut(PORT, 1, 0x41),
    PortIn(PORT + 2, 2, 2),
    PortOut(PORT + 4, 4, 0xFFFFFFFF),
    PortIn(PORT + 4, 4, 4),
    PortIn(PORT + 4, 1, 5),
    MmioWrite(MMIO + 8, 8, 1 << 63),
    MmioRead(MMIO, 1, 7),
)


def test_every_access_is_noted_with_what_the_device_gave_or_got():
    recorder, _, (vcpu,) = recorded([every_access, Halted()])
    vcpu.run(bus_with(device := Device()))
    (run,) = recorder.trace.runs(2)
    assert run.acts == ACTS
    assert run.exit == Halted()
    assert [offset for offset, _, _ in device.seen] == [0, 2, 4, 4, 4, 8, 0]


def test_the_device_sees_what_it_sees_without_a_recorder():
    _, _, (vcpu,) = recorded([every_access, Halted()])
    vcpu.run(bus_with(device := Device()))
    every_access(bus_with(bare := Device()))
    assert device.seen == bare.seen


def test_lines_made_on_the_way_are_those_of_the_format():
    recorder, _, (vcpu,) = recorded([every_access, Halted()])
    vcpu.run(bus_with(Device()))
    assert recorder._log._lines[-len(ACTS) - 1 : -1] == [encode(Acted(2, act)) for act in ACTS]


def test_what_nobody_claims_is_noted_and_counted_on_the_callers_bus():
    recorder, _, (vcpu,) = recorded([lambda bus: bus.read_port(0x80, 2), lambda bus: bus.write_mmio(0, 4, 1), Halted()])
    vcpu.run(bus := Bus())
    assert recorder.trace.runs(2)[0].acts == (PortIn(0x80, 2, 0xFFFF), MmioWrite(0, 4, 1))
    assert bus.unclaimed == {("port", 0x80): 1, ("mmio", 0): 1}


def test_devices_that_are_added_during_run_are_on_the_callers_bus():
    def add(bus):
        bus.add_ports(Region(0x20, 1), Device())
        bus.add_mmio(Region(0x2000, 1), Device())

    _, _, (vcpu,) = recorded([add, Halted()])
    vcpu.run(bus := Bus())
    assert bus.read_port(0x20, 1) == bus.read_mmio(0x2000, 1) == 1


FAILING = {
    PortIn(PORT, 2): lambda bus: bus.read_port(PORT, 2),
    PortOut(PORT, 2, 9): lambda bus: bus.write_port(PORT, 2, 9),
    MmioRead(MMIO, 8): lambda bus: bus.read_mmio(MMIO, 8),
    MmioWrite(MMIO, 8, 9): lambda bus: bus.write_mmio(MMIO, 8, 9),
}


@pytest.mark.parametrize("act", FAILING, ids=lambda act: type(act).__name__)
def test_a_device_that_raises_is_noted_and_its_error_comes_out(act):
    recorder, _, (vcpu,) = recorded([FAILING[act]])
    with pytest.raises(ValueError, match="a broken") as error:
        vcpu.run(bus_with(Broken()))
    failure = Failure.of(error.value)
    assert recorder.trace.of(2)[-3:] == (Acted(2, act), DeviceRaised(2, failure), RunEnded(2, None, failure))


def test_a_device_may_access_the_bus_itself():
    class Bridge(Device):
        def write(self, offset, size_bytes, value):
            inner.write_port(PORT + 4, 1, value)

    inner = bus_with(Device())
    outer = Bus()
    outer.add_ports(Region(PORT, 1), Bridge())
    recorder, _, (vcpu,) = recorded([lambda bus: bus.write_port(PORT, 1, 7), Halted()])
    vcpu.run(outer)
    assert recorder.trace.runs(2)[0].acts == (PortOut(PORT, 1, 7),)


def test_accesses_of_two_vcpus_stand_in_the_order_in_which_the_device_saw_them():
    class Slow(Device):
        def read(self, offset, size_bytes):
            self.seen.append((offset, size_bytes, len(self.seen)))
            answer = self.seen[-1][2]
            time.sleep(0.0002)  # another thread runs meanwhile
            return answer

        def write(self, offset, size_bytes, value):
            super().write(offset, size_bytes, value)
            time.sleep(0.0002)

    def many(first):
        def accesses(bus):
            ready.wait(SECONDS)
            for value in range(first, first + 50):
                bus.write_port(PORT, 2, value)
                bus.write_mmio(MMIO, 2, value)
                bus.read_port(PORT, 2)
                bus.read_mmio(MMIO, 2)

        return accesses

    ready = threading.Barrier(2)
    recorder, _, vcpus = recorded([many(0), Halted()], [many(1000), Halted()])
    bus = bus_with(device := Slow())
    threads = [threading.Thread(target=vcpu.run, args=(bus,)) for vcpu in vcpus]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(SECONDS)
    noted = events(recorder, Acted)
    assert [event.act.value for event in noted] == [value for _, _, value in device.seen]
    assert {event.subject for event in noted} == {2, 3}


# -- calls -------------------------------------------------------------------------------------------------------------


class Inner:
    """Notes its calls, and is its own VM and vCPU; `failing` says which calls fail."""

    index = 0
    facts = FACTS

    def __init__(self, failing=()):
        self.calls = []
        self.failing = failing

    def __getattr__(self, name):
        def call(*arguments, **options):
            self.calls.append((name, arguments, options))
            if name in self.failing:
                raise HypervisorError(name, 22, "told to fail")
            return {"get": Regs(rip=7), "run": Kicked(), "create_vm": self, "create_vcpu": self}.get(name)

        return call

    class clock:
        close = staticmethod(lambda: None)


RAM = Region(0, 4096, "RAM")
ON_VM = {
    "get": (lambda vm, ram: vm.get(Regs), ("get", (Regs,), {})),
    "put": (lambda vm, ram: vm.put(Irqchip()), ("put", (Irqchip(),), {})),
    "map_memory": (lambda vm, ram: vm.map_memory(ram, readonly=True), ("map_memory", (RAM,), {"readonly": True})),
    "set_irq": (lambda vm, ram: vm.set_irq(4, True), ("set_irq", (4, True), {})),
    "add_irqfd": (lambda vm, ram: vm.add_irqfd(30, 4, 31), ("add_irqfd", (30, 4, 31), {})),
    "remove_irqfd": (lambda vm, ram: vm.remove_irqfd(30, 4), ("remove_irqfd", (30, 4), {})),
    "add_ioeventfd": (
        lambda vm, ram: vm.add_ioeventfd(30, RAM, port=True, match=5),
        ("add_ioeventfd", (30, RAM), {"port": True, "match": 5}),
    ),
    "remove_ioeventfd": (
        lambda vm, ram: vm.remove_ioeventfd(30, RAM, port=True, match=5),
        ("remove_ioeventfd", (30, RAM), {"port": True, "match": 5}),
    ),
    "coalesce": (lambda vm, ram: vm.coalesce(RAM, port=True), ("coalesce", (RAM,), {"port": True})),
}
NOTED = {
    "get": Call(1, "get", ("x86_64.Regs",), Regs(rip=7)),
    "put": Call(1, "put", (Irqchip(),)),
    "map_memory": Call(1, "map_memory", (RAM, True)),
    "set_irq": Call(1, "set_irq", (4, True)),
    "add_irqfd": Call(1, "add_irqfd", (4, True)),
    "remove_irqfd": Call(1, "remove_irqfd", (4,)),
    "add_ioeventfd": Call(1, "add_ioeventfd", (RAM, True, 5)),
    "remove_ioeventfd": Call(1, "remove_ioeventfd", (RAM, True, 5)),
    "coalesce": Call(1, "coalesce", (RAM, True)),
}


@pytest.mark.parametrize("name", ON_VM)
def test_a_vms_call_goes_through_as_it_is_and_is_noted(name):
    call, expected = ON_VM[name]
    recorder = Recorder(inner := Inner())
    vm = recorder.create_vm(deterministic=True)
    with GuestMemory([RAM]) as memory:
        (ram,) = memory
        found = call(vm, ram)
        passed = inner.calls[-1]
        assert inner.calls[0] == ("create_vm", (), {"deterministic": True})
        assert (passed[0], tuple(RAM if each is ram else each for each in passed[1]), passed[2]) == expected
    assert found == (Regs(rip=7) if name == "get" else None)
    assert recorder.trace.events == (Call(0, "create_vm", (True,), 1), NOTED[name])


@pytest.mark.parametrize("name", ON_VM)
def test_a_vms_call_that_fails_raises_the_same_error_and_is_noted_with_it(name):
    recorder = Recorder(Inner(failing=[name]))
    vm = recorder.create_vm()
    with GuestMemory([RAM]) as memory, pytest.raises(HypervisorError, match="told to fail") as error:
        ON_VM[name][0](vm, next(iter(memory)))
    noted = recorder.trace.events[-1]
    assert (noted.operation, noted.result, noted.failure) == (name, None, Failure.of(error.value))


def test_a_vcpus_calls_go_through_and_are_noted():
    recorder = Recorder(inner := Inner())
    vcpu = recorder.create_vm().create_vcpu(0, 9)
    assert vcpu.get(Regs) == Regs(rip=7)
    vcpu.put(Regs())
    vcpu.kick()
    vcpu.notify_interrupt()
    assert vcpu.run(Bus()) == Kicked()
    vcpu.close()
    names = ["create_vm", "create_vcpu", "get", "put", "kick", "notify_interrupt", "run", "close"]
    assert [name for name, _, _ in inner.calls] == names
    assert inner.calls[1] == ("create_vcpu", (0, 9), {})
    assert recorder.trace.events[1:] == (
        Call(1, "create_vcpu", (0, 9), 2),
        Call(2, "get", ("x86_64.Regs",), Regs(rip=7)),
        Call(2, "put", (Regs(),)),
        Call(2, "kick"),
        Call(2, "notify_interrupt"),
        RunBegan(2),
        RunEnded(2, Kicked()),
        Call(2, "close"),
    )


def test_facts_and_indices_are_those_of_the_hypervisor():
    recorder, _, vcpus = recorded([], [])
    assert recorder.facts is recorder.inner.facts
    assert [vcpu.index for vcpu in vcpus] == [0, 1]
    assert recorder.trace.facts == recorder.facts


def test_a_vcpus_call_that_fails_raises_the_same_error_and_is_noted_with_it():
    recorder = Recorder(Inner(failing=["get", "run"]))
    vcpu = recorder.create_vm().create_vcpu(0)
    for call in (lambda: vcpu.get(Msrs), lambda: vcpu.run(Bus())):
        with pytest.raises(HypervisorError, match="told to fail"):
            call()
    failures = [Failure.of(HypervisorError(name, 22, "told to fail")) for name in ("get", "run")]
    noted = (Call(2, "get", ("x86_64.Msrs",), None, failures[0]), RunBegan(2), RunEnded(2, None, failures[1]))
    assert recorder.trace.of(2) == noted


def test_a_state_without_a_portable_name_goes_through_unnoted():
    class Strange(VcpuState):
        pass

    recorder = Recorder(inner := Inner())
    vcpu = recorder.create_vm().create_vcpu(0)
    vcpu.put(strange := Strange())
    assert vcpu.get(Strange) == Regs(rip=7)
    assert inner.calls[-2:] == [("put", (strange,), {}), ("get", (Strange,), {})]
    assert recorder.trace.of(2) == ()


def test_what_could_not_be_made_is_noted_and_gets_no_number():
    recorder = Recorder(inner := Inner(failing=["create_vcpu"]))
    vm = recorder.create_vm()
    with pytest.raises(HypervisorError):
        vm.create_vcpu(0)
    inner.failing = ()
    vm.create_vcpu(0)
    assert [(call.result, bool(call.failure)) for call in recorder.trace.calls(1)] == [(None, True), (2, False)]


def test_a_kick_from_another_thread_ends_run():
    recorder, _, (vcpu,) = recorded([])
    threading.Timer(0.05, vcpu.kick).start()
    assert vcpu.run(Bus()) == Kicked()
    assert [type(event) for event in recorder.trace.of(2)] == [RunBegan, Call, RunEnded]


def test_a_run_that_is_refused_since_another_thread_is_in_it_is_noted_as_a_call():
    def again(bus):
        with pytest.raises(HypervisorError):
            vcpu.run(bus)

    class Refusing:
        index = 0

        def run(self, bus):
            if self.running:
                raise HypervisorError("KVM_RUN", 16, "vCPU 0")
            self.running = True
            again(bus)
            return Halted()

        running = False

    recorder, _, (vcpu,) = recorded([])
    vcpu.inner = Refusing()
    vcpu.run(Bus())
    refused = Failure.of(HypervisorError("KVM_RUN", 16, "vCPU 0"))
    assert recorder.trace.of(2) == (RunBegan(2), Call(2, "run", (), None, refused), RunEnded(2, Halted()))


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
