"""Time that is counted: so much for each step, a little for each look, and never backwards."""

import datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from anyvisor.counted_clock import CountedClock

INSTRUCTION_NS, LOOK_NS = 5, 200
TIMES = st.integers(0, 10**6)


@pytest.fixture
def clock():
    return CountedClock(INSTRUCTION_NS, LOOK_NS)


def test_time_begins_at_zero_and_each_look_takes_a_moment(clock):
    assert [clock.now() for _ in range(3)] == [LOOK_NS, 2 * LOOK_NS, 3 * LOOK_NS]


def test_instructions_make_time_pass(clock):
    clock.advance(1000)
    assert clock.now() == 1000 * INSTRUCTION_NS + LOOK_NS


def test_the_machine_is_always_switched_on_at_the_same_moment(clock):
    day = datetime.datetime.fromtimestamp(clock.wall_seconds(), datetime.UTC)
    assert day.replace(microsecond=0).isoformat() == "2026-01-01T00:00:00+00:00"
    clock.advance(10**9 // INSTRUCTION_NS)
    assert datetime.datetime.fromtimestamp(clock.wall_seconds(), datetime.UTC).second == 1


def test_a_timer_is_called_once_when_its_time_has_come(clock):
    calls = []
    clock.timer(lambda: calls.append(clock.now())).set(1000)
    assert clock.next_deadline == 1000
    clock.advance(1000 // INSTRUCTION_NS - 1)
    assert calls == []
    clock.advance(1)
    clock.advance(10_000)
    assert calls == [1000 + LOOK_NS]
    assert clock.next_deadline is None


def test_a_timer_that_is_cleared_or_set_anew_is_not_called_at_its_old_time(clock):
    calls = []
    cleared, later = (clock.timer(lambda name=name: calls.append(name)) for name in ("cleared", "later"))
    cleared.set(100)
    later.set(100)
    cleared.clear()
    later.set(1000)
    clock.advance(100)
    assert calls == []
    clock.advance(100)
    assert calls == ["later"]
    cleared.set(0)
    clock.advance(0)
    assert calls == ["later", "cleared"], "a time that is past has come"


def test_a_timer_may_set_itself_again_and_others(clock):
    calls = []

    def tick():
        calls.append(clock.now())
        if len(calls) < 5:
            timer.set(len(calls) * 100)

    timer = clock.timer(tick)
    timer.set(100)
    clock.advance(1000)
    assert len(calls) == 5


@given(st.lists(TIMES, max_size=30), st.lists(st.integers(0, 50_000), max_size=30))
def test_timers_are_called_in_order_each_once_and_never_early(deadlines, slices):
    clock, calls = CountedClock(INSTRUCTION_NS, LOOK_NS), []
    for number, deadline in enumerate(deadlines):
        clock.timer(lambda number=number, deadline=deadline: calls.append((deadline, number))).set(deadline)
    passed = 0
    for instructions in slices:
        most = clock.steps_until_next(instructions) if instructions else 0
        assert most <= max(instructions, 1)
        clock.advance(most)
        passed += most * INSTRUCTION_NS
        assert calls == sorted((deadline, number) for number, deadline in enumerate(deadlines) if deadline <= passed)
    while clock.skip():
        pass
    assert calls == sorted((deadline, number) for number, deadline in enumerate(deadlines))


def test_a_slice_ends_when_the_next_timer_is_due(clock):
    assert clock.steps_until_next(20_000) == 20_000
    clock.timer(lambda: None).set(1000)
    assert clock.steps_until_next(20_000) == 1000 // INSTRUCTION_NS
    assert clock.steps_until_next(7) == 7
    for _ in range(10):
        clock.now()
    assert clock.steps_until_next(20_000) == 1, "one that is overdue ends the next slice at once"


def test_skipping_goes_to_the_next_timer_and_never_back(clock):
    calls = []
    clock.timer(lambda: calls.append(1)).set(5000)
    assert clock.skip()
    assert (calls, clock.now()) == ([1], 5000 + LOOK_NS)
    assert not clock.skip()
    clock.timer(lambda: calls.append(2)).set(10)
    assert clock.skip()
    assert clock.now() == 5000 + 2 * LOOK_NS


def test_what_a_timer_raises_comes_out_and_the_next_one_is_still_called(clock):
    calls = []

    def broken():
        raise LookupError("no tick")

    clock.timer(broken).set(10)
    clock.timer(lambda: calls.append(1)).set(10)
    clock.on_failure(calls.append)
    with pytest.raises(LookupError):
        clock.advance(100)
    assert calls == []
    clock.advance(0)
    assert calls == [1]
    clock.close()
    clock.close()
