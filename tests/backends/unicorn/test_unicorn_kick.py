"""Kicks: from everywhere, at any moment, lost never, and what the guest was doing is done once."""

import gc
import signal
import threading
import time
from contextlib import contextmanager

import pytest
from emulated_guests import CODE, DATA, HALT, MMIO, PORT, SPIN, STACK, Runner, Source, spinning

from anyvisor.errors import HypervisorError
from anyvisor.exits import Halted, Kicked
from anyvisor.facts import Capability
from anyvisor.x86_64.state import Regs, Sregs

SMALLEST = f"out %al, $PORT; {HALT}"


def test_it_is_said_that_kicks_get_a_spinning_guest_out(unicorn):
    assert unicorn.facts.has(Capability.KICK)


@pytest.mark.parametrize(
    "spin", ["jmp .", "cli; jmp .", "1: incq DATA; jmp 1b", "1: in $PORT, %al; jmp 1b", "1: mov MMIO, %eax; jmp 1b",
             "mov $DATA, %esi; mov $PORT, %edx; mov $~0, %rcx; 1: mov $DATA, %esi; outsb; jmp 1b",
             "1: pause; jmp 1b", "1: cpuid; jmp 1b", "1: pushf; popf; jmp 1b", "1: mov %cr3, %rax; mov %rax, %cr3; jmp 1b"]
)  # fmt: skip
def test_a_kick_gets_a_spinning_guest_out_soon(any_guest, spin):
    made, runner = spinning(any_guest, "out %al, $PORT\n" + spin)
    for _ in range(3):
        began = time.monotonic()
        made.vcpu.kick()
        assert runner.result() == Kicked()
        assert time.monotonic() - began < 2
        assert CODE <= made.vcpu.get(Regs).rip < CODE + 0x100
        runner = Runner(made)
    made.vcpu.kick()
    assert runner.result() == Kicked()


def test_a_kick_while_nobody_runs_makes_the_next_run_return_at_once(any_guest):
    made = any_guest(SMALLEST)
    made.vcpu.kick()
    made.vcpu.kick()
    assert made.run() == Kicked()
    assert (made.vcpu.get(Regs).rip, made.ports.writes) == (CODE, [])
    assert made.vcpu.run(made.bus) == Halted()


def test_kicks_from_several_threads_are_one_kick(any_guest):
    made, runner = spinning(any_guest)
    kickers = [threading.Thread(target=made.vcpu.kick) for _ in range(8)]
    for each in kickers:
        each.start()
    assert runner.result() == Kicked()
    for each in kickers:
        each.join()
    made.load(SMALLEST)
    made.enter()
    made.vcpu.kick()
    assert [made.vcpu.run(made.bus) for _ in range(2)] == [Kicked(), Halted()]


def test_a_device_may_kick(any_guest):
    made = any_guest(f"out %al, $PORT; incq DATA; {SPIN}")
    made.ports.then = made.vcpu.kick
    assert made.run() == Kicked()
    assert made.ports.writes == [(0, 1, 0)]
    made.load(SMALLEST)
    made.enter()
    made.ports.then = lambda: None
    assert made.vcpu.run(made.bus) == Halted()


def test_the_source_may_kick(any_guest):
    made = any_guest(f"sti; {SPIN}", handlers={0x24: "iretq"}, interrupts=Source(0x24))

    def acknowledge():
        made.vcpu.kick()
        return made.source.vectors.popleft()

    made.source.acknowledge = acknowledge
    assert made.run() == Kicked()


COUNT = f"""
    mov $DATA, %rbx
1:  addq $1, (%rbx)
    incq 8(%rbx)
    xchg %rdx, 16(%rbx)
    push %rcx
    addq $1, (%rsp)
    pop %rcx
    add $1, %rbp
    dec %rsi
    jnz 1b
    {HALT}
"""


@pytest.mark.parametrize("turns", [3_000_000])
def test_a_storm_of_kicks_loses_and_doubles_nothing_that_the_guest_does(any_guest, turns):
    made = any_guest(COUNT)
    made.enter(rsi=turns)
    over = threading.Event()
    kicks = 0

    def storm():
        nonlocal kicks
        while not over.is_set():
            made.vcpu.kick()
            kicks += 1
            if kicks % 64 == 0:
                time.sleep(0)

    kicker = threading.Thread(target=storm, daemon=True)
    kicker.start()
    returned = 0
    try:
        while made.vcpu.run(made.bus) == Kicked():
            returned += 1
    finally:
        over.set()
        kicker.join()
    regs = made.vcpu.get(Regs)
    assert (made.word(DATA), made.word(DATA + 8), regs.rcx, regs.rbp, regs.rsi) == (turns,) * 4 + (0,)
    assert regs.rsp == STACK
    assert returned > 10
    assert kicks >= returned


def test_ten_thousand_kicks_one_after_the_other(guest):
    made = guest("1: addq $1, DATA; jmp 1b")
    for _ in range(10_000):
        made.vcpu.kick()
        assert made.run() == Kicked()
    assert made.word() == 0


def test_a_kicked_guest_stands_still_and_goes_on_from_there(any_guest):
    made, runner = spinning(any_guest, "out %al, $PORT; 1: addq $1, DATA; jmp 1b")
    counts = [0]
    for _ in range(10):
        time.sleep(0.005)
        made.vcpu.kick()
        assert runner.result() == Kicked()
        stood = made.word()
        time.sleep(0.005)
        assert made.word() == stood >= counts[-1]
        counts.append(stood)
        runner = Runner(made)
    made.vcpu.kick()
    assert runner.result() == Kicked()
    assert counts[-1] > counts[1]


def test_state_may_be_put_between_runs_of_a_spinning_guest(any_guest):
    made, runner = spinning(any_guest)
    made.vcpu.kick()
    assert runner.result() == Kicked()
    made.load(f"mov %rdi, DATA; {HALT}")
    made.vcpu.put(Regs(rip=CODE, rdi=77))
    assert made.vcpu.run(made.bus) == Halted()
    assert made.word() == 77


# -- signals -----------------------------------------------------------------------------------------------------------


class Interrupted(Exception):
    """What a signal handler raises."""


@contextmanager
def signals(handler, seconds, again=0.0):
    """Let a signal call `handler` after `seconds`, once or again and again; not SIGALRM, which ends slow tests."""
    before = signal.signal(signal.SIGUSR1, lambda *_: handler())
    main, over = threading.main_thread().ident, threading.Event()

    def send():
        over.wait(seconds)
        while not over.is_set():
            signal.pthread_kill(main, signal.SIGUSR1)
            if not again:
                return
            over.wait(again)

    sender = threading.Thread(target=send, daemon=True)
    gc.disable()  # it calls back those who hold weak references, and what a handler raises there is lost
    try:
        sender.start()
        yield
    finally:
        signal.signal(signal.SIGUSR1, signal.SIG_IGN)
        over.set()
        sender.join()
        signal.signal(signal.SIGUSR1, before)
        gc.enable()


def interrupted(raised=None):
    if raised is not None:
        raised.append(1)
    raise Interrupted


LATER = 0.5
"""When to raise again: what is raised on top of some callback of Python's own is lost."""
SPINS = ["jmp .", "1: in $PORT, %al; jmp 1b", "1: mov MMIO, %eax; mov %eax, MMIO; jmp 1b", "1: cpuid; jmp 1b",
         "mov $PORT, %edx; mov $DATA, %edi; mov $1000000, %ecx; rep insb; jmp .",
         "1: int3; jmp 1b"]  # fmt: skip


@pytest.mark.parametrize("source", SPINS)
def test_what_a_signal_handler_raises_comes_out_of_run_in_the_main_thread(any_guest, source):
    """Wherever the signal finds it: in the engine, or on top of a hook."""
    made = any_guest(source, handlers={3: "iretq"})
    raised = []
    for i in range(20):
        began = time.monotonic()
        with pytest.raises(Interrupted), signals(lambda: interrupted(raised), 0.01 + i * 0.0007, LATER):
            made.run(rip=CODE)
        assert time.monotonic() - began < 2
    assert len(raised) < 25, "hardly any is lost"


def test_keyboard_interrupt_comes_out_of_a_spinning_guest(any_guest):
    made = any_guest(SPIN)
    threading.Timer(0.05, signal.raise_signal, [signal.SIGINT]).start()
    with pytest.raises(KeyboardInterrupt):
        made.run()
    made.vcpu.kick()
    assert made.vcpu.run(made.bus) == Kicked()


def test_what_a_signal_handler_raises_comes_out_of_hlt_and_the_vcpu_goes_on_waiting(any_guest):
    made = any_guest(f"sti; hlt; incq DATA; {HALT}", handlers={0x24: "iretq"}, interrupts=Source())
    with pytest.raises(Interrupted), signals(interrupted, 0.05, LATER):
        made.run()
    assert made.word() == 0
    made.source.vectors.append(0x24)
    assert made.vcpu.run(made.bus) == Halted()
    assert made.word() == 1


@pytest.mark.parametrize("source", [*SPINS[:4], "sti; 1: hlt; jmp 1b"])
def test_a_signal_handler_may_kick_on_top_of_anything(any_guest, source):
    """Also while the code below it holds the locks that a kick needs."""
    made = any_guest(source, interrupts=Source())
    with signals(made.vcpu.kick, 0.001, 0.00005):
        for _ in range(200):
            assert made.vcpu.run(made.bus) == Kicked()


@pytest.mark.parametrize("source", ["sti; jmp .", "sti; 1: hlt; jmp 1b"])
def test_a_signal_handler_may_interrupt_on_top_of_anything(any_guest, source):
    made = any_guest(
        source, handlers={0x24: "incq DATA; cmpq $1000, DATA; jb 1f; cli; hlt; 1: iretq"}, interrupts=Source()
    )

    def interrupt():
        made.source.vectors.append(0x24)
        made.vcpu.notify_interrupt()

    with signals(interrupt, 0.001, 0.0001):
        assert made.run() == Halted()
    assert made.word() == 1000


def test_a_handler_that_only_returns_does_not_disturb(any_guest):
    made = any_guest(f"mov $30000000, %ecx; 1: dec %ecx; jnz 1b; {HALT}")
    seen = []
    with signals(lambda: seen.append(1), 0.001, 0.001):
        while (left := made.vcpu.run(made.bus)) == Kicked():
            pass
    assert left == Halted()
    assert seen


def test_a_signal_handler_that_raises_in_another_hook_is_not_ours():
    """`sys.unraisablehook` is as it was after a run."""
    import sys

    from anyvisor_unicorn.hypervisor import open_unicorn
    from emulated_guests import Guest

    before = sys.unraisablehook
    with open_unicorn() as hypervisor:
        made = Guest(hypervisor, SMALLEST)
        during = []
        made.ports.then = lambda: during.append(sys.unraisablehook)
        assert made.run() == Halted()
        assert during[0] is not before
        assert sys.unraisablehook is before
        made.close()


# -- two at once, and the end ------------------------------------------------------------------------------------------


def test_a_second_run_at_the_same_time_is_refused(any_guest):
    made, runner = spinning(any_guest)
    for _ in range(3):
        with pytest.raises(HypervisorError, match="vCPU 0 is in run already.*EBUSY"):
            made.vcpu.run(made.bus)
    made.vcpu.kick()
    assert runner.result() == Kicked()


@pytest.mark.parametrize("use", [lambda vcpu: vcpu.get(Regs), lambda vcpu: vcpu.put(Regs())], ids=["get", "put"])
def test_state_is_not_touched_while_another_thread_runs(any_guest, use):
    made, runner = spinning(any_guest)
    with pytest.raises(HypervisorError, match="EBUSY"):
        use(made.vcpu)
    made.vcpu.kick()
    assert runner.result() == Kicked()


@pytest.mark.parametrize("what", ["vcpu", "vm"])
def test_a_close_while_a_thread_is_in_run_is_refused_and_harmless(any_guest, what):
    made, runner = spinning(any_guest)
    with pytest.raises(HypervisorError, match="EBUSY"):
        getattr(made, what).close()
    assert runner.is_alive()
    made.vcpu.kick()
    assert runner.result() == Kicked()
    getattr(made, what).close()
    getattr(made, what).close()


def test_after_close_kicks_do_nothing_and_all_else_says_so(any_guest):
    made = any_guest(SMALLEST)
    assert made.run() == Halted()
    made.vcpu.close()
    made.vcpu.close()
    for _ in range(100):
        made.vcpu.kick()
        made.vcpu.notify_interrupt()
    for use in (
        lambda: made.vcpu.run(made.bus),
        lambda: made.vcpu.get(Regs),
        lambda: made.vcpu.get(Sregs),
        lambda: made.vcpu.put(Regs()),
    ):
        with pytest.raises(HypervisorError, match="vCPU 0 is closed.*EBADF"):
            use()


def test_kicks_that_race_the_close_do_no_harm(guest):
    for _ in range(20):
        made, runner = spinning(guest)
        over = threading.Event()

        def storm(vcpu=made.vcpu, over=over):
            while not over.is_set():
                vcpu.kick()
                vcpu.notify_interrupt()

        kickers = [threading.Thread(target=storm, daemon=True) for _ in range(2)]
        for each in kickers:
            each.start()
        assert runner.result() == Kicked()
        made.close()
        time.sleep(0.002)
        over.set()
        for each in kickers:
            each.join()
