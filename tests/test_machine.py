import threading
import time

import attrs
import pytest

from anyvisor import hookimpl
from anyvisor.errors import ExpectError, GuestError, HypervisorError, PluginError, Unsupported
from anyvisor.exits import FailEntry, Halted, InternalError, Shutdown, SystemEvent, UnknownExit
from anyvisor.facts import Capability
from anyvisor.launch import launch
from anyvisor.machine import Machine
from anyvisor.memory import MIB, Region
from anyvisor.outcome import Outcome, Phase
from anyvisor.plan import Blob, BootPlan, DeviceSpec, FileSlice, VcpuPlan
from anyvisor.plugins import load_plugins
from anyvisor.states import Change
from anyvisor.x86_64.chips import Irqchip, Pit
from anyvisor.x86_64.generic import FACTS
from anyvisor.x86_64.state import Regs, Sregs
from anyvisor_mock import FailCall, MockHypervisor

RAM = (Region(0, 2 * MIB, "RAM"),)


def mock(*scripts, facts=FACTS, **more):
    """The mock with a script for each vCPU; without one a vCPU spins until it is kicked."""
    return MockHypervisor(facts, script=scripts, **more)


def plan(vcpus=1, states=(), **more):
    return BootPlan("x86_64", RAM, vcpus=tuple(VcpuPlan(index, tuple(states)) for index in range(vcpus)), **more)


def machine(*scripts, vcpus=None, **more):
    return launch(plan(vcpus or max(len(scripts), 1), **more), mock(*scripts))


def test_launch_keeps_the_documented_phases():
    hypervisor = mock()
    launch(plan(2, vm_states_before=(Irqchip(),), vm_states_after=(Pit(),)), hypervisor).close()
    calls = [call.kind for call in hypervisor.calls if call.kind != "kick"]
    assert calls == ["create_vm", "map_memory", "put Irqchip", "create_vcpu", "create_vcpu", "put Pit", "close"]


def test_a_deterministic_plan_gets_a_vm_that_counts_or_is_refused():
    hypervisor = mock()
    launch(plan(deterministic=True), hypervisor).close()
    launch(plan(), hypervisor).close()
    assert [call.arguments for call in hypervisor.calls.of("create_vm")] == [(True,), (False,)]
    facts = attrs.evolve(FACTS, capabilities=FACTS.capabilities - {Capability.DETERMINISTIC})
    with pytest.raises(Unsupported, match="the plan is deterministic"):
        launch(plan(deterministic=True), mock(facts=facts))


def test_launch_puts_states_in_the_plans_order_and_evolves_changes():
    hypervisor = mock()
    made = launch(plan(states=(Regs(rip=0x1234), Change(Sregs, cr3=0x9000))), hypervisor)
    (vcpu,) = made.vcpus
    assert hypervisor.calls.of("get", "put").kinds == ["put Regs", "get Sregs", "put Sregs"]
    assert vcpu.get(Regs).rip == 0x1234
    assert vcpu.get(Sregs).cr3 == 0x9000
    assert vcpu.get(Sregs).apic_base.bsp  # what the change does not name stays as the hypervisor made it
    made.close()


def test_launch_loads_bytes_and_file_parts(tmp_path):
    file = tmp_path / "kernel"
    file.write_bytes(b"..kernel..")
    with machine(blobs=(Blob("a", 0x1000, b"abc", size_bytes=16), Blob("k", 0x2000, FileSlice(file, 2, 6)))) as made:
        assert made.memory.read(0x1000, 5) == b"abc\0\0"
        assert made.memory.read(0x2000, 8) == b"kernel\0\0"


def test_a_file_that_shrank_since_planning_is_told(tmp_path):
    file = tmp_path / "kernel"
    file.write_bytes(bytes(100))
    blob = Blob("kernel", 0x1000, FileSlice.whole(file))
    file.write_bytes(bytes(40))
    hypervisor = mock()
    with pytest.raises(Exception, match="has the file changed since the plan was made") as caught:
        launch(plan(blobs=(blob,)), hypervisor)
    assert str(file) in str(caught.value)
    assert not hypervisor.vms


@pytest.mark.parametrize(
    "failing", [("map_memory", 1), ("put Irqchip", 1), ("create_vcpu", 1), ("create_vcpu", 2), ("put Pit", 1)]
)
def test_a_failing_launch_gives_everything_back(failing):
    hypervisor = mock(faults=[FailCall(*failing)])
    with pytest.raises(HypervisorError, match=failing[0]):
        launch(plan(2, vm_states_before=(Irqchip(),), vm_states_after=(Pit(),)), hypervisor)
    assert hypervisor.calls.kinds[-1] == "close"
    assert hypervisor.vms[0].closed and hypervisor.open_things == []


def test_a_plan_that_the_hypervisor_cannot_run_is_refused_before_anything_is_made():
    for facts, message in [
        (attrs.evolve(FACTS, architecture="aarch64"), "plan is for x86_64"),
        (attrs.evolve(FACTS, max_vcpus=1), "at most 1"),
        (attrs.evolve(FACTS, states=("x86_64.Regs",)), "does not know x86_64.Irqchip"),
    ]:
        hypervisor = mock(facts=facts)
        with pytest.raises(Unsupported, match=message):
            launch(plan(2, vm_states_before=(Irqchip(),)), hypervisor)
        assert not hypervisor.vms


def test_more_ram_than_the_host_has_is_refused_unless_overcommitted():
    huge = BootPlan("x86_64", (Region(0, 1 << 42, "RAM"),), vcpus=(VcpuPlan(0, ()),))
    with pytest.raises(Exception, match="the guest wants 4T of RAM, this host has"):
        launch(huge, mock())


def test_a_device_of_an_unknown_kind_is_refused_and_nothing_leaks():
    hypervisor = mock()
    with pytest.raises(PluginError, match="device x: no installed plugin makes devices of kind 'flux capacitor'"):
        launch(plan(devices=(DeviceSpec("flux capacitor", "x"),)), hypervisor)
    assert hypervisor.vms[0].closed


@pytest.mark.parametrize("kind", ["shutdown", "reset"])
def test_a_system_event_ends_the_machine_with_its_name(kind):
    with machine([SystemEvent(kind)], []) as made:
        assert made.start().wait(5) == Outcome(kind)
        assert made.phase is Phase.STOPPED


def test_the_machine_is_halted_when_every_vcpu_has_halted():
    with machine([Halted()], [Halted()]) as made:
        assert made.start().wait(5).reason == "halted"


@pytest.mark.parametrize(
    "exit_",
    [Shutdown(), FailEntry(0x80000021), InternalError(1, (2, 3)), UnknownExit(99, "?"), SystemEvent("crash")],
)
def test_a_death_is_a_guest_error_with_the_exit_and_the_registers(exit_):
    with machine([], [exit_]) as made:
        with pytest.raises(GuestError) as caught:
            made.start().wait(5)
        assert (caught.value.exit, caught.value.vcpu) == (exit_, 1)
        assert exit_.describe() in str(caught.value)
        assert "rip  0x000000000000fff0" in str(caught.value)
        assert "cr0" in str(caught.value)
        assert made.outcome.reason == "died"


def test_an_exception_from_a_device_or_backend_reaches_who_waits():
    def device_bug(bus):
        raise ZeroDivisionError("bug")

    def refused(bus):
        raise HypervisorError("KVM_RUN", 14)

    with machine([device_bug]) as made, pytest.raises(GuestError, match="ZeroDivisionError: bug"):
        made.start().wait(5)
    with machine([refused]) as made, pytest.raises(HypervisorError, match="KVM_RUN: EFAULT"):
        made.start().wait(5)


def test_stop_ends_spinning_vcpus_promptly_from_any_thread():
    with machine(vcpus=4) as made:
        made.start()
        stopper = threading.Thread(target=made.stop)
        stopper.start()
        assert made.wait(5).reason == "stopped"
        stopper.join(5)
        assert not stopper.is_alive()
        assert made.stop().reason == "stopped"
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("vcpu")]


def test_the_first_reason_to_stop_counts():
    with machine(vcpus=2) as made:
        made.start()
        made.request_stop("reset")
        assert made.stop().reason == "reset"


def test_a_vcpu_may_stop_its_own_machine():
    holder = []
    with machine([lambda bus: holder[0].stop()], []) as made:
        holder.append(made)
        assert made.start().wait(5).reason == "stopped"


def test_wait_times_out_with_what_the_machine_is_doing():
    with machine(vcpus=1) as made, pytest.raises(TimeoutError, match=r"still running after 0\.05 seconds"):
        made.start().wait(0.05)


def test_pause_stands_every_vcpu_still_and_resume_lets_them_go_on():
    count = [0, 0]

    def work(index):
        def step(bus):
            count[index] += 1
            time.sleep(0.0005)

        return step

    with machine([work(0)] * 100_000, [work(1)] * 100_000) as made:
        made.start()
        for _ in range(20):
            made.pause()
            frozen = list(count)
            time.sleep(0.005)
            assert count == frozen
            made.resume()
            deadline = time.monotonic() + 5
            while count == frozen and time.monotonic() < deadline:
                time.sleep(0.001)
            assert count != frozen
        assert made.stop().reason == "stopped"


def test_a_paused_machine_can_be_stopped():
    with machine(vcpus=2) as made:
        made.start()
        made.pause()
        assert made.phase is Phase.PAUSED
        assert made.stop().reason == "stopped"


def test_pause_and_resume_of_an_ended_machine_do_nothing():
    with machine([Halted()]) as made:
        made.start().wait(5)
        made.pause()
        made.resume()
        assert made.phase is Phase.STOPPED


def test_a_machine_starts_once():
    with machine([Halted()]) as made:
        made.start().wait(5)
        with pytest.raises(GuestError, match="a machine starts once"):
            made.start()


def test_close_is_idempotent_and_closes_what_it_owns_once():
    hypervisor = mock()
    made = launch(plan(), hypervisor)
    made.start()
    made.close()
    made.close()
    assert hypervisor.vms[0].closed
    assert not made.memory.regions


def test_onlookers_are_told_of_start_and_end():
    seen = []

    class Onlooker:
        @hookimpl
        def anyvisor_machine_started(self, machine):
            seen.append(("started", type(machine)))

        @hookimpl
        def anyvisor_machine_stopped(self, machine, outcome):
            seen.append(("stopped", outcome.reason))

    plugins = load_plugins([Onlooker()], installed=False)
    with launch(plan(), mock([Halted()]), plugins) as made:
        made.start().wait(5)
    assert seen == [("started", Machine), ("stopped", "halted")]


def test_an_onlooker_that_fails_at_the_end_is_told_to_who_waits():
    class Onlooker:
        @hookimpl
        def anyvisor_machine_stopped(self):
            raise KeyError("gone")

    plugins = load_plugins([Onlooker()], installed=False)
    with launch(plan(), mock([Halted()]), plugins) as made:
        with pytest.raises(PluginError, match="plugin Onlooker failed in anyvisor_machine_stopped: KeyError"):
            made.start().wait(5)
        assert made.phase is Phase.STOPPED


def test_a_machine_without_a_console_says_so():
    with machine() as made, pytest.raises(Unsupported, match="no console"):
        _ = made.console


def test_a_stop_asked_for_while_it_starts_is_obeyed():
    class Onlooker:
        @hookimpl
        def anyvisor_machine_started(self, machine):
            machine.request_stop("stopped")

    plugins = load_plugins([Onlooker()], installed=False)
    hypervisor = mock()
    with launch(plan(), hypervisor, plugins) as made:
        assert made.start().wait(5).reason == "stopped"
    assert not hypervisor.calls.of("run")


def test_a_stop_asked_for_before_the_start_is_obeyed():
    hypervisor = mock()
    with launch(plan(), hypervisor) as made:
        made.request_stop("stopped")
        assert made.start().wait(5).reason == "stopped"
    assert not hypervisor.calls.of("run")


def test_an_onlooker_that_fails_at_the_start_leaves_a_stopped_machine():
    class Onlooker:
        @hookimpl
        def anyvisor_machine_started(self):
            raise KeyError("gone")

    plugins = load_plugins([Onlooker()], installed=False)
    with launch(plan(), mock(), plugins) as made:
        with pytest.raises(PluginError, match="Onlooker"):
            made.start()
        assert made.phase is Phase.STOPPED


def test_two_threads_cannot_both_start_it():
    with machine() as made:
        results = []

        def start():
            try:
                made.start()
                results.append("started")
            except GuestError:
                results.append("refused")

        starters = [threading.Thread(target=start) for _ in range(8)]
        for starter in starters:
            starter.start()
        for starter in starters:
            starter.join(5)
        assert sorted(results) == ["refused"] * 7 + ["started"]
        assert len([thread for thread in threading.enumerate() if thread.name == "vcpu0"]) == 1


@pytest.mark.parametrize("error", [SystemExit(3), KeyboardInterrupt(), pytest.fail.Exception("a device's test failed")])
def test_an_end_of_the_program_raised_in_a_device_is_a_death(error):
    def device(bus):
        raise error

    with machine([device]) as made:
        with pytest.raises(GuestError, match=type(error).__name__):
            made.start().wait(5)
        assert made.outcome.reason == "died"


class Deaf(MockHypervisor):
    """Its vCPUs do not answer kicks until they are told to."""

    def __init__(self):
        self.entered, self.released = threading.Event(), threading.Event()
        super().__init__(FACTS, script=[self.guest])

    def guest(self, bus):
        self.entered.set()
        self.released.wait(20)


def test_a_vcpu_that_does_not_answer_keeps_all_of_its_machine_until_it_does(monkeypatch):
    monkeypatch.setattr("anyvisor.machine.STOP_SECONDS", 0.1)
    hypervisor = Deaf()
    made = launch(plan(), hypervisor)
    made.start()
    assert hypervisor.entered.wait(10)
    with pytest.raises(GuestError, match=r"did not stop within 0\.2 seconds: 1 vCPU"):
        made.stop(0.2)
    monkeypatch.setattr(made, "stop", lambda: Machine.stop(made, 0.2))
    with pytest.raises(GuestError, match="did not stop"):
        made.close()
    assert made.memory.regions, "RAM that a guest may still write must not be given back"
    assert not hypervisor.vms[0].closed
    hypervisor.released.set()
    made.close()
    assert not made.memory.regions
    assert hypervisor.vms[0].closed


@pytest.mark.parametrize("nth", range(1, 5))
def test_a_kick_that_fails_is_told_and_the_machine_ends_all_the_same(nth):
    """Ending kicks each vCPU twice, so one kick of four may fail."""
    hypervisor = mock(faults=[FailCall("kick", nth=nth)])
    with pytest.raises(HypervisorError, match="kick"), launch(plan(2), hypervisor) as made:
        made.start()
    assert hypervisor.open_things == [] and not made.memory.regions
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("vcpu")]


def test_a_vcpu_that_cannot_be_kicked_does_not_keep_the_others_from_being_kicked():
    hypervisor = mock([Halted()], faults=[FailCall("kick", nth=1), FailCall("kick", nth=3)])
    with pytest.raises(HypervisorError, match="kick"), launch(plan(2), hypervisor) as made:
        made.start()
    assert [call.subject[-1] for call in hypervisor.calls.of("kick").failed] == ["0", "0"]
    assert hypervisor.open_things == []


def test_a_vm_that_cannot_be_closed_keeps_its_memory():
    hypervisor = mock()
    made = launch(plan(), hypervisor)

    def busy():
        raise HypervisorError("KVM_RUN", 16, "vCPU 0")

    hypervisor.vms[0].close = busy
    with pytest.raises(HypervisorError, match="EBUSY"):
        made.close()
    assert made.memory.regions
    made.memory.close()


def test_a_pause_that_fails_lets_the_machine_go_on():
    hypervisor = Deaf()
    with launch(plan(), hypervisor) as made:
        made.start()
        assert hypervisor.entered.wait(10)
        with pytest.raises(GuestError, match="did not pause"):
            made.pause(0.1)
        assert made.phase is Phase.RUNNING
        hypervisor.released.set()


def test_a_vcpu_cannot_pause_or_wait_for_its_own_machine():
    errors, holder = [], []

    def device(bus):
        for call in (holder[0].pause, holder[0].wait):
            try:
                call()
            except GuestError as error:
                errors.append(str(error))
        holder[0].request_stop("stopped")

    with machine([device]) as made:
        holder.append(made)
        assert made.start().wait(5).reason == "stopped"
    assert ["of its own vCPUs" in error for error in errors] == [True, True]


def test_a_machine_that_was_not_started_cannot_be_waited_for():
    with machine() as made, pytest.raises(GuestError, match="call start first"):
        made.wait()


@pytest.mark.parametrize("timeout", [1e300, float("inf")])
def test_any_time_limit_is_understood(timeout):
    with machine([Halted()]) as made:
        assert made.start().wait(timeout).reason == "halted"


def test_a_time_limit_that_is_no_time_is_refused():
    with machine() as made:
        made.start()
        for timeout in (float("nan"), -1):
            with pytest.raises(ValueError, match="seconds"):
                made.wait(timeout)


def test_a_thread_that_cannot_be_started_ends_the_machine(monkeypatch):
    start = threading.Thread.start

    def limited(self):
        if self.name == "vcpu1":
            raise RuntimeError("can't start new thread")
        start(self)

    monkeypatch.setattr(threading.Thread, "start", limited)
    with machine([Halted()], []) as made:
        with pytest.raises(GuestError, match="thread for vCPU 1"):
            made.start()
        made.wait(5)
        assert made.phase is Phase.STOPPED


def test_a_device_factory_that_fails_is_named_and_nothing_leaks():
    class Mine:
        @hookimpl
        def anyvisor_device_factories(self):
            return {"broken": "operator:truediv"}

    hypervisor = mock()
    with pytest.raises(PluginError, match="device x: plugin Mine cannot make it: TypeError"):
        launch(plan(devices=(DeviceSpec("broken", "x"),)), hypervisor, load_plugins([Mine()], installed=False))
    assert hypervisor.vms[0].closed


def test_a_console_says_what_the_machine_died_of():
    serial = DeviceSpec("serial", "serial0", ports=(Region(0x3F8, 8),), gsi=4)
    with machine([Shutdown()], devices=(serial,)) as made:
        made.start()
        with pytest.raises(ExpectError, match=r"the machine stopped: died: vCPU 0.*triple fault"):
            made.console.expect("login", timeout=10)
