"""Two threads at one vCPU, and its end: errors that say so, and never a crash."""

import threading
import time

import pytest
from emulated_guests import HALT, spinning

from anyvisor.errors import HypervisorError
from anyvisor.exits import Halted, Kicked
from anyvisor.x86_64.state import Regs, Sregs

SMALLEST = f"out %al, $PORT; {HALT}"


def test_a_second_run_at_the_same_time_is_refused(any_guest):
    made, runner = spinning(any_guest)
    for _ in range(3):
        with pytest.raises(HypervisorError, match=r"run \(vCPU 0 is running.*EBUSY"):
            made.vcpu.run(made.bus)
    made.vcpu.kick()
    assert runner.result() == Kicked()


@pytest.mark.parametrize("use", [lambda vcpu: vcpu.get(Regs), lambda vcpu: vcpu.put(Regs())], ids=["get", "put"])
def test_state_is_not_touched_while_another_thread_runs(any_guest, use):
    made, runner = spinning(any_guest)
    with pytest.raises(HypervisorError, match="EBUSY"):
        use(made.vcpu)
    made.vcpu.kick()
    assert runner.result() == Kicked()


@pytest.mark.parametrize("what", ["vcpu", "vm"])
def test_a_close_while_a_thread_is_in_run_is_refused_and_harmless(any_guest, what):
    made, runner = spinning(any_guest)
    with pytest.raises(HypervisorError, match="EBUSY"):
        getattr(made, what).close()
    assert runner.is_alive()
    made.vcpu.kick()
    assert runner.result() == Kicked()
    getattr(made, what).close()
    getattr(made, what).close()


def test_after_close_kicks_do_nothing_and_all_else_says_so(any_guest):
    made = any_guest(SMALLEST)
    assert made.run() == Halted()
    made.vcpu.close()
    made.vcpu.close()
    for _ in range(100):
        made.vcpu.kick()
        made.vcpu.notify_interrupt()
    for use in (
        lambda: made.vcpu.run(made.bus),
        lambda: made.vcpu.get(Regs),
        lambda: made.vcpu.get(Sregs),
        lambda: made.vcpu.put(Regs()),
    ):
        with pytest.raises(HypervisorError, match=r"vCPU 0 is closed.*EBADF"):
            use()


def test_kicks_that_race_the_close_do_no_harm(guest):
    for _ in range(20):
        made, runner = spinning(guest)
        over = threading.Event()

        def storm(vcpu=made.vcpu, over=over):
            while not over.is_set():
                vcpu.kick()
                vcpu.notify_interrupt()

        kickers = [threading.Thread(target=storm, daemon=True) for _ in range(2)]
        for each in kickers:
            each.start()
        assert runner.result() == Kicked()
        made.close()
        time.sleep(0.002)
        over.set()
        for each in kickers:
            each.join()
