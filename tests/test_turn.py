"""Whose turn it is: one thread's at a time, kicked out by any, and nobody's after the end."""

import threading

import pytest

from anyvisor.errors import HypervisorError
from anyvisor.exits import Halted, Kicked
from anyvisor.turn import Turn


def test_a_turn_that_is_taken_is_refused_to_others_and_free_again_afterwards():
    turn = Turn("vCPU 3")
    with turn.taken("run"):
        for refused in (lambda: turn.check("get Regs"), turn.close):
            with pytest.raises(HypervisorError, match=r"vCPU 3 is running; kick it and wait.*EBUSY"):
                refused()
    turn.check("get Regs")
    with pytest.raises(LookupError), turn.taken("run"):
        raise LookupError
    turn.check("get Regs")


def test_two_threads_cannot_run_at_once():
    turn, inside, done = Turn("vCPU 0"), threading.Event(), threading.Event()

    def step():
        inside.set()
        return Halted() if done.wait(5) else None

    thread = threading.Thread(target=turn.run, args=(step,))
    thread.start()
    assert inside.wait(5)
    with pytest.raises(HypervisorError, match=r"run \(vCPU 0 is running.*EBUSY"):
        turn.run(step)
    done.set()
    thread.join()


def test_after_close_there_is_no_turn():
    turn = Turn("the VM")
    assert [turn.close(), turn.close()] == [True, False]
    assert turn.is_closed
    for refused in (lambda: turn.check("get"), lambda: turn.run(Halted), lambda: turn.taken("run").__enter__()):
        with pytest.raises(HypervisorError, match=r"the VM is closed.*EBADF"):
            refused()
    turn.kick()


def test_run_steps_until_there_is_an_exit():
    steps = [None, None, Halted(), None]
    assert Turn("vCPU 0").run(lambda: steps.pop(0)) == Halted()
    assert steps == [None]


def test_a_kick_ends_the_run_or_the_next_one_before_its_first_step_and_does_not_count():
    turn, steps = Turn("vCPU 0"), []

    def step():
        steps.append(1)
        if len(steps) == 3:
            turn.kick()
            turn.kick()

    assert turn.run(step) == Kicked()
    assert len(steps) == 3
    turn.kick()
    assert turn.run(step) == Kicked()
    assert len(steps) == 3
    assert turn.run(Halted) == Halted()
