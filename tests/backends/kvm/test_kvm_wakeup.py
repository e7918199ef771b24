"""Signals that Python handles, while the main thread runs a vCPU: none comes too early to end the run."""

import errno
import os
import signal
import threading

import pytest
from tiny_guests import SMALLEST, SPIN, held

import anyvisor_kvm.vcpu
import anyvisor_kvm.wakeup
from anyvisor.errors import HypervisorError
from anyvisor.exits import Halted, Kicked
from anyvisor_kvm.hypervisor import KICK_SIGNAL

pytestmark = pytest.mark.kvm
LATE_SECONDS = 5


@pytest.fixture
def handled():
    """How often SIGUSR1 was handled in Python."""
    times = []
    before = signal.signal(signal.SIGUSR1, lambda *_: times.append(1))
    yield times
    signal.signal(signal.SIGUSR1, before)


@pytest.fixture
def just_before_kvm_run(monkeypatch):
    """Call something when Python has looked for signals for the last time before KVM_RUN."""

    def before(call):
        real, calls = anyvisor_kvm.vcpu.ioctl, [call]

        def ioctl(*arguments):
            if calls:
                calls.pop()()
            return real(*arguments)

        monkeypatch.setattr(anyvisor_kvm.vcpu, "ioctl", ioctl)

    return before


def test_a_signal_that_is_handled_just_before_kvm_run_ends_the_run(guest, handled, just_before_kvm_run):
    just_before_kvm_run(lambda: signal.raise_signal(signal.SIGUSR1))
    made, late = guest(SPIN), []
    rescue = threading.Timer(LATE_SECONDS, lambda: (late.append("too late"), made.vcpu.kick()))
    rescue.start()
    assert made.vcpu.run(made.bus) == Kicked()
    rescue.cancel()
    assert (handled, late) == ([1], [])


def test_a_signal_of_a_run_does_not_end_the_next_one(guest, handled, just_before_kvm_run):
    just_before_kvm_run(lambda: [signal.raise_signal(signal.SIGUSR1) for _ in range(5)])
    made = guest(SMALLEST)
    assert made.vcpu.run(made.bus) == Kicked()
    assert signal.sigpending() == set()
    assert KICK_SIGNAL not in signal.pthread_sigmask(signal.SIG_BLOCK, ())
    assert made.vcpu.run(made.bus) == Halted()


def test_who_had_the_wakeup_descriptor_has_it_again_and_hears_of_what_came(guest, handled, just_before_kvm_run):
    just_before_kvm_run(lambda: signal.raise_signal(signal.SIGUSR1))
    read, write = os.pipe2(os.O_NONBLOCK)
    before = signal.set_wakeup_fd(write)
    try:
        made = guest(SPIN)
        made.vcpu.run(made.bus)
        assert os.read(read, 100) == bytes([signal.SIGUSR1])
    finally:
        assert signal.set_wakeup_fd(before) == write
        os.close(read)
        os.close(write)


def test_a_run_in_the_main_thread_leaves_nothing_open(guest):
    made = guest(SMALLEST)
    before = held()
    made.vcpu.run(made.bus)
    assert held() == before


def test_a_process_without_descriptors_gets_a_typed_error_and_can_run_later(guest, monkeypatch):
    def refuse(flags):
        raise OSError(errno.EMFILE, "too many")

    made = guest(SMALLEST)
    with monkeypatch.context() as patch:
        patch.setattr(anyvisor_kvm.wakeup.os, "pipe2", refuse)
        with pytest.raises(HypervisorError) as refused:
            made.vcpu.run(made.bus)
    assert (refused.value.operation, refused.value.errno) == ("pipe2", errno.EMFILE)
    assert made.vcpu.run(made.bus) == Halted()
