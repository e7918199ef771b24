"""What the mock writes down, and what it spoils when it is told to."""

import errno
import signal
import subprocess
import sys
import threading

import pytest

from anyvisor.acts import PortOut
from anyvisor.bus import Bus
from anyvisor.errors import HypervisorError
from anyvisor.exits import FailEntry, Kicked, Shutdown
from anyvisor.memory import GuestMemory, Region
from anyvisor.x86_64.chips import Irqchip
from anyvisor.x86_64.state import MpState, Regs, Sregs
from anyvisor_mock import Call, FailCall, InterruptStorm, MockHypervisor, VcpuDies
from anyvisor_mock.calls import UNDERWAY


def test_every_call_is_a_value_with_what_came_of_it():
    with MockHypervisor(script=[Shutdown()]) as mock, GuestMemory([Region(0, 4096, "RAM")]) as memory:
        vm = mock.create_vm()
        vm.map_memory(memory.regions[0], readonly=True)
        vcpu = vm.create_vcpu(0, hardware_id=3)
        vcpu.put(Regs(rip=7))
        vcpu.get(Regs)
        vcpu.run(Bus())
        vm.close()
    assert list(mock.calls) == [
        Call("hypervisor", "create_vm", (False,), "vm 0"),
        Call("vm 0", "map_memory", (Region(0, 4096, "RAM"), True), None),
        Call("vm 0", "create_vcpu", (0, 3), "vm 0 / vcpu 0"),
        Call("vm 0 / vcpu 0", "put", (Regs(rip=7),), None),
        Call("vm 0 / vcpu 0", "get", (Regs,), Regs(rip=7)),
        Call("vm 0 / vcpu 0", "run", (), Shutdown()),
        Call("vm 0", "close", (), None),
        Call("hypervisor", "close", (), None),
    ]


def test_calls_are_found_by_kind_and_by_what_they_were_made_on():
    with MockHypervisor() as mock:
        vm = mock.create_vm()
        first, second = vm.create_vcpu(0), vm.create_vcpu(1)
        for vcpu in (first, second):
            vcpu.put(vcpu.get(Sregs))
        second.put(Regs())
        assert mock.calls.of("put").kinds == ["put Sregs", "put Sregs", "put Regs"]
        assert mock.calls.of("put Sregs", "get").on("vm 0 / vcpu 1").kinds == ["get Sregs", "put Sregs"]
        assert mock.calls.of("put Xsave").kinds == []
        with pytest.raises(HypervisorError):
            vm.create_vcpu(1)
        assert [(call.kind, call.error.errno) for call in mock.calls.failed] == [("create_vcpu", errno.EEXIST)]
        assert repr(mock.calls[0]) == "<hypervisor: create_vm(False) -> 'vm 0'>"
        assert "raised HypervisorError" in repr(mock.calls[-1])


def test_a_call_that_has_not_returned_is_there_already():
    with MockHypervisor() as mock:
        vcpu = mock.create_vm().create_vcpu(0)
        entered = threading.Event()
        vcpu.play([lambda bus: entered.set()])
        thread = threading.Thread(target=vcpu.run, args=(Bus(),))
        thread.start()
        assert entered.wait(10)
        (underway,) = mock.calls.of("run")
        assert underway.result is UNDERWAY
        vcpu.kick()
        thread.join(10)
        assert [call.result for call in mock.calls.of("run", "kick")] == [Kicked(), None]


def test_calls_from_many_threads_are_all_there():
    with MockHypervisor() as mock:
        vm = mock.create_vm()
        vcpus = [vm.create_vcpu(index) for index in range(4)]
        threads = [threading.Thread(target=lambda v=v: [v.get(Regs) for _ in range(200)]) for v in vcpus]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(10)
        assert len(mock.calls.of("get Regs")) == 800
        assert {call.result for call in mock.calls.of("get Regs")} == {vcpus[0].get(Regs)}


# -- faults ------------------------------------------------------------------------------------------------------------


def test_the_nth_call_of_a_kind_fails_once_and_does_nothing():
    with MockHypervisor(faults=[FailCall("put Regs", nth=2, errno=errno.ENOSPC)]) as mock:
        vcpu = mock.create_vm().create_vcpu(0)
        vcpu.put(Regs(rip=1))
        vcpu.put(vcpu.get(Sregs))
        with pytest.raises(
            HypervisorError, match=r"put Regs \(vm 0 / vcpu 0: told to fail, number 2 of put Regs\)"
        ) as caught:
            vcpu.put(Regs(rip=2))
        assert caught.value.errno == errno.ENOSPC
        assert vcpu.get(Regs).rip == 1
        vcpu.put(Regs(rip=3))
        assert vcpu.get(Regs).rip == 3


def test_the_nth_call_of_a_method_or_of_all_fails():
    with MockHypervisor(faults=[FailCall("create_vcpu", nth=2), FailCall(nth=5)]) as mock:
        vm = mock.create_vm()
        vm.create_vcpu(0)
        with pytest.raises(HypervisorError, match="create_vcpu"):
            vm.create_vcpu(1)
        vm.create_vcpu(1)
        with pytest.raises(HypervisorError, match=r"put Irqchip \(vm 0: told to fail, number 5 of all calls"):
            vm.put(Irqchip())


def test_a_close_that_fails_has_closed_all_the_same():
    mock = MockHypervisor(faults=[FailCall("close", nth=1), FailCall("close", nth=3)])
    vm = mock.create_vm()
    vm.create_vcpu(0)
    with pytest.raises(HypervisorError, match="close"):
        vm.close()
    assert mock.open_things == []
    vm.close()
    mock.create_vm()
    with pytest.raises(HypervisorError, match="close"):
        mock.close()
    assert mock.open_things == [] and mock.closed


def test_in_a_storm_each_run_plays_one_act():
    script = [PortOut(0x80, 1, number) for number in range(3)]
    with MockHypervisor(script=[*script, Shutdown()], faults=[InterruptStorm(runs=2)]) as mock:
        vcpu, bus = mock.create_vm().create_vcpu(0), Bus()
        assert [vcpu.run(bus), vcpu.run(bus)] == [Kicked(), Kicked()]
        assert bus.unclaimed[("port", 0x80)] == 2
        assert vcpu.run(bus) == Shutdown()


def test_a_storm_ends_waits_too():
    with MockHypervisor(faults=[InterruptStorm(runs=3)]) as mock:
        vcpu = mock.create_vm().create_vcpu(0)
        assert [vcpu.run(Bus()) for _ in range(3)] == [Kicked()] * 3


def test_a_vcpu_that_has_died_stays_dead():
    script = [PortOut(0x80, 1, number) for number in range(5)]
    death = FailEntry(0x21)
    with MockHypervisor(script={1: script}, faults=[VcpuDies(vcpu=1, after=3, exit=death)]) as mock:
        vm, bus = mock.create_vm(), Bus()
        vcpus = [vm.create_vcpu(index) for index in range(2)]
        assert [vcpus[1].run(bus), vcpus[1].run(bus)] == [death, death]
        assert bus.unclaimed[("port", 0x80)] == 3
        vcpus[0].kick()
        assert vcpus[0].run(bus) == Kicked()


# -- the package -------------------------------------------------------------------------------------------------------


def test_importing_the_entry_module_is_light_and_its_names_are_there_when_asked_for():
    code = (
        "import sys, anyvisor_mock; light = 'anyvisor_mock.hypervisor' not in sys.modules;"
        "from anyvisor_mock import MockHypervisor, FailCall, InterruptStorm, VcpuDies, Call;"
        "print(light, 'anyvisor_mock.hypervisor' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["True", "True"]
    import anyvisor_mock

    with pytest.raises(AttributeError, match="no attribute 'Mockery'"):
        _ = anyvisor_mock.Mockery


def test_the_registry_opens_it_by_its_name():
    from anyvisor.backends import open_hypervisor

    with open_hypervisor("mock") as mock:
        assert mock.facts.backend == "mock"


def test_arguments_stand_in_the_order_of_the_signature_however_they_were_given():
    """`port=True` and `match=1` look the same as values; by their places they do not."""
    doorbell = Region(0x300, 4)
    with MockHypervisor() as mock:
        vm = mock.create_vm()
        for options in ({"port": True}, {"match": 1}, {"match": 1, "port": True}):
            with pytest.raises(HypervisorError):
                vm.add_ioeventfd(-1, doorbell, **options)
        wanted = [(-1, doorbell, True, None), (-1, doorbell, False, 1), (-1, doorbell, True, 1)]
        assert [call.arguments for call in mock.calls.of("add_ioeventfd")] == wanted
        vm.create_vcpu(index=0)
        assert mock.calls.of("create_vcpu")[0].arguments == (0, None)


def test_a_signal_handler_may_kick_on_top_of_any_call():
    """A lock around the calls would hang here: the handler would wait for what the code below it holds."""
    with MockHypervisor(faults=[FailCall("put", nth=1 << 40)]) as mock:
        vcpu = mock.create_vm().create_vcpu(0)
        before = signal.signal(signal.SIGALRM, lambda *_: vcpu.kick())
        try:
            signal.setitimer(signal.ITIMER_REAL, 0.0002, 0.0002)
            for _ in range(2000):
                vcpu.get(MpState)
                assert mock.calls[-1] and len(mock.calls)
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
            signal.signal(signal.SIGALRM, before)
        assert mock.calls.of("kick")
        assert UNDERWAY not in [call.result for call in mock.calls]


def test_a_vcpu_dies_after_acts_and_not_after_functions():
    def guest(bus):
        yield lambda bus: None
        yield PortOut(0x80, 1, 1)
        yield PortOut(0x80, 1, 2)

    with MockHypervisor(script=guest, faults=[VcpuDies(after=1)]) as mock:
        bus, vcpu = Bus(), mock.create_vm().create_vcpu(0)
        assert vcpu.run(bus) == Shutdown()
        assert bus.unclaimed == {("port", 0x80): 1}
