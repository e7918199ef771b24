"""Kicks at random moments: none is missed, none ends two runs, and the guest neither loses nor repeats a step.

Some facts about the races. A kick may find its vCPU on the way into the guest, in it, in a device, on the way out, or
nowhere near it. The dangerous moment is just before the guest is entered: who only interrupts a guest that runs
interrupts nobody there, and the guest then spins for ever. The moments here are drawn by a seed, and the first of them
lies as near to the beginning of `run` as can be.

Where guests are interpreted in Python, who kicks must first be let in by who runs, and Python lets the latter go on for
5 ms (`sys.setswitchinterval`): far behind the moments that were drawn. So a race has a shorter interval.
"""

from __future__ import annotations

import random
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest

from anyvisor.exits import Exit, Halted, Kicked
from anyvisor.facts import Capability
from anyvisor.testing.bench import DATA, Bench
from anyvisor.testing.contracts.contract import Contract, MakeBench
from anyvisor.testing.requirements import needs
from anyvisor.testing.watch import PATIENCE_SECONDS, Underway

KICKS = 400
LONGEST_SECONDS = 300e-6
"""The longest time from one run's end to the next kick: a few steps of a guest on a slow processor."""
NOW_AND_THEN_SECONDS = 50e-6
"""How often a guest halts that halts all the time."""
SWITCH_SECONDS = 50e-6
"""How long a thread of Python's keeps the others waiting during a race."""
SEED = 1982


@needs(Capability.KICK)
class KickRacesContract(Contract):
    """Kicks from a thread that knows nothing of where the vCPU is."""

    def test_every_kick_of_a_spinning_guest_ends_one_run(self, bench: MakeBench) -> None:
        """Each of some hundred kicks, at random moments, makes one `run` return `Kicked`, and nothing else does."""
        made = bench()
        made.enter(made.guests.SPIN)
        assert _race(made) == [Kicked()] * KICKS

    def test_a_guest_that_counts_loses_no_step(self, bench: MakeBench) -> None:
        """However often it is kicked, a guest that stores 1, 2, 3... and sends them out leaves out and repeats none."""
        made = bench()
        made.enter(made.guests_of("running").COUNT)
        assert _race(made) == [Kicked()] * KICKS
        sent = made.ports.values
        assert sent == list(range(1, len(sent) + 1)), "a kick must not lose or repeat an OUT"
        stored = int.from_bytes(made.memory.read(DATA, 4), "little")
        assert stored - len(sent) in (0, 1), "a kick must not lose or repeat a store"

    def test_answers_reach_a_guest_that_is_kicked(self, bench: MakeBench) -> None:
        """However often it is kicked, a guest that sends on what it reads sends on each answer, once, in order."""
        made = bench()
        made.ports.then = lambda: made.ports.answers.append(len(made.ports.reads) % 251)
        made.enter(made.guests_of("running").ECHO_FOREVER)
        assert _race(made) == [Kicked()] * KICKS
        read, sent = len(made.ports.reads), made.others.values
        assert read - len(sent) in (0, 1), "each answer is sent on before the next one is asked for"
        assert sent == [number % 251 for number in range(1, len(sent) + 1)], (
            "a kick must not lose or repeat the answer of an IN"
        )

    def test_a_kick_that_meets_another_exit_hides_neither(self, bench: MakeBench) -> None:
        """Of a guest that halts all the time each HLT makes one `Halted`, and each kick one `Kicked`.

        A kick lasts until a `run` has returned `Kicked`. An exit that comes first is returned first.
        """
        made = bench()
        made.ports.then = lambda: time.sleep(NOW_AND_THEN_SECONDS)
        made.enter(made.guests_of("running").OUT_AND_HALT)
        exits = _race(made)
        assert set(exits) == {Halted(), Kicked()}
        assert exits.count(Kicked()) == KICKS
        halts, sent = exits.count(Halted()), len(made.ports.writes)
        assert sent - halts in (0, 1), "each HLT must make one `Halted`, kicked or not"
        assert made.run() == Halted()
        assert len(made.ports.writes) == halts + 1, "a kick must not swallow the HLT that it met"

    @pytest.mark.skipif(not hasattr(signal, "pthread_kill"), reason="needs signals that can be sent to a thread")
    def test_a_signal_handler_may_kick(self, bench: MakeBench) -> None:
        """While the main thread is in `run`, a Python signal handler runs soon, and its kick ends that `run`."""
        made = bench()
        made.enter(made.guests.OUT_42_THEN_SPIN)
        with _signalled(made, made.vcpu.kick):
            assert made.vcpu.run(made.bus) == Kicked()

    @pytest.mark.skipif(not hasattr(signal, "pthread_kill"), reason="needs signals that can be sent to a thread")
    def test_what_a_signal_handler_raises_comes_out_of_run(self, bench: MakeBench) -> None:
        """While the main thread is in `run`, Ctrl-C works: what a signal handler raises comes out, soon."""
        made = bench()

        def fail() -> None:
            raise LookupError("interrupted")

        made.enter(made.guests.OUT_42_THEN_SPIN)
        with _signalled(made, fail), pytest.raises(LookupError, match="interrupted"):
            made.vcpu.run(made.bus)
        made.vcpu.kick()
        assert made.run() == Kicked()


def _race(made: Bench) -> list[Exit]:
    """Run vCPU 0 again and again while another thread kicks it; every exit until the last kick was returned for."""
    __tracebackhide__ = True
    exits: list[Exit] = []
    ended = threading.Semaphore(0)

    def run() -> None:
        for _ in range(KICKS):
            while not isinstance(found := made.vcpu.run(made.bus), Kicked):
                exits.append(found)
            exits.append(found)
            ended.release()

    with _threads_switching_often():
        runner = Underway(run, "Vcpu.run, kicked at random moments")
        made.watch(runner)
        moments = random.Random(SEED)
        for number in range(KICKS):
            _pass(0 if number % 4 == 0 else moments.uniform(0, LONGEST_SECONDS))
            made.vcpu.kick()
            if not ended.acquire(timeout=PATIENCE_SECONDS):
                pytest.fail(_missed(number, runner), pytrace=False)
        runner.result()
    return exits


@contextmanager
def _threads_switching_often() -> Iterator[None]:
    before = sys.getswitchinterval()
    sys.setswitchinterval(SWITCH_SECONDS)
    try:
        yield
    finally:
        sys.setswitchinterval(before)


def _missed(number: int, runner: Underway[None]) -> str:
    if runner.is_over(0):
        runner.result()  # raises what ended it
    return f"kick number {number + 1} was missed: `run` did not return for it within {PATIENCE_SECONDS:g} s"


def _pass(seconds: float) -> None:
    """Let so much time pass; `sleep` is too coarse below some 60 us."""
    end = time.perf_counter() + seconds
    while time.perf_counter() < end:
        time.sleep(0)


@contextmanager
def _signalled(made: Bench, handler: Callable[[], None]) -> Iterator[None]:
    """In the main thread: a signal comes when the guest is under way, whose handler calls `handler`.

    Should `run` not return, it is kicked after all, so that the test fails and does not hang.
    """
    if threading.current_thread() is not threading.main_thread():
        pytest.skip("needs the main thread, where Python runs signal handlers")
    main, over = threading.get_ident(), threading.Event()
    late: list[str] = []

    def send() -> None:
        while not made.ports.writes and not over.wait(0.001):
            pass
        signal.pthread_kill(main, signal.SIGUSR1)
        if not over.wait(PATIENCE_SECONDS):
            late.append("a signal's handler must run while the main thread is in `run`")
        while not over.wait(0.1):
            made.vcpu.kick()

    before = signal.signal(signal.SIGUSR1, lambda *_: handler())
    sender = threading.Thread(target=send, daemon=True)
    sender.start()
    try:
        yield
    finally:
        over.set()
        sender.join()
        signal.signal(signal.SIGUSR1, before)
        assert not late, late[0]
