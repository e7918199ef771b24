"""What real hypervisors did, done again by the mock: devices see the same traffic, at the same times."""

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
from replayed import SECONDS, two_vcpus

import anyvisor
from anyvisor import MachineConfig
from anyvisor.acts import PortIn
from anyvisor.bus import Bus
from anyvisor.errors import GuestError, HypervisorError
from anyvisor.exits import Halted, Kicked
from anyvisor.memory import Region
from anyvisor.recording.recorder import Recorder
from anyvisor.recording.trace import Acted, ClockRead, RunBegan, RunEnded, TimerCalled
from anyvisor.x86_64.state import Regs
from anyvisor_mock.replay import ReplayHypervisor, open_replay
from elves import tiny_elf
from talking_guest import TALKING_GUEST

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
    seen = 1 + max(place for place, each in enumerate(before) if each[0] == "read")
    assert len([each for each in before[:seen] if each[0] == "tick"]) >= 3, "the guest has seen three ticks"
    assert after[:seen] == before[:seen]
    assert after == before[: len(after)], (
        "the host's clock may tick on until its machine is closed, the trace's may not"
    )


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
