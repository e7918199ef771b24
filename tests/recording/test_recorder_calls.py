"""A recorder passes every call on, and notes it with what came of it."""

import threading

import pytest
from recorders import recorded

from anyvisor.bus import Bus
from anyvisor.errors import HypervisorError
from anyvisor.exits import Halted, Kicked
from anyvisor.memory import GuestMemory, Region
from anyvisor.recording.failure import Failure
from anyvisor.recording.recorder import Recorder
from anyvisor.recording.trace import (
    Call,
    RunBegan,
    RunEnded,
)
from anyvisor.states import VcpuState
from anyvisor.x86_64.chips import Irqchip
from anyvisor.x86_64.generic import FACTS
from anyvisor.x86_64.state import Msrs, Regs


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
