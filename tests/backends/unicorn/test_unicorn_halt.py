"""HLT: what ends it, that nothing else does, and that it is a state of the vCPU's."""

import threading
import time

import pytest
from emulated_guests import CODE, DATA, HALT, Runner, Source
from waiting_guests import LIMIT, OTHER_VECTOR, VECTOR, in_hlt, interrupt, until, wired

from anyvisor.clock import NANOSECONDS
from anyvisor.errors import HypervisorError
from anyvisor.exits import Halted, Kicked
from anyvisor.x86_64.state import Activity, MpState, Regs


def test_hlt_without_a_source_is_halted_also_with_interrupts_on(any_guest):
    made = any_guest("sti; hlt; ud2")
    assert made.run() == Halted()
    assert made.vcpu.get(Regs).rip == CODE + 2


def test_hlt_with_interrupts_off_is_halted_whatever_is_pending(any_guest):
    made = wired(any_guest, "cli; hlt; ud2", VECTOR)
    assert made.run() == Halted()
    assert list(made.source.vectors) == [VECTOR]


def test_hlt_takes_what_is_pending(any_guest):
    made = wired(any_guest, f"sti; hlt; incq DATA; {HALT}", VECTOR)
    assert made.run() == Halted()
    assert (made.word(), made.others.writes) == (1, [(0, 1, 0)])


def test_hlt_is_woken_from_another_thread(guest):
    made = wired(guest, f"sti; out %al, $PORT; hlt; incq DATA; {HALT}")
    runner = in_hlt(made)
    assert (made.word(), runner.is_alive()) == (0, True)
    interrupt(made)
    assert runner.result() == Halted()
    assert (made.word(), len(made.others.writes)) == (1, 1)


def test_hlt_is_woken_by_a_timer_of_the_vms_clock_again_and_again(guest):
    made = wired(guest, f"sti; 1: hlt; incq DATA; cmpq $5, DATA; jne 1b; {HALT}")

    def tick():
        interrupt(made)
        timer.set(made.vm.clock.now() + NANOSECONDS // 200)

    timer = made.vm.clock.timer(tick)
    timer.set(0)
    assert made.run() == Halted()
    timer.clear()
    assert made.word() == 5


def test_a_deterministic_guest_skips_to_its_next_timer_and_waits_no_time(deterministic):
    made = wired(deterministic, f"sti; 1: hlt; incq DATA; cmpq $100, DATA; jne 1b; {HALT}")

    def tick():
        interrupt(made)
        timer.set(made.vm.clock.now() + NANOSECONDS)

    timer = made.vm.clock.timer(tick)
    timer.set(NANOSECONDS)
    began = time.monotonic()
    assert made.run() == Halted()
    assert made.word() == 100
    assert 100 * NANOSECONDS <= made.vm.clock.now() < 100.1 * NANOSECONDS
    assert time.monotonic() - began < LIMIT


def test_a_deterministic_guest_without_a_timer_waits_for_other_threads(deterministic):
    made = wired(deterministic, f"sti; out %al, $PORT; hlt; incq DATA; {HALT}")
    runner = in_hlt(made)
    interrupt(made)
    assert runner.result() == Halted()
    assert made.word() == 1


def test_hlt_costs_no_processor_time(guest):
    made = wired(guest, f"sti; out %al, $PORT; hlt; {HALT}")
    runner = in_hlt(made)
    began = time.process_time()
    time.sleep(0.3)
    assert time.process_time() - began < 0.25
    interrupt(made)
    assert runner.result() == Halted()


def test_a_notification_without_an_interrupt_leaves_the_guest_in_hlt(guest):
    made = wired(guest, f"sti; out %al, $PORT; hlt; incq DATA; {HALT}")
    runner = in_hlt(made)
    for _ in range(50):
        made.vcpu.notify_interrupt()
        time.sleep(0.001)
    assert (made.word(), runner.is_alive()) == (0, True)
    interrupt(made)
    assert runner.result() == Halted()


@pytest.mark.parametrize("sleep", [0, 0.0003])
def test_each_interrupt_ends_one_hlt_and_no_other(guest, sleep):
    """Stops that come at any moment are not taken for a HLT, nor a HLT for a stop."""
    made = wired(guest, "sti; 1: hlt; incq DATA; jmp 1b", handler="incq DATA + 8; iretq")
    runner = Runner(made)
    for sent in range(1, 301):
        if sent % 3 == 0:
            made.vcpu.notify_interrupt()
        time.sleep(sleep)
        interrupt(made)
        until(lambda sent=sent: made.word(DATA + 8) == sent and made.word(DATA) == sent)
    made.vcpu.kick()
    assert runner.result() == Kicked()
    assert (made.word(DATA), made.word(DATA + 8)) == (300, 300)


def test_hlt_with_interrupts_off_is_not_missed_while_the_guest_is_being_stopped(guest):
    """What follows is no code, so to go on there would show."""
    made = wired(guest, "sti; mov $5000, %ecx; 1: dec %ecx; jnz 1b; cli; hlt; ud2")
    over = threading.Event()

    def disturb():
        while not over.is_set():
            made.vcpu.notify_interrupt()
            time.sleep(0)

    disturber = threading.Thread(target=disturb, daemon=True)
    disturber.start()
    try:
        for _ in range(300):
            made.enter()
            assert made.vcpu.run(made.bus) == Halted()
            assert made.vcpu.get(Regs).rip == CODE + made.memory.read(CODE, 64).index(b"\xfa\xf4\x0f\x0b") + 2
    finally:
        over.set()
        disturber.join()


def test_a_device_that_stops_the_engine_right_before_hlt_does_not_hide_it(guest):
    made = wired(guest, "out %al, $PORT; cli; hlt; ud2")
    made.ports.then = made.vcpu.notify_interrupt
    for _ in range(100):
        made.enter()
        assert made.vcpu.run(made.bus) == Halted()


# -- HLT is a state ----------------------------------------------------------------------------------------------------


def test_a_kick_gets_a_vcpu_out_of_hlt_and_the_next_run_goes_on_waiting(guest):
    made = wired(guest, f"sti; out %al, $PORT; hlt; incq DATA; {HALT}")
    runner = in_hlt(made)
    for _ in range(20):
        made.vcpu.kick()
        assert runner.result() == Kicked()
        assert (made.word(), made.vcpu.get(MpState)) == (0, MpState(Activity.HALTED))
        assert made.vcpu.get(Regs).rip == CODE + 4
        runner = Runner(made)
        time.sleep(0.001)
    interrupt(made)
    assert runner.result() == Halted()
    assert made.word() == 1
    assert made.vcpu.get(MpState) == MpState(Activity.RUNNABLE)


def test_a_kick_before_run_counts_for_a_vcpu_in_hlt(any_guest):
    made = wired(any_guest, f"sti; hlt; incq DATA; {HALT}")
    made.vcpu.put(MpState(Activity.HALTED))
    made.vcpu.kick()
    assert made.run() == Kicked()
    assert made.vcpu.get(MpState) == MpState(Activity.HALTED)


def test_standing_in_hlt_can_be_put_and_taken_back(any_guest):
    made = wired(any_guest, f"incq DATA; {HALT}")
    made.vcpu.put(MpState(Activity.HALTED))
    assert made.run() == Halted(), "interrupts are off: nothing can wake it"
    assert made.word() == 0
    made.vcpu.put(MpState(Activity.HALTED))
    made.vcpu.put(MpState(Activity.RUNNABLE))
    assert made.run() == Halted()
    assert made.word() == 1


@pytest.mark.parametrize("activity", [Activity.UNINITIALIZED, Activity.INIT_RECEIVED, Activity.SIPI_RECEIVED])
def test_a_boot_processor_waits_for_no_sipi(any_guest, activity):
    made = any_guest()
    with pytest.raises(HypervisorError, match="cannot be"):
        made.vcpu.put(MpState(activity))


def test_notifying_a_vcpu_without_a_source_does_nothing(any_guest):
    made = any_guest(f"out %al, $PORT; {HALT}")
    made.ports.then = made.vcpu.notify_interrupt
    made.vcpu.notify_interrupt()
    assert made.run() == Halted()


def test_a_source_may_take_over_from_another(any_guest):
    made = wired(any_guest, f"sti; hlt; incq DATA; {HALT}", VECTOR)
    other = Source(OTHER_VECTOR)
    made.vcpu.take_interrupts_from(other)
    assert made.run() == Halted()
    assert (len(made.source.vectors), len(other.vectors)) == (1, 0)
