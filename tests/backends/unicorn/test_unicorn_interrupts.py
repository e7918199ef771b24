"""Interrupts are taken exactly when a processor would take them, and each once."""

import threading
import time

import attrs
import pytest
from emulated_guests import CODE, DATA, HALT, SPIN, Runner, assemble
from waiting_guests import OTHER_VECTOR, VECTOR, interrupt, until, wired

from anyvisor.exits import Halted, Kicked, Shutdown
from anyvisor.x86_64.state import DescriptorTable, Regs, Sregs


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
        until(lambda count=count: made.word() >= count)
    assert runner.result() == Halted()


def test_interrupts_that_are_pending_together_come_one_after_the_other(any_guest):
    made = wired(any_guest, f"sti; 1: cmpq $3, DATA; jne 1b; {HALT}", VECTOR, OTHER_VECTOR, VECTOR,
                 handler="incq DATA; iretq")  # fmt: skip
    assert made.run() == Halted()
    assert made.vcpu.exits["interrupt"] == 3


def test_an_interrupt_that_cannot_be_delivered_is_a_shutdown_at_once(any_guest):
    made = wired(any_guest, "sti; nop; incq DATA; jmp .", VECTOR)
    made.vcpu.put(attrs.evolve(made.vcpu.get(Sregs), idt=DescriptorTable(0, 0)))
    assert isinstance(made.run(), Shutdown)
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
