"""Registers that KVM keeps in the run page: read without an ioctl, and never out of date."""

import threading

import attrs
import pytest
from tiny_guests import OUT_THEN_SPIN, PORT, SMALLEST, SPIN

from anyvisor.errors import Unsupported
from anyvisor.exits import Halted, Kicked
from anyvisor.x86_64.cpuid import Cpuid
from anyvisor.x86_64.state import Activity, MpState, Regs, Sregs, VcpuEvents
from anyvisor_kvm import fds

pytestmark = pytest.mark.kvm

GET_REGS, GET_SREGS, GET_EVENTS = 0x8090AE81, 0x8138AE83, 0x8040AE9F
ADD_ONE = bytes([0x66, 0x40, *SMALLEST])  # inc eax; out PORT, al; hlt


@pytest.fixture
def calls(monkeypatch):
    """The requests of all ioctls but KVM_RUN."""
    real, seen = fds._libc_ioctl, []

    def count(fd, request, argument):
        seen.append(request)
        return real(fd, request, argument)

    monkeypatch.setattr(fds, "_libc_ioctl", count)
    return seen


@pytest.fixture
def synced(guest, calls):
    made = guest(ADD_ONE)
    made.vcpu.keep_in_sync(Regs, Sregs, VcpuEvents)
    assert made.vcpu.run(made.bus) == Halted()
    calls.clear()
    return made


def test_reading_after_a_run_takes_no_ioctl_and_is_right(synced, calls):
    found = [synced.vcpu.get(kind) for kind in (Regs, Sregs, VcpuEvents)]
    assert calls == []
    synced.vcpu.keep_in_sync()
    assert [synced.vcpu.get(kind) for kind in (Regs, Sregs, VcpuEvents)] == found
    assert set(calls) == {GET_REGS, GET_SREGS, GET_EVENTS}
    assert (found[0].rax, found[0].rip) == (1, len(ADD_ONE))


def test_registers_put_after_a_run_are_those_that_are_read_and_run(synced):
    for start in (41, 1 << 31):
        synced.vcpu.put(Regs(rax=start))
        assert synced.vcpu.get(Regs) == Regs(rax=start)
        assert synced.vcpu.run(synced.bus) == Halted()
        assert synced.vcpu.get(Regs).rax == start + 1
    assert synced.ports.values == [1, 42, 1]


def test_a_put_of_another_state_makes_all_be_asked_for_again(synced, calls):
    sregs = attrs.evolve(synced.vcpu.get(Sregs), cr2=0x1234)
    synced.vcpu.put(sregs)
    assert synced.vcpu.get(Sregs) == sregs
    assert GET_SREGS in calls


def test_a_put_of_registers_drops_a_pending_exception_for_readers_too(synced):
    pending = VcpuEvents(exception_pending=True, exception_vector=6)
    synced.vcpu.put(pending)
    synced.vcpu.kick()
    assert synced.vcpu.run(synced.bus) == Kicked()
    assert synced.vcpu.get(VcpuEvents) == pending
    synced.vcpu.put(Regs(rip=0))
    assert not synced.vcpu.get(VcpuEvents).exception_pending


def test_asking_for_the_multiprocessing_state_makes_all_be_asked_for_again(synced, calls):
    synced.vcpu.get(MpState)
    calls.clear()
    synced.vcpu.get(Regs)
    assert calls == [GET_REGS]


def test_after_a_kick_the_registers_are_those_of_the_kick(guest):
    made = guest(bytes([0xB0, 0x42, 0xE6, PORT, *SPIN]))  # mov al, 0x42; out PORT, al; jmp .
    made.vcpu.keep_in_sync(Regs)
    made.ports.then = made.vcpu.kick
    assert made.run() == Kicked()
    assert (made.vcpu.get(Regs).rax, made.vcpu.get(Regs).rip) == (0x42, 4)


def test_a_vcpu_that_still_sleeps_keeps_what_was_put(guest):
    made = guest(OUT_THEN_SPIN, irqchip=True, vcpus=2)
    sleeper = made.vcpus[1]
    sleeper.keep_in_sync(Regs)
    sleeper.put(Regs(rax=0x77, rip=0))
    threading.Timer(0.05, sleeper.kick).start()
    assert sleeper.run(made.bus) == Kicked()
    assert sleeper.get(Regs) == Regs(rax=0x77)
    sleeper.put(MpState(Activity.RUNNABLE))
    made.ports.then = sleeper.kick
    assert sleeper.run(made.bus) == Kicked()
    assert made.ports.values == [0x77]


def test_a_device_that_raises_leaves_nothing_out_of_date(synced):
    synced.vcpu.put(Regs(rax=9))

    def refuse():
        raise RuntimeError("device on fire")

    synced.ports.then = refuse
    with pytest.raises(RuntimeError, match="on fire"):
        synced.vcpu.run(synced.bus)
    assert synced.vcpu.get(Regs).rax == 10


def test_what_kvm_cannot_keep_is_unsupported(guest):
    made = guest()
    with pytest.raises(Unsupported, match="cannot keep Cpuid in the run page"):
        made.vcpu.keep_in_sync(Cpuid)
    made.vcpu._synced._available = 0
    with pytest.raises(Unsupported, match="cannot keep Regs"):
        made.vcpu.keep_in_sync(Regs)
