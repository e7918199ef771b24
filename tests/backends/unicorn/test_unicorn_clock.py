"""Time that the guest makes pass: so much for each instruction, a little for each look, and never backwards."""

import datetime
import threading

import pytest
from emulated_guests import DATA, HALT, Source
from hypothesis import given
from hypothesis import strategies as st

from anyvisor.exits import Halted, Kicked
from anyvisor_unicorn.counted_clock import INSTRUCTION_NS, LOOK_NS, CountedClock

TIMES = st.integers(0, 10**6)


@pytest.fixture
def clock():
    return CountedClock()


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
    clock, calls = CountedClock(), []
    for number, deadline in enumerate(deadlines):
        clock.timer(lambda number=number, deadline=deadline: calls.append((deadline, number))).set(deadline)
    passed = 0
    for instructions in slices:
        most = clock.instructions_until_next(instructions) if instructions else 0
        assert most <= max(instructions, 1)
        clock.advance(most)
        passed += most * INSTRUCTION_NS
        assert calls == sorted((deadline, number) for number, deadline in enumerate(deadlines) if deadline <= passed)
    while clock.skip():
        pass
    assert calls == sorted((deadline, number) for number, deadline in enumerate(deadlines))


def test_a_slice_ends_when_the_next_timer_is_due(clock):
    assert clock.instructions_until_next(20_000) == 20_000
    clock.timer(lambda: None).set(1000)
    assert clock.instructions_until_next(20_000) == 1000 // INSTRUCTION_NS
    assert clock.instructions_until_next(7) == 7
    for _ in range(10):
        clock.now()
    assert clock.instructions_until_next(20_000) == 1, "one that is overdue ends the next slice at once"


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


# -- as the guest sees it ----------------------------------------------------------------------------------------------


def test_a_vm_has_a_counted_clock_only_if_it_is_to_be_deterministic(deterministic, guest):
    assert isinstance(deterministic().vm.clock, CountedClock)
    assert not isinstance(guest().vm.clock, CountedClock)


@pytest.mark.parametrize("instructions", [4, 1000, 20_010, 20_012, 40_022, 1_000_000])
def test_the_clock_counts_exactly_what_the_guest_has_run(deterministic, instructions):
    made = deterministic(f"mov ${instructions // 2 - 1}, %ecx; 1: dec %ecx; jnz 1b; {HALT}")
    before = made.vm.clock.now()
    assert made.run() == Halted()
    ran = 1 + (instructions // 2 - 1) * 2 + 2  # mov, the loop, cli and hlt
    assert made.vm.clock.now() - before - LOOK_NS == ran * INSTRUCTION_NS


def test_the_tsc_shows_the_counted_time_in_nanoseconds(deterministic):
    made = deterministic(f"""
        rdtsc; mov %eax, DATA; mov %edx, DATA + 4
        mov $1000000, %ecx; 1: dec %ecx; jnz 1b
        rdtscp; mov %eax, DATA + 8; mov %edx, DATA + 12
        {HALT}""")
    assert made.run() == Halted()
    first, second = made.word(), made.word(DATA + 8)
    assert second - first == pytest.approx(2_000_003 * INSTRUCTION_NS, abs=25_000 * INSTRUCTION_NS)


def test_a_timer_is_called_within_an_instruction_of_its_time(deterministic):
    """In a guest that does nothing but count."""
    made = deterministic("1: incq DATA; jmp 1b")
    counts = []

    def tick():
        counts.append(made.word())
        if len(counts) == 5:
            made.vcpu.kick()
        timer.set(timer_at(len(counts) + 1))

    def timer_at(number):
        return number * 1_000_000

    timer = made.vm.clock.timer(tick)
    timer.set(timer_at(1))
    assert made.run() == Kicked()
    per_tick = 1_000_000 // INSTRUCTION_NS // 2
    assert counts == pytest.approx([per_tick * n for n in range(1, 6)], abs=2)


def test_kicks_change_nothing_of_what_a_deterministic_guest_does(deterministic):
    """A machine that is paused and goes on is the same as one that was not."""
    source = f"""
        sti
        mov $300000, %ecx
    1:  rdtsc; xor %eax, DATA; rolq $1, DATA
        dec %ecx; jnz 1b
        hlt
        {HALT}"""

    def live(kicks):
        made = deterministic(source, handlers={0x24: "incq DATA + 8; iretq"}, interrupts=Source())

        def tick():
            made.source.vectors.append(0x24)
            made.vcpu.notify_interrupt()
            timer.set(timer_every * (len(ticks) + 1))
            ticks.append(1)

        ticks, timer_every = [1], 123_457
        timer = made.vm.clock.timer(tick)
        timer.set(timer_every)
        over = threading.Event()

        def disturb():
            while not over.is_set():
                made.vcpu.kick()
                over.wait(0.001)

        disturber = threading.Thread(target=disturb, daemon=True)
        if kicks:
            disturber.start()
        returned = 0
        while made.vcpu.run(made.bus) == Kicked():
            returned += 1
        over.set()
        return returned, (made.word(), made.word(DATA + 8), made.vm.clock.now(), dict(made.vcpu.exits))

    calm, disturbed = live(kicks=False), live(kicks=True)
    assert calm[0] == 0 < 10 < disturbed[0]
    assert calm[1] == disturbed[1]
    assert calm[1][1] > 10
