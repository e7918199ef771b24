"""Time that the guest makes pass: so much for each instruction, a little for each look, and never backwards."""

import threading

import pytest
from emulated_guests import DATA, HALT, Source

from anyvisor.counted_clock import CountedClock
from anyvisor.exits import Halted, Kicked
from anyvisor_unicorn.vm import INSTRUCTION_NS, LOOK_NS

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
