"""A replay finds whatever differs from the recording, and says where."""

import threading
import time

import attrs
import pytest
from recorded_guests import (
    ECHO_50_TIMES,
    Device,
    RealModeGuest,
    run_machine,
)
from replayed import two_vcpus, without

import anyvisor
from anyvisor import MachineConfig
from anyvisor.bus import Bus
from anyvisor.errors import AnyvisorError, ReplayError
from anyvisor.exits import Halted, Kicked
from anyvisor.recording.trace import Call, RunBegan, RunEnded, Trace
from anyvisor.x86_64.chips import Irqchip
from anyvisor.x86_64.state import Regs
from anyvisor_mock.replay import ReplayHypervisor

# -- a changed device --------------------------------------------------------------------------------------------------


def test_a_device_that_answers_otherwise_is_found(recorded, tmp_path):
    _, trace = recorded
    replay = ReplayHypervisor(trace)
    with pytest.raises(ReplayError, match=r"event \d+: IN from port 0x200, 2 byte\(s\): the answer was 0x\w+, 0x\w+ was recorded") as error:  # fmt: skip  # noqa: E501
        run_machine(replay, tmp_path / "kernel", device=Device(spoilt=1))
    assert not isinstance(error.value, OSError)  # no hypervisor has refused anything
    assert len(replay.divergences) == 1
    with pytest.raises(ReplayError, match=r"1 difference\(s\), the first: vCPU 0, event"):
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
    with pytest.raises(ReplayError, match=r"OUT to port 0x200.*the device raised LookupError.*no error was"):
        run_machine(ReplayHypervisor(trace), tmp_path / "kernel", device=Broken())


# -- a changed VMM -----------------------------------------------------------------------------------------------------


def test_another_state_is_found_by_its_field(recorded, tmp_path):
    _, trace = recorded
    plan = anyvisor.assemble(MachineConfig(kernel=tmp_path / "kernel", memory="32M"), trace.facts)
    (vcpu,) = plan.vcpus
    states = tuple(attrs.evolve(each, rip=0x5000) if isinstance(each, Regs) else each for each in vcpu.states)
    changed = attrs.evolve(plan, vcpus=(attrs.evolve(vcpu, states=states),))
    with pytest.raises(ReplayError, match=r"x86_64.Regs\) is not as recorded .*: rip is 0x5000, 0x1000000 was"):
        anyvisor.launch(changed, ReplayHypervisor(trace))


def test_another_order_is_found(recorded, tmp_path):
    _, trace = recorded
    plan = anyvisor.assemble(MachineConfig(kernel=tmp_path / "kernel", memory="32M"), trace.facts)
    (vcpu,) = plan.vcpus
    changed = attrs.evolve(plan, vcpus=(attrs.evolve(vcpu, states=vcpu.states[::-1]),))
    with pytest.raises(ReplayError, match=r"put\(x86_64.Msrs\) came, and put\(x86_64.Cpuid\) was recorded \(event \d+\)"):  # fmt: skip  # noqa: E501
        anyvisor.launch(changed, ReplayHypervisor(trace))


def test_another_order_of_vm_and_vcpus_is_found():
    vm = ReplayHypervisor(two_vcpus()).create_vm()
    _, second = vm.create_vcpu(0), vm.create_vcpu(1)
    with pytest.raises(ReplayError, match=r"vCPU 1: put.* \(event 4\) came before vCPU 0: put.* \(event 3\)"):
        second.put(Regs(rip=1))


def test_another_call_or_one_too_many_is_found():
    vm = ReplayHypervisor(two_vcpus()).create_vm()
    first, _ = vm.create_vcpu(0), vm.create_vcpu(1)
    with pytest.raises(ReplayError, match=r"vCPU 0: get\(x86_64.Regs\) came, and put\(x86_64.Regs\) was recorded"):
        first.get(Regs)
    first.put(Regs())
    with pytest.raises(ReplayError, match=r"vCPU 0: run\(\) came, and the trace has nothing more"):
        first.run(None)


def test_a_call_that_does_not_come_again_is_found():
    replay = ReplayHypervisor(two_vcpus())
    replay.create_vm().create_vcpu(0)
    with pytest.raises(ReplayError, match=r"VM 0: create_vcpu\(1, None\) \(event 2\) was recorded and has not"):
        replay.check_finished()


def test_a_line_that_was_never_set_is_found_and_one_that_was_may_come_any_time(kvm_recorder):
    before = kvm_recorder.create_vm()
    before.put(Irqchip())
    before.set_irq(4, True)
    vm = ReplayHypervisor(kvm_recorder.trace).create_vm()
    for _ in range(3):
        vm.set_irq(4, True)
    with pytest.raises(ReplayError, match=r"set_irq\(4, False\) came, and was never recorded"):
        vm.set_irq(4, False)


def test_a_vcpu_whose_turn_never_comes_is_told_who_is_missing(kvm_recorder):
    guest = RealModeGuest(kvm_recorder, ECHO_50_TIMES, Device(), vcpus=2)
    for vcpu in guest.vcpus:
        vcpu.run(guest.bus)
    guest.close()
    replay = ReplayHypervisor(kvm_recorder.trace, patience_seconds=0.2)
    again = RealModeGuest(replay, ECHO_50_TIMES, Device(), vcpus=2)
    with pytest.raises(ReplayError, match=r"vCPU 1 is at event \d+, and event \d+, of vCPU 0, comes first; nobody"):
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
    with pytest.raises(ReplayError, match="the replay has ended: the VM is closed"):
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
    with pytest.raises(ReplayError, match=r"vCPU 0: .* came, and the trace has nothing more that was asked of it"):
        run_machine(ReplayHypervisor(attrs.evolve(trace, events=trace.events[:setup])), tmp_path / "kernel")


def test_an_access_that_is_missing_is_found_by_what_follows(recorded, tmp_path):
    _, trace = recorded
    numbers = trace.runs(2)[0].numbers
    with pytest.raises(ReplayError, match="the answer was"):
        run_machine(ReplayHypervisor(without(trace, numbers[1])), tmp_path / "kernel")
