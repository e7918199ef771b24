"""Kicks: from everywhere, at any moment, lost never, and no signal ever astray."""

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from tiny_guests import OUT_THEN_SPIN, PORT, SMALLEST, SPIN, Guest

from anyvisor.errors import HypervisorError
from anyvisor.exits import Halted, Kicked
from anyvisor.facts import Capability
from anyvisor.x86_64.state import Regs
from anyvisor_kvm.hypervisor import KICK_SIGNAL, open_kvm
from rounds import rounds

pytestmark = pytest.mark.kvm


class Runner(threading.Thread):
    """Runs a vCPU once, elsewhere."""

    def __init__(self, guest):
        super().__init__(daemon=True)
        self.guest = guest
        self.found = None
        self.start()

    def run(self):
        self.found = self.guest.vcpu.run(self.guest.bus)

    def result(self):
        self.join(10)
        assert not self.is_alive(), "the vCPU did not leave the guest"
        return self.found


def spinning(guest):
    """A guest that is in the guest by the time this returns."""
    inside = threading.Event()
    made = guest(OUT_THEN_SPIN)
    made.ports.then = inside.set
    runner = Runner(made)
    assert inside.wait(10)
    return made, runner


def test_a_kick_gets_a_spinning_guest_out(guest):
    made, runner = spinning(guest)
    made.vcpu.kick()
    assert runner.result() == Kicked()


def test_a_kick_from_several_threads_is_one_kick(guest):
    made, runner = spinning(guest)
    kickers = [threading.Thread(target=made.vcpu.kick) for _ in range(8)]
    for each in kickers:
        each.start()
    assert runner.result() == Kicked()
    for each in kickers:
        each.join()
    made.vcpu.kick()
    made.memory.write(0, SMALLEST)
    made.vcpu.put(Regs())
    assert [made.vcpu.run(made.bus) for _ in range(2)] == [Kicked(), Halted()]


def test_a_kick_while_nobody_runs_makes_the_next_run_return_at_once(guest):
    made = guest(SMALLEST)
    made.vcpu.kick()
    made.vcpu.kick()
    assert made.vcpu.run(made.bus) == Kicked()
    assert (made.vcpu.get(Regs).rip, made.ports.writes) == (0, [])
    assert made.vcpu.run(made.bus) == Halted()


def test_a_kick_during_the_last_exit_is_not_lost(guest):
    made = guest(bytes([0xF4]))
    assert made.run() == Halted()
    made.vcpu.kick()
    assert made.vcpu.run(made.bus) == Kicked()


def test_a_device_may_kick_and_its_answer_still_arrives(guest):
    made = guest(bytes([0xE4, PORT, *SPIN]), answers=[0x42])  # in al, PORT; jmp .
    made.ports.then = made.vcpu.kick
    assert made.run() == Kicked()
    registers = made.vcpu.get(Regs)
    assert (registers.rax, registers.rip) == (0x42, 2)


RACE = """
import sys, threading
sys.path.insert(0, sys.argv[1])
from tiny_guests import SPIN, Guest
from anyvisor.exits import Kicked
from anyvisor_kvm.hypervisor import open_kvm

RUNS = int(sys.argv[2])
with open_kvm() as kvm:
    guest = Guest(kvm, SPIN)
    kicks = [0, 0]
    over = threading.Event()

    def kick(number):
        while not over.is_set():
            guest.vcpu.kick()
            kicks[number] += 1

    kickers = [threading.Thread(target=kick, args=(number,)) for number in range(len(kicks))]
    sys.setswitchinterval(1e-5)
    for each in kickers:
        each.start()
    results = {guest.vcpu.run(guest.bus) for _ in range(RUNS)}
    over.set()
    for each in kickers:
        each.join()
    guest.close()
assert results == {Kicked()}, results
assert sum(kicks) > 2 * RUNS, kicks
print("survived")
"""


def test_thousands_of_racing_kicks_never_hit_a_thread_that_has_left():
    """In a process of its own: a kick signal gone astray would end it."""
    command = [sys.executable, "-c", RACE, str(Path(__file__).parent), str(rounds(1000))]
    found = subprocess.run(command, capture_output=True, text=True, timeout=50, check=False)
    assert (found.returncode, found.stdout) == (0, "survived\n"), found.stderr


def test_no_kick_is_lost_between_threads_that_take_turns(guest):
    made = guest(SPIN)
    done = []

    def run():
        for _ in range(300):
            done.append(made.vcpu.run(made.bus))
            turn.release()

    turn = threading.Semaphore(0)
    runner = threading.Thread(target=run, daemon=True)
    runner.start()
    for _ in range(300):
        made.vcpu.kick()
        assert turn.acquire(timeout=10), "a kick was lost"
    runner.join(10)
    assert done == [Kicked()] * 300


@pytest.fixture
def every_handler():
    """A Python handler for every signal that may have one; gives the list of signals that reached them."""
    seen = []
    kept = {}
    for number in signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP, signal.SIGALRM, signal.SIGCHLD}:
        kept[number] = signal.signal(number, lambda number, _: seen.append(number))
    yield seen
    for number, handler in kept.items():
        signal.signal(number, handler)


def test_a_kick_runs_no_handler_and_leaves_no_signal_and_no_mask_behind(guest, every_handler):
    made = guest(OUT_THEN_SPIN)
    mask = {signal.SIGUSR2}
    old = signal.pthread_sigmask(signal.SIG_SETMASK, mask)
    try:
        made.ports.then = threading.Timer(0.05, made.vcpu.kick).start
        assert made.run() == Kicked()
        assert signal.sigpending() == set()
        assert signal.pthread_sigmask(signal.SIG_BLOCK, ()) == mask
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, old)
    assert every_handler == []


def test_a_thread_that_blocks_the_kick_signal_is_kicked_all_the_same(guest):
    made = guest(OUT_THEN_SPIN)
    old = signal.pthread_sigmask(signal.SIG_BLOCK, {KICK_SIGNAL})
    try:
        made.ports.then = threading.Timer(0.05, made.vcpu.kick).start
        assert made.run() == Kicked()
        assert KICK_SIGNAL in signal.pthread_sigmask(signal.SIG_BLOCK, ())
        assert signal.sigpending() == set()
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, old)


def test_a_signal_that_the_thread_blocks_stays_blocked_in_the_guest(guest):
    made = guest(OUT_THEN_SPIN)
    made.ports.then = made.vcpu.kick
    assert made.run() == Kicked()  # with the mask as it was
    seen = []
    old_handler = signal.signal(signal.SIGUSR1, lambda *_: seen.append("SIGUSR1"))
    old_mask = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGUSR1})
    me = threading.get_ident()
    try:
        made.ports.then = lambda: (
            threading.Timer(0.05, signal.pthread_kill, (me, signal.SIGUSR1)).start(),
            threading.Timer(0.3, lambda: (seen.append("kick"), made.vcpu.kick())).start(),
        )
        assert made.run() == Kicked()
        assert seen == ["kick"]
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, old_mask)
        signal.signal(signal.SIGUSR1, old_handler)
    assert seen == ["kick", "SIGUSR1"]


def test_any_other_signal_makes_run_return_and_its_handler_runs(guest):
    made = guest(OUT_THEN_SPIN)
    seen = []
    old = signal.signal(signal.SIGUSR1, lambda *_: seen.append("handled"))
    me = threading.get_ident()
    try:
        made.ports.then = threading.Timer(0.05, signal.pthread_kill, (me, signal.SIGUSR1)).start
        assert made.run() == Kicked()
    finally:
        signal.signal(signal.SIGUSR1, old)
    assert seen == ["handled"]


def test_the_error_of_a_signal_handler_comes_out_of_run_and_the_vcpu_goes_on(guest):
    made = guest(OUT_THEN_SPIN)
    made.ports.then = threading.Timer(0.05, os.kill, (os.getpid(), signal.SIGINT)).start
    with pytest.raises(KeyboardInterrupt):
        made.run()
    made.vcpu.kick()
    assert made.vcpu.run(made.bus) == Kicked()


def test_a_signal_handler_may_kick(guest):
    made = guest(OUT_THEN_SPIN)
    old = signal.signal(signal.SIGUSR1, lambda *_: made.vcpu.kick())
    try:
        made.ports.then = lambda: signal.raise_signal(signal.SIGUSR1)
        assert made.run() == Kicked()
    finally:
        signal.signal(signal.SIGUSR1, old)


def test_without_a_kick_signal_the_owner_interrupts_the_thread(usable_kvm):
    with open_kvm(kick_signal=None) as kvm:
        assert not kvm.facts.has(Capability.KICK)
        made = Guest(kvm, OUT_THEN_SPIN)
        made.vcpu.kick()
        assert made.run() == Kicked()
        old = signal.signal(signal.SIGUSR1, lambda *_: None)
        me = threading.get_ident()
        try:
            made.ports.then = threading.Timer(0.05, signal.pthread_kill, (me, signal.SIGUSR1)).start
            assert made.run() == Kicked()
        finally:
            signal.signal(signal.SIGUSR1, old)
        made.close()


def test_another_kick_signal_may_be_chosen(usable_kvm):
    with open_kvm(kick_signal=signal.SIGRTMIN + 3) as kvm:
        made = Guest(kvm, OUT_THEN_SPIN)
        made.ports.then = threading.Timer(0.05, made.vcpu.kick).start
        assert made.run() == Kicked()
        made.close()


def test_a_vcpu_that_runs_cannot_be_run_again_or_closed(guest):
    made, runner = spinning(guest)
    with pytest.raises(HypervisorError, match=r"KVM_RUN \(vCPU 0 is in run already; kick it and wait\): EBUSY"):
        made.vcpu.run(made.bus)
    with pytest.raises(HypervisorError, match="EBUSY"):
        made.vm.close()
    made.vcpu.kick()
    assert runner.result() == Kicked()


def test_a_device_cannot_run_or_close_the_vcpu_it_serves(guest):
    made = guest(SMALLEST)
    for attempt in (lambda: made.vcpu.run(made.bus), made.vcpu.close):
        made.ports.then = attempt
        with pytest.raises(HypervisorError, match="EBUSY"):
            made.run()
    made.ports.then = lambda: None
    assert made.run() == Halted()


def test_after_close_a_kick_does_nothing_and_a_run_says_so(guest):
    made = guest(SPIN)
    made.vcpu.close()
    made.vcpu.close()
    made.vcpu.kick()
    with pytest.raises(HypervisorError, match=r"KVM_RUN \(vCPU 0 is closed\): EBADF"):
        made.vcpu.run(made.bus)


def test_a_kick_takes_little_time(guest):
    made, runner = spinning(guest)
    start = time.perf_counter()
    made.vcpu.kick()
    runner.result()
    assert time.perf_counter() - start < 20, "no more than a busy machine takes"
