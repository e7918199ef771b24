"""The host's clock and its timers."""

import itertools
import threading
import time

import pytest

from anyvisor.clock import Alarm, Deadlines, HostClock

MILLISECOND = 10**6
SECONDS = 10**9
PATIENCE = 10.0


@pytest.fixture
def clock():
    clock = HostClock()
    yield clock
    clock.close()


class Calls:
    """What a timer calls: it notes its name, and the clock's time."""

    def __init__(self, clock: HostClock):
        self.clock = clock
        self.names: list[str] = []
        self.moments: list[int] = []
        self.changed = threading.Condition()

    def timer(self, name: str):
        def call():
            with self.changed:
                self.names.append(name)
                self.moments.append(self.clock.now())
                self.changed.notify_all()

        return self.clock.timer(call)

    def wait(self, count: int) -> list[str]:
        with self.changed:
            assert self.changed.wait_for(lambda: len(self.names) >= count, PATIENCE), self.names
            return list(self.names)


def clock_threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "clock"]


def test_time_begins_at_zero_and_goes_on_in_nanoseconds(clock):
    first, host = clock.now(), time.monotonic_ns()
    time.sleep(0.02)
    passed, host_passed = clock.now() - first, time.monotonic_ns() - host
    assert 0 <= first < PATIENCE * SECONDS
    assert abs(passed - host_passed) < 1 * SECONDS
    assert passed >= 20 * MILLISECOND


def test_time_of_day_is_the_hosts(clock):
    before = time.time()
    assert before <= clock.wall_seconds() <= time.time()


def test_timers_are_called_in_the_order_of_their_deadlines_and_none_early(clock):
    calls, now = Calls(clock), clock.now()
    deadlines = {"c": now + 60 * MILLISECOND, "a": now + 20 * MILLISECOND, "b": now + 40 * MILLISECOND}
    for name, deadline in deadlines.items():
        calls.timer(name).set(deadline)
    assert calls.wait(3) == ["a", "b", "c"]
    assert all(moment >= deadlines[name] for name, moment in zip(calls.names, calls.moments, strict=True))


def test_timers_of_one_deadline_are_called_in_the_order_in_which_they_were_set(clock):
    calls, deadline = Calls(clock), clock.now() + 30 * MILLISECOND
    for name in "xyz":
        calls.timer(name).set(deadline)
    assert calls.wait(3) == ["x", "y", "z"]


def test_a_deadline_that_is_past_is_called_soon(clock):
    calls = Calls(clock)
    calls.timer("late").set(0)
    assert calls.wait(1) == ["late"]


def test_an_earlier_timer_does_not_wait_for_a_later_one(clock):
    calls = Calls(clock)
    calls.timer("never").set(clock.now() + 3600 * SECONDS)
    time.sleep(0.05)  # by then the clock's thread waits for it
    calls.timer("soon").set(clock.now() + MILLISECOND)
    assert calls.wait(1) == ["soon"]


def test_a_deadline_farther_away_than_a_host_can_wait_is_no_error(clock):
    calls, failures = Calls(clock), []
    clock.on_failure(failures.append)
    calls.timer("never").set(1 << 80)
    time.sleep(0.05)  # by then the clock's thread waits for it
    calls.timer("soon").set(clock.now())
    assert calls.wait(1) == ["soon"]
    assert failures == []


@pytest.mark.parametrize("second", [10, 90])
def test_setting_again_replaces_the_deadline(clock, second):
    calls, now = Calls(clock), clock.now()
    timer, end = calls.timer("again"), calls.timer("end")
    timer.set(now + 50 * MILLISECOND)
    timer.set(now + second * MILLISECOND)
    end.set(now + 150 * MILLISECOND)
    assert calls.wait(2) == ["again", "end"]
    assert calls.moments[0] >= now + second * MILLISECOND


def test_a_cleared_timer_is_not_called_and_can_be_set_again(clock):
    calls, now = Calls(clock), clock.now()
    timer, end = calls.timer("cleared"), calls.timer("end")
    timer.set(now + 20 * MILLISECOND)
    timer.clear()
    timer.clear()
    end.set(now + 40 * MILLISECOND)
    assert calls.wait(1) == ["end"]
    timer.set(now + 50 * MILLISECOND)
    assert calls.wait(2) == ["end", "cleared"]


def test_a_timer_can_set_itself_from_its_own_call(clock):
    done = threading.Event()
    moments = []

    def call():
        moments.append(clock.now())
        timer.set(moments[-1] + MILLISECOND) if len(moments) < 5 else done.set()

    timer = clock.timer(call)
    timer.set(clock.now())
    assert done.wait(PATIENCE)
    assert all(after - before >= MILLISECOND for before, after in itertools.pairwise(moments))


def test_timers_are_called_with_no_lock_held(clock):
    """A device sets a timer with its lock held, and takes that lock when called."""
    device_lock, called = threading.Lock(), threading.Event()

    def call():
        with device_lock:
            called.set()

    timer = clock.timer(call)
    with device_lock:
        timer.set(0)
        time.sleep(0.05)
        timer.set(0)
        assert not called.is_set()
    assert called.wait(PATIENCE)


def test_a_failing_call_is_told_and_the_clock_goes_on(clock):
    failures, calls = [], Calls(clock)

    def fail():
        raise SystemExit("a device gave up")

    clock.on_failure(failures.append)
    clock.timer(fail).set(0)
    calls.timer("next").set(clock.now() + MILLISECOND)
    assert calls.wait(1) == ["next"]
    assert [str(error) for error in failures] == ["a device gave up"]


def test_there_is_no_thread_before_the_first_timer_is_set_and_none_after_close():
    before = len(clock_threads())
    clock = HostClock()
    timer = clock.timer(lambda: None)
    timer.clear()
    assert len(clock_threads()) == before
    timer.set(clock.now() + 3600 * SECONDS)
    assert len(clock_threads()) == before + 1
    clock.close()
    assert len(clock_threads()) == before
    clock.close()
    timer.set(0)
    assert len(clock_threads()) == before


def test_a_clock_that_gets_no_thread_says_so_and_can_be_closed(monkeypatch):
    def refuse(thread):
        raise RuntimeError("can't start new thread")

    clock = HostClock()
    monkeypatch.setattr(threading.Thread, "start", refuse)
    with pytest.raises(RuntimeError, match="new thread"):
        clock.timer(lambda: None).set(0)
    clock.close()


def test_a_clock_that_was_never_used_can_be_closed():
    clock = HostClock()
    clock.close()
    clock.close()
    clock.timer(lambda: None).set(0)
    assert clock._thread is None, "no thread for what will not be called"


def test_nothing_is_called_after_close():
    clock = HostClock()
    calls = Calls(clock)
    timer = calls.timer("no")
    timer.set(clock.now() + 30 * MILLISECOND)
    clock.close()
    timer.set(0)
    time.sleep(0.06)
    assert calls.names == []


def test_close_waits_for_a_call_that_is_on_its_way():
    clock = HostClock()
    began, ended = threading.Event(), threading.Event()

    def call():
        began.set()
        time.sleep(0.05)
        ended.set()

    clock.timer(call).set(0)
    assert began.wait(PATIENCE)
    clock.close()
    assert ended.is_set()


def test_close_from_the_clocks_own_thread_ends_it():
    clock = HostClock()
    closed, threads = threading.Event(), []

    def call():
        threads.append(threading.current_thread())
        clock.close()
        closed.set()

    clock.timer(call).set(0)
    assert closed.wait(PATIENCE)
    threads[0].join(PATIENCE)
    assert not threads[0].is_alive()
    clock.close()


def test_many_threads_may_set_one_clocks_timers(clock):
    called = threading.Event()
    timers = [clock.timer(lambda: None) for _ in range(4)]

    def work(timer):
        for index in range(2000):
            timer.set(clock.now() + index % 7 * 100_000) if index % 3 else timer.clear()

    threads = [threading.Thread(target=work, args=(timer,)) for timer in timers]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    clock.timer(called.set).set(clock.now())
    assert called.wait(PATIENCE)


def test_a_timer_that_is_set_again_to_the_same_moment_goes_behind_the_others():
    deadlines, first, second = Deadlines(), Alarm(lambda: None), Alarm(lambda: None)
    for alarm in (first, second, first):
        alarm.deadline = 5
        deadlines.add(alarm)
    assert deadlines.next() == 5
    assert deadlines.pop() is second
    assert deadlines.next() == 5
    assert deadlines.pop() is first


def test_a_guest_that_sets_a_far_timer_again_and_again_fills_no_memory():
    deadlines, near, far = Deadlines(), Alarm(lambda: None), Alarm(lambda: None)
    near.deadline = 1000
    deadlines.add(near)
    for deadline in range(2000, 12_000):
        far.deadline = deadline
        deadlines.add(far)
    assert len(deadlines._heap) < 100
    assert deadlines.next() == 1000
    assert deadlines.pop() is near
    assert deadlines.next() == 11_999
    assert deadlines.pop() is far
    assert deadlines.next() is None
    assert (near.deadline, far.deadline) == (None, None)


def test_deadlines_of_many_timers_stay_in_order_when_what_was_replaced_is_cleared_away():
    deadlines, alarms = Deadlines(), [Alarm(lambda: None) for _ in range(50)]
    for turn in range(20):
        for index, alarm in enumerate(alarms):
            alarm.deadline = (index * 37 + turn * 11) % 101
            deadlines.add(alarm)
    alarms[7].deadline = None
    expected = sorted((alarm.deadline, alarm.ticket) for alarm in alarms if alarm.deadline is not None)
    found = []
    while (deadline := deadlines.next()) is not None:
        alarm = deadlines.pop()
        found.append((deadline, alarm.ticket))
    assert found == expected
