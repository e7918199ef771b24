"""`Vm.clock`: the time that the VM's devices live in."""

from __future__ import annotations

import threading
from functools import partial

from anyvisor.clock import Clock
from anyvisor.exits import Kicked
from anyvisor.facts import Capability
from anyvisor.testing.contracts.contract import Contract, MakeBench
from anyvisor.testing.requirements import needs
from anyvisor.testing.watch import until

MILLISECOND = 10**6
A_MOMENT_SECONDS = 0.05
OUTS = 500
LATER_NS = 100_000


class ClockContract(Contract):
    """The clock of a VM that lives in the host's time."""

    def test_time_goes_forward(self, bench: MakeBench) -> None:
        """`now` never goes back, and goes on by itself; the time of day is one."""
        clock = bench().vm.clock
        times = [clock.now() for _ in range(100)]
        assert times == sorted(times), "the clock went back"
        assert times[0] >= 0
        until(lambda: clock.now() > times[-1], "the clock going on")
        assert clock.wall_seconds() > 0

    def test_timers_are_called_in_the_order_of_their_deadlines_once(self, bench: MakeBench) -> None:
        """Each timer is called once, not before its deadline, and the earlier one first, whichever was set first."""
        clock = bench().vm.clock
        called: list[tuple[str, int]] = []
        deadlines = {name: clock.now() + after * MILLISECOND for name, after in (("late", 40), ("soon", 20))}
        for name, deadline in deadlines.items():
            clock.timer(partial(_remember, called, name, clock)).set(deadline)
        until(lambda: len(called) == 2, "two timers")
        assert [name for name, _ in called] == ["soon", "late"]
        assert all(now >= deadlines[name] for name, now in called), "a timer was called before its deadline"
        threading.Event().wait(A_MOMENT_SECONDS)
        assert len(called) == 2, "a timer is called once"

    def test_a_timer_that_was_cleared_or_set_anew_is_not_called_for_what_was_before(self, bench: MakeBench) -> None:
        """`clear` takes back a deadline, and `set` replaces the one before."""
        clock = bench().vm.clock
        called: list[str] = []
        cleared, moved, last = (clock.timer(partial(called.append, name)) for name in ("c", "m", "l"))
        now = clock.now()
        cleared.set(now + 20 * MILLISECOND)
        moved.set(now + 20 * MILLISECOND)
        cleared.clear()
        moved.set(now + 10**15)
        last.set(now + 40 * MILLISECOND)
        until(lambda: called, "the last timer")
        assert called == ["l"]
        moved.set(0)
        until(lambda: len(called) == 2, "a timer whose deadline is over already")
        assert called == ["l", "m"]

    def test_a_timer_may_be_set_again_by_its_own_call(self, bench: MakeBench) -> None:
        """A periodic timer sets itself: no lock is held while it is called."""
        clock = bench().vm.clock
        calls: list[int] = []

        def again() -> None:
            calls.append(clock.now())
            if len(calls) < 3:
                timer.set(clock.now() + MILLISECOND)

        timer = clock.timer(again)
        timer.set(clock.now())
        until(lambda: len(calls) == 3, "a timer that sets itself twice more")

    def test_a_vm_that_is_closed_stops_no_other_clock(self, bench: MakeBench) -> None:
        """Each VM has a clock of its own: the timers of another are called when it is gone, and its clock goes on."""
        first, second = bench(), bench()
        called: list[bool] = []
        clock = second.vm.clock
        clock.timer(lambda: called.append(True)).set(clock.now() + MILLISECOND)
        first.vm.close()
        until(lambda: called, "a timer that was set before another VM was closed")
        clock.timer(lambda: called.append(True)).set(clock.now() + MILLISECOND)
        until(lambda: len(called) == 2, "a timer that was set after another VM was closed")

    def test_no_timer_is_called_after_its_vm_is_closed(self, bench: MakeBench) -> None:
        """The clock goes with its VM: a timer that is still set is forgotten."""
        made = bench()
        called: list[bool] = []
        made.vm.clock.timer(lambda: called.append(True)).set(made.vm.clock.now() + 20 * MILLISECOND)
        made.vm.close()
        threading.Event().wait(A_MOMENT_SECONDS)
        assert not called


@needs(Capability.DETERMINISTIC, Capability.KICK)
class CountedClockContract(Contract):
    """The clock of a deterministic VM, whose time the guest makes pass."""

    def test_the_same_guest_meets_the_same_times(self, bench: MakeBench) -> None:
        """Two runs of one guest look at the clock at the same times, and its timers come at the same of its steps."""
        assert _times_of_a_run(bench) == _times_of_a_run(bench)

    def test_time_stands_still_while_nobody_runs(self, bench: MakeBench) -> None:
        """Only the guest, and each look at the clock, makes time pass: not the host's."""
        first, second = bench(deterministic=True).vm.clock, bench(deterministic=True).vm.clock
        times = [first.now(), first.now()]
        threading.Event().wait(A_MOMENT_SECONDS)
        assert [second.now(), second.now()] == times
        assert second.wall_seconds() == first.wall_seconds(), "deterministic machines have a date of their own"


def _remember(called: list[tuple[str, int]], name: str, clock: Clock) -> None:
    called.append((name, clock.now()))


def _times_of_a_run(bench: MakeBench) -> list[tuple[int, int]]:
    """When a guest's OUTs came, and how often a timer had been called by then."""
    made = bench(deterministic=True)
    clock, calls = made.vm.clock, list[int]()
    seen: list[tuple[int, int]] = []

    def again() -> None:
        calls.append(len(seen))
        timer.set(clock.now() + LATER_NS)

    def look() -> None:
        seen.append((clock.now(), len(calls)))
        if len(seen) == OUTS:
            made.vcpu.kick()

    timer = clock.timer(again)
    timer.set(LATER_NS)
    made.others.then = look
    made.enter(made.guests_of("running").ECHO_FOREVER)
    assert made.run() == Kicked()
    assert seen[:OUTS] == sorted(seen[:OUTS]), "the clock went back"
    assert seen[-1][0] > seen[0][0], "the guest made no time pass"
    return seen[:OUTS]
