"""What real hypervisors did, done again by the mock: devices see the same traffic, and whatever changed is found."""

import os
import threading
import time

import attrs
import pytest
from recorded_guests import (
    ALL_SIZES,
    ECHO_50_TIMES,
    OTHER_PORT,
    PORTS,
    PRINT_LINE,
    WAIT_FOR_INTERRUPT,
    Device,
    RealModeGuest,
    kernel,
    run_machine,
)

import anyvisor
from anyvisor import MachineConfig
from anyvisor.acts import PortIn
from anyvisor.bus import Bus
from anyvisor.errors import AnyvisorError, GuestError, HypervisorError, HypervisorUnavailable
from anyvisor.exits import Halted, Kicked
from anyvisor.memory import Region
from anyvisor.recording.recorder import Recorder
from anyvisor.recording.trace import Acted, Call, ClockRead, RunBegan, RunEnded, TimerCalled, Trace
from anyvisor.x86_64.chips import Irqchip
from anyvisor.x86_64.generic import FACTS
from anyvisor.x86_64.state import Regs
from anyvisor_mock.replay import ReplayHypervisor, open_replay
from elves import tiny_elf
from talking_guest import TALKING_GUEST

SECONDS = 20


@pytest.fixture
def opened():
    """Opens a real hypervisor by name; without KVM a skip that says so, in CI a failure."""

    def opened(name):
        try:
            return anyvisor.open_hypervisor(name)
        except HypervisorUnavailable as error:
            if os.environ.get("CI") == "true":
                pytest.fail(f"CI must have {name}: {error}")
            pytest.skip(f"to run this: {error}")

    return opened


@pytest.fixture(params=["kvm", "unicorn"])
def recorder(request, opened, tmp_path):
    """A recorder around a real hypervisor, that writes to `it.trace`."""
    with Recorder(opened(request.param), tmp_path / "it.trace") as recorder:
        yield recorder


@pytest.fixture
def kvm_recorder(opened, tmp_path):
    with Recorder(opened("kvm"), tmp_path / "it.trace") as recorder:
        yield recorder


@pytest.fixture
def recorded(recorder, tmp_path):
    """A run of the guest that makes accesses of all sizes: what its device saw, and the trace, from its file."""
    device, _ = run_machine(recorder, kernel(tmp_path, ALL_SIZES))
    recorder.close()
    return device, Trace.load(tmp_path / "it.trace")


def without(trace, number):
    """The trace without one event."""
    return attrs.evolve(trace, events=trace.events[:number] + trace.events[number + 1 :])


def two_vcpus():
    return Trace(
        FACTS,
        (
            Call(0, "create_vm", (False,), 1),
            Call(1, "create_vcpu", (0, None), 2),
            Call(1, "create_vcpu", (1, None), 3),
            Call(2, "put", (Regs(),)),
            Call(3, "put", (Regs(rip=1),)),
        ),
    )


# -- the same again ----------------------------------------------------------------------------------------------------


def test_a_real_run_is_replayed_with_identical_device_traffic(recorded, tmp_path):
    before, trace = recorded
    with open_replay(tmp_path / "it.trace") as replay:
        after, machine = run_machine(replay, tmp_path / "kernel")
        replay.check_finished()
    assert after.traffic == before.traffic
    assert machine.outcome.reason == "reset"
    assert replay.facts == trace.facts


def test_the_recorded_traffic_is_of_all_kinds_and_sizes_and_its_answers_change(recorded):
    device, trace = recorded
    kinds = {(kind, size) for kind, _, size, _ in device.traffic}
    sizes = (1, 2, 4, 8) if trace.facts.backend == "kvm" else (1, 2, 4)  # Unicorn makes two accesses of one of 8 bytes
    assert kinds == {(kind, size) for kind in ("read", "write") for size in sizes}
    values = [value for _, _, _, value in device.traffic]
    assert len(values) > 25 and len(set(values)) > len(values) // 2
    acts = [act for act in trace.runs(2)[0].acts if "port=100," not in str(act)]
    assert [(act.size_bytes, act.value) for act in acts] == [(size, value) for _, _, size, value in device.traffic]


def test_a_replay_can_be_recorded_and_the_recording_is_the_same(recorded, tmp_path):
    _, trace = recorded
    with Recorder(ReplayHypervisor(trace)) as again:
        run_machine(again, tmp_path / "kernel")
    lenient = ("kick", "close", "notify_interrupt")
    same = [[event for event in each.events if getattr(event, "operation", "") not in lenient] for each in (trace, again.trace)]  # fmt: skip  # noqa: E501
    assert same[0] == same[1]


def test_a_machine_that_prints_a_line_prints_it_again(recorder, tmp_path):
    def print_line(hypervisor):
        _, machine = run_machine(hypervisor, kernel(tmp_path, PRINT_LINE))
        return machine.console.read_output(0)[0]

    assert print_line(recorder) == b"recorded and replayed\r\n"
    with ReplayHypervisor(recorder.trace) as replay:
        assert print_line(replay) == b"recorded and replayed\r\n"
        replay.check_finished()


def test_a_guest_that_was_stopped_by_its_host_waits_to_be_stopped_again(recorder, tmp_path):
    config = MachineConfig(kernel=tiny_elf(tmp_path / "kernel", TALKING_GUEST), memory="32M")

    def talk(hypervisor):
        with anyvisor.boot(config, hypervisor) as machine:
            machine.console.expect("guest# ", timeout=SECONDS)
            machine.pause()
            registers = machine.vcpus[0].get(Regs)
            machine.resume()
            return machine.stop().reason, registers

    before = talk(recorder)
    with ReplayHypervisor(recorder.trace) as replay:
        assert talk(replay) == before
        replay.check_finished()


def test_two_vcpus_at_one_device_are_replayed_in_the_order_in_which_they_came(kvm_recorder, tmp_path):
    def run(hypervisor):
        guest = RealModeGuest(hypervisor, ECHO_50_TIMES, device := Device(), vcpus=2)
        try:
            assert guest.run_all() == [Halted(), Halted()]
        finally:
            guest.close()
        return device.traffic

    before = run(kvm_recorder)
    kvm_recorder.close()
    for _ in range(3):
        with open_replay(tmp_path / "it.trace") as replay:
            assert run(replay) == before
            replay.check_finished()
    assert len(before) == 200


def test_interrupts_in_kvm_and_kicks_by_devices_are_replayed(kvm_recorder):
    def run(hypervisor):
        def raise_line(value):
            guest.vm.set_irq(4, True)
            guest.vm.set_irq(4, False)
            if value == 0x99:
                guest.vcpus[0].kick()

        guest = RealModeGuest(hypervisor, WAIT_FOR_INTERRUPT, device := Device(then=raise_line), irqchip=True)
        try:
            assert guest.vcpus[0].run(guest.bus) == Kicked()
            return device.traffic, guest.vcpus[0].get(Regs)
        finally:
            guest.close()

    traffic, registers = run(kvm_recorder)
    assert ("write", OTHER_PORT, 1, 0x99) in traffic
    with ReplayHypervisor(kvm_recorder.trace) as replay:
        assert run(replay) == (traffic, registers)
        replay.check_finished()


def test_a_device_that_raises_raises_again_and_it_is_its_own_error(recorder, tmp_path):
    class Broken(Device):
        def write(self, offset, size_bytes, value):
            super().write(offset, size_bytes, value)
            if size_bytes == 2:
                raise LookupError("a broken device")

    def run(hypervisor):
        device = Broken()
        with pytest.raises(GuestError, match=r"LookupError.*a broken device"):
            run_machine(hypervisor, kernel(tmp_path, ALL_SIZES), device=device)
        return device.traffic

    before = run(recorder)
    with ReplayHypervisor(recorder.trace) as replay:
        assert run(replay) == before
        replay.check_finished()


def test_an_error_of_the_hypervisor_comes_again_with_its_class_and_words(kvm_recorder):
    def refused(hypervisor):
        vm = hypervisor.create_vm()
        vm.create_vcpu(0)
        with pytest.raises(HypervisorError) as error:
            vm.create_vcpu(0)
        vm.close()
        return error.value.operation, error.value.errno, str(error.value)

    before = refused(kvm_recorder)
    assert before[:2] == ("KVM_CREATE_VCPU", 17)
    assert refused(ReplayHypervisor(kvm_recorder.trace)) == before


# -- a changed device --------------------------------------------------------------------------------------------------


def test_a_device_that_answers_otherwise_is_found(recorded, tmp_path):
    _, trace = recorded
    replay = ReplayHypervisor(trace)
    with pytest.raises(HypervisorError, match=r"event \d+: IN from port 0x200, 2 byte\(s\): the answer was 0x\w+, 0x\w+ was recorded") as error:  # fmt: skip  # noqa: E501
        run_machine(replay, tmp_path / "kernel", device=Device(spoilt=1))
    assert error.value.operation == "replay"
    assert len(replay.divergences) == 1
    with pytest.raises(HypervisorError, match=r"1 difference\(s\), the first: vCPU 0, event"):
        replay.check_finished()


def test_a_replay_that_is_not_strict_goes_on_and_collects_what_differs(recorded, tmp_path):
    before, trace = recorded
    replay = ReplayHypervisor(trace, strict=False)
    device, _ = run_machine(replay, tmp_path / "kernel", device=Device(spoilt=2))
    assert len(replay.divergences) == 1
    assert "IN from port 0x200, 4 byte(s)" in replay.divergences[0]
    different = [pair for pair in zip(device.traffic, before.traffic, strict=True) if pair[0] != pair[1]]
    assert len(different) == 1


def test_a_device_that_raises_or_does_so_no_more_is_found(recorded, tmp_path):
    class Broken(Device):
        def write(self, offset, size_bytes, value):
            raise LookupError("new")

    _, trace = recorded
    with pytest.raises(HypervisorError, match=r"OUT to port 0x200.*the device raised LookupError.*no error was"):
        run_machine(ReplayHypervisor(trace), tmp_path / "kernel", device=Broken())


# -- a changed VMM -----------------------------------------------------------------------------------------------------


def test_another_state_is_found_by_its_field(recorded, tmp_path):
    _, trace = recorded
    plan = anyvisor.assemble(MachineConfig(kernel=tmp_path / "kernel", memory="32M"), trace.facts)
    (vcpu,) = plan.vcpus
    states = tuple(attrs.evolve(each, rip=0x5000) if isinstance(each, Regs) else each for each in vcpu.states)
    changed = attrs.evolve(plan, vcpus=(attrs.evolve(vcpu, states=states),))
    with pytest.raises(HypervisorError, match=r"x86_64.Regs\) is not as recorded .*: rip is 0x5000, 0x1000000 was"):
        anyvisor.launch(changed, ReplayHypervisor(trace))


def test_another_order_is_found(recorded, tmp_path):
    _, trace = recorded
    plan = anyvisor.assemble(MachineConfig(kernel=tmp_path / "kernel", memory="32M"), trace.facts)
    (vcpu,) = plan.vcpus
    changed = attrs.evolve(plan, vcpus=(attrs.evolve(vcpu, states=vcpu.states[::-1]),))
    with pytest.raises(HypervisorError, match=r"put\(x86_64.Msrs\) came, and put\(x86_64.Cpuid\) was recorded \(event \d+\)"):  # fmt: skip  # noqa: E501
        anyvisor.launch(changed, ReplayHypervisor(trace))


def test_another_order_of_vm_and_vcpus_is_found():
    vm = ReplayHypervisor(two_vcpus()).create_vm()
    _, second = vm.create_vcpu(0), vm.create_vcpu(1)
    with pytest.raises(HypervisorError, match=r"vCPU 1: put.* \(event 4\) came before vCPU 0: put.* \(event 3\)"):
        second.put(Regs(rip=1))


def test_another_call_or_one_too_many_is_found():
    vm = ReplayHypervisor(two_vcpus()).create_vm()
    first, _ = vm.create_vcpu(0), vm.create_vcpu(1)
    with pytest.raises(HypervisorError, match=r"vCPU 0: get\(x86_64.Regs\) came, and put\(x86_64.Regs\) was recorded"):
        first.get(Regs)
    first.put(Regs())
    with pytest.raises(HypervisorError, match=r"vCPU 0: run\(\) came, and the trace has nothing more"):
        first.run(None)


def test_a_call_that_does_not_come_again_is_found():
    replay = ReplayHypervisor(two_vcpus())
    replay.create_vm().create_vcpu(0)
    with pytest.raises(HypervisorError, match=r"VM 0: create_vcpu\(1, None\) \(event 2\) was recorded and has not"):
        replay.check_finished()


def test_a_line_that_was_never_set_is_found_and_one_that_was_may_come_any_time(kvm_recorder):
    before = kvm_recorder.create_vm()
    before.put(Irqchip())
    before.set_irq(4, True)
    vm = ReplayHypervisor(kvm_recorder.trace).create_vm()
    for _ in range(3):
        vm.set_irq(4, True)
    with pytest.raises(HypervisorError, match=r"set_irq\(4, False\) came, and was never recorded"):
        vm.set_irq(4, False)


def test_a_vcpu_whose_turn_never_comes_is_told_who_is_missing(kvm_recorder):
    guest = RealModeGuest(kvm_recorder, ECHO_50_TIMES, Device(), vcpus=2)
    for vcpu in guest.vcpus:
        vcpu.run(guest.bus)
    guest.close()
    replay = ReplayHypervisor(kvm_recorder.trace, patience_seconds=0.2)
    again = RealModeGuest(replay, ECHO_50_TIMES, Device(), vcpus=2)
    with pytest.raises(HypervisorError, match=r"vCPU 1 is at event \d+, and event \d+, of vCPU 0, comes first; nobody"):
        again.vcpus[1].run(again.bus)
    again.close()


def test_when_one_vcpu_diverges_the_others_do_not_wait_for_it(kvm_recorder):
    guest = RealModeGuest(kvm_recorder, ECHO_50_TIMES, Device(), vcpus=2)
    assert guest.run_all() == [Halted(), Halted()]
    guest.close()
    again = RealModeGuest(ReplayHypervisor(kvm_recorder.trace), ECHO_50_TIMES, Device(spoilt=20), vcpus=2)
    found = again.run_all()
    again.close()
    assert sorted("the replay has ended" in str(each) for each in found) == [False, True]
    assert all("the answer was" in str(each) for each in found)


def test_a_vcpu_waits_for_one_that_is_in_run_however_long_that_takes(kvm_recorder):
    guest = RealModeGuest(kvm_recorder, ECHO_50_TIMES, before := Device(), vcpus=2)
    assert guest.run_all() == [Halted(), Halted()]
    guest.close()

    def slow(value):
        if naps:
            time.sleep(naps.pop())

    naps = [0.5]

    device = Device(then=slow)
    replay = ReplayHypervisor(kvm_recorder.trace, patience_seconds=0.1)
    again = RealModeGuest(replay, ECHO_50_TIMES, device, vcpus=2)
    assert again.run_all() == [Halted(), Halted()]
    assert device.traffic == before.traffic
    again.close()


def test_closing_the_vm_ends_the_wait_for_a_kick():
    kicked = (RunBegan(2), Call(2, "kick"), RunEnded(2, Kicked()))
    trace = attrs.evolve(two_vcpus(), events=(*two_vcpus().events[:2], *kicked))
    vm = ReplayHypervisor(trace).create_vm()
    vcpu = vm.create_vcpu(0)
    threading.Timer(0.1, vm.close).start()
    with pytest.raises(HypervisorError, match="the replay has ended: the VM is closed"):
        vcpu.run(Bus())


def test_a_kick_that_nobody_made_comes_by_itself_and_one_before_run_counts():
    kicked = (Call(2, "kick"), RunBegan(2), RunEnded(2, Kicked()), RunBegan(2), RunEnded(2, Kicked()))
    trace = attrs.evolve(two_vcpus(), events=(*two_vcpus().events[:2], *kicked))
    vcpu = ReplayHypervisor(trace).create_vm().create_vcpu(0)
    vcpu.kick()
    assert [vcpu.run(Bus()), vcpu.run(Bus())] == [Kicked(), Kicked()]


# -- a trace that lacks something --------------------------------------------------------------------------------------


def test_a_trace_that_was_cut_ends_with_an_error_that_says_where(recorded, tmp_path):
    before, _ = recorded
    text = (tmp_path / "it.trace").read_text()
    cut = Trace.from_json(text[: text.index('"write"') + 3])
    device = Device()
    with pytest.raises(AnyvisorError, match=r"vCPU 0: the trace ends here, after \d+ acts of a run that went on"):
        run_machine(ReplayHypervisor(cut), tmp_path / "kernel", device=device)
    assert device.traffic == before.traffic[: len(device.traffic)]
    assert len(device.traffic) > 10


def test_a_trace_that_ends_before_the_guest_ran_says_so(recorded, tmp_path):
    _, trace = recorded
    setup = [number for number, event in enumerate(trace.events) if event.subject == 2][3]
    with pytest.raises(HypervisorError, match=r"vCPU 0: .* came, and the trace has nothing more that was asked of it"):
        run_machine(ReplayHypervisor(attrs.evolve(trace, events=trace.events[:setup])), tmp_path / "kernel")


def test_an_access_that_is_missing_is_found_by_what_follows(recorded, tmp_path):
    _, trace = recorded
    numbers = trace.runs(2)[0].numbers
    with pytest.raises(HypervisorError, match="the answer was"):
        run_machine(ReplayHypervisor(without(trace, numbers[1])), tmp_path / "kernel")


# -- time --------------------------------------------------------------------------------------------------------------


class Ticker(Device):
    """A device whose answers are the time, and that sets a timer which changes them."""

    def __init__(self, clock):
        super().__init__()
        self.clock = clock
        self.ticks = 0
        self.timer = clock.timer(self.tick)
        self.timer.set(clock.now())

    def tick(self):
        self.ticks += 1
        self.traffic.append(("tick", self.clock.now()))
        self.timer.set(self.clock.now() + 1_000_000)

    def read(self, offset, size_bytes):
        answer = (self.ticks << 4 | self.clock.now() >> 3 & 0xF | int(self.clock.wall_seconds()) & 1) & 0xFF
        self.traffic.append(("read", offset, answer))
        return answer


SPIN_UNTIL_TICKS = bytes([0xBA, 0x00, 0x02, 0x00, 0x00,         # mov edx, 0x200
                          0xEC, 0x3C, 0x30, 0x72, 0xFB,         # wait: in al, dx; cmp al, 0x30; jb wait   3 ticks
                          0xB0, 0xFE, 0xE6, 0x64, 0xEB, 0xFE])  # mov al, 0xfe; out 0x64, al; jmp .        # fmt: skip


@pytest.mark.parametrize("deterministic", [False, True])
def test_time_and_timers_are_replayed_where_they_were(opened, tmp_path, deterministic):
    config = MachineConfig(kernel=kernel(tmp_path, SPIN_UNTIL_TICKS), memory="32M", deterministic=deterministic)

    def run(hypervisor):
        plan = anyvisor.assemble(config, hypervisor.facts)
        with anyvisor.launch(plan, hypervisor) as machine:
            machine.bus.add_ports(PORTS, device := Ticker(machine.vm.clock))
            machine.start()
            assert machine.wait(SECONDS).reason == "reset"
        return device.traffic

    with Recorder(opened("unicorn")) as recorder:
        before = run(recorder)
    called = [event for event in recorder.trace.events if isinstance(event, TimerCalled)]
    assert len(called) >= 3
    with ReplayHypervisor(recorder.trace) as replay:
        after = run(replay)
        replay.check_finished()
    ticks = len([each for each in before if each[0] == "tick"])
    assert ticks - len([each for each in after if each[0] == "tick"]) <= 1, "one more may come while the machine ends"
    assert [each for each in after if each[0] == "read"] == [each for each in before if each[0] == "read"]
    assert after == before[: len(after)]


def test_time_stands_still_between_the_guests_acts_and_goes_on_with_them():
    reads = [ClockRead(1, "now", 10), ClockRead(1, "now", 20), ClockRead(1, "wall", 1.5)]
    acts = [RunBegan(2), ClockRead(1, "now", 30), ClockRead(1, "now", 40), Acted(2, PortIn(1, 1, 255))]
    last = [ClockRead(1, "now", 50), RunEnded(2, Halted()), ClockRead(1, "now", 60)]
    trace = attrs.evolve(two_vcpus(), events=(*two_vcpus().events[:2], *reads, *acts, *last))
    vm = ReplayHypervisor(trace).create_vm()
    clock, vcpu = vm.clock, vm.create_vcpu(0)
    assert [clock.now() for _ in range(2)] == [10, 20]
    assert [clock.wall_seconds() for _ in range(2)] == [1.5, 1.5]

    class Looks(Device):
        def read(self, offset, size_bytes):
            self.times = [clock.now() for _ in range(4)]
            return 255

    bus = Bus()
    bus.add_ports(Region(1, 1), device := Looks())
    assert vcpu.run(bus) == Halted()
    assert device.times == [30, 40, 40, 40]
    assert [clock.now() for _ in range(2)] == [60, 60], "what was read before the end is gone"
