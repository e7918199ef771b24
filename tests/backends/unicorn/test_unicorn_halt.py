"""HLT, and the interrupts that end it: exactly when a processor would take them, and each once."""

import threading
import time

import attrs
import pytest
from emulated_guests import CODE, DATA, HALT, OTHER_PORT, PORT, SPIN, Guest, Runner, Source, assemble

from anyvisor.clock import NANOSECONDS
from anyvisor.errors import HypervisorError
from anyvisor.exits import Halted, Kicked, Shutdown
from anyvisor.x86_64.state import Activity, DescriptorTable, MpState, Regs, Sregs

VECTOR, OTHER_VECTOR = 0x24, 0x31
SAY = "out %al, $OTHER_PORT; iretq"
LIMIT = 20
"""Seconds that something may take on a busy machine."""


def wired(guest, source, *vectors, handler=SAY):
    return guest(source, handlers={VECTOR: handler, OTHER_VECTOR: handler}, interrupts=Source(*vectors))


def interrupt(made, vector=VECTOR):
    made.source.vectors.append(vector)
    made.vcpu.notify_interrupt()


def until(condition):
    deadline = time.monotonic() + LIMIT
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.001)


def in_hlt(made):
    """A runner whose guest waits in HLT: it has written to PORT just before."""
    inside = threading.Event()
    made.ports.then = inside.set
    runner = Runner(made)
    assert inside.wait(LIMIT)
    time.sleep(0.01)
    return runner


# -- who may be woken --------------------------------------------------------------------------------------------------


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
    assert time.process_time() - began < 0.15
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
        until(lambda: made.word(DATA + 8) == sent and made.word(DATA) == sent)
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


# -- when interrupts are taken -----------------------------------------------------------------------------------------


def test_an_interrupt_waits_for_sti(any_guest):
    made = wired(any_guest, f"out %al, $PORT; mov $100000, %ecx; 1: dec %ecx; jnz 1b; movq $1, DATA; sti; nop; {SPIN}",
                 handler="mov DATA, %rbx; cli; hlt")  # fmt: skip
    made.ports.then = lambda: interrupt(made)
    assert made.run() == Halted()
    assert made.vcpu.get(Regs).rbx == 1


@pytest.mark.parametrize("pending", [True, False], ids=["pending", "raised by the guest"])
def test_the_instruction_after_sti_runs_before_the_interrupt(any_guest, pending):
    """With interrupts off again right after, none is ever taken."""
    made = wired(any_guest, f"mov $20000, %ecx; 1: out %al, $PORT; sti; cli; dec %ecx; jnz 1b; {HALT}")
    if pending:
        interrupt(made)
    else:
        made.ports.then = made.vcpu.notify_interrupt
        made.source.vectors.append(VECTOR)
    assert made.run() == Halted()
    assert (made.others.writes, list(made.source.vectors)) == ([], [VECTOR])


def test_no_interrupt_comes_between_sti_and_hlt(any_guest):
    made = wired(any_guest, f"out %al, $PORT; sti; hlt; incq DATA; {HALT}",
                 handler="mov (%rsp), %rbx; iretq")  # fmt: skip
    made.ports.then = lambda: interrupt(made)
    for n in range(1, 51):
        made.enter()
        assert made.vcpu.run(made.bus) == Halted()
        assert made.vcpu.get(Regs).rbx == CODE + 4, "the handler returns behind the HLT"
        assert made.word() == n


def test_no_interrupt_comes_behind_mov_ss(any_guest):
    """The stack pointer is loaded in the shadow of MOV SS; an interrupt in between would push where it must not."""
    source = f"""
        mov %ss, %eax; mov $STACK, %rdx; sti
    1:  mov $STACK - 0x800, %rsp
        mov %eax, %ss
        mov %rdx, %rsp
        cmpq $200, DATA
        jb 1b
        {HALT}"""
    shadow = CODE + assemble(source).index(b"\x8e\xd0") + 2
    made = wired(any_guest, source, handler=f"incq DATA; cmpq ${shadow}, (%rsp); jne 1f; incq DATA + 8; 1: iretq")
    over = threading.Event()

    def disturb():
        while not over.is_set():
            if not made.source.pending:
                interrupt(made)
            time.sleep(0.0002)

    disturber = threading.Thread(target=disturb, daemon=True)
    disturber.start()
    try:
        assert made.vcpu.run(made.bus) == Halted()
    finally:
        over.set()
        disturber.join()
    assert made.word(DATA) >= 200
    assert made.word(DATA + 8) == 0


def test_a_spinning_guest_is_interrupted(guest):
    made = wired(guest, f"sti; 1: cmpq $3, DATA; jne 1b; {HALT}", handler="incq DATA; iretq")
    runner = Runner(made)
    for count in (1, 2, 3):
        interrupt(made)
        until(lambda: made.word() >= count)
    assert runner.result() == Halted()


def test_interrupts_that_are_pending_together_come_one_after_the_other(any_guest):
    made = wired(any_guest, f"sti; 1: cmpq $3, DATA; jne 1b; {HALT}", VECTOR, OTHER_VECTOR, VECTOR,
                 handler="incq DATA; iretq")  # fmt: skip
    assert made.run() == Halted()
    assert made.vcpu.exits["interrupt"] == 3


def test_an_interrupt_that_cannot_be_delivered_is_a_shutdown_at_once(any_guest):
    made = wired(any_guest, "sti; nop; incq DATA; jmp .", VECTOR)
    made.vcpu.put(attrs.evolve(made.vcpu.get(Sregs), idt=DescriptorTable(0, 0)))
    assert made.run() == Shutdown()
    assert made.word() in (0, 1)


def test_a_device_may_interrupt_from_within_an_access(any_guest):
    made = wired(any_guest, f"sti; out %al, $PORT; 1: cmpq $1, DATA; jne 1b; {HALT}", handler="incq DATA; iretq")
    made.ports.then = lambda: interrupt(made)
    assert made.run() == Halted()


def test_what_the_source_raises_comes_out_of_run_and_the_vcpu_goes_on(any_guest):
    made = wired(any_guest, f"sti; hlt; incq DATA; {HALT}", VECTOR)

    def broken():
        raise LookupError("no vector")

    made.source.acknowledge = broken
    with pytest.raises(LookupError, match="no vector"):
        made.run()
    del made.source.acknowledge
    assert made.vcpu.run(made.bus) == Halted()
    assert made.word() == 1


def test_what_a_timer_raises_comes_out_of_a_deterministic_run(deterministic):
    made = wired(deterministic, "sti; 1: hlt; jmp 1b")

    def broken():
        raise LookupError("no tick")

    made.vm.clock.timer(broken).set(1000)
    with pytest.raises(LookupError, match="no tick"):
        made.run()


def test_what_a_timer_raises_in_the_hosts_time_is_told_to_who_asked(guest):
    made = guest(SPIN)
    told = []
    made.vm.clock.on_failure(lambda error: (told.append(str(error)), made.vcpu.kick()))

    def broken():
        raise LookupError("no tick")

    made.vm.clock.timer(broken).set(0)
    assert made.run() == Kicked()
    assert told == ["no tick"]


def test_of_a_device_and_a_timer_that_fail_in_one_slice_the_device_is_told_and_the_timer_next(deterministic):
    made = deterministic("out %al, $PORT; jmp .")

    def broken(what):
        def fail():
            raise LookupError(what)

        return fail

    made.ports.then = broken("device")
    made.vm.clock.timer(broken("timer")).set(1)
    for what in ("device", "timer"):
        with pytest.raises(LookupError, match=what):
            made.run()


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


# -- deterministic runs ------------------------------------------------------------------------------------------------

BUSY = f"""
    sti
1:  rdtsc; shl $32, %rdx; or %rdx, %rax; xor %rax, DATA + 16
    in $PORT, %al
    incq DATA
    mov $777, %ecx
2:  dec %ecx; jnz 2b
    cmpq $300, DATA + 8
    jb 1b
    {HALT}
"""


def test_two_deterministic_runs_are_the_same_to_the_last_exit(deterministic):
    def live():
        made = wired(
            deterministic, BUSY, handler="incq DATA + 8; push %rax; rdtsc; xor %eax, DATA + 24; pop %rax; iretq"
        )

        def tick():
            interrupt(made)
            timer.set(made.vm.clock.now() + 33_331)

        timer = made.vm.clock.timer(tick)
        timer.set(10_000)
        assert made.run() == Halted()
        return dict(made.vcpu.exits), made.memory.read(0, 1 << 20), made.vm.clock.now(), made.vcpu.get(Regs)

    first, second, third = live(), live(), live()
    assert first == second == third
    assert first[0]["interrupt"] == 300
    assert int.from_bytes(first[1][DATA + 16 : DATA + 24], "little") != 0
