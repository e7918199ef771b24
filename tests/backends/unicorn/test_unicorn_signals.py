"""Signals while the main thread runs a guest: their handlers are called soon, and may do anything."""

import gc
import signal
import threading
import time
from contextlib import contextmanager

import pytest
from emulated_guests import CODE, HALT, SPIN, Source

from anyvisor.exits import Halted, Kicked

SMALLEST = f"out %al, $PORT; {HALT}"


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


ENDLESS = 20
"""Seconds that no signal takes on however slow a machine."""
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
    for i in range(10):
        began = time.monotonic()
        with pytest.raises(Interrupted), signals(lambda: interrupted(raised), 0.01 + i * 0.0014, LATER):
            made.run(rip=CODE)
        assert time.monotonic() - began < ENDLESS
    assert len(raised) < 15, "hardly any is lost"


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
        for _ in range(100):
            assert made.vcpu.run(made.bus) == Kicked()


@pytest.mark.parametrize("source", ["sti; jmp .", "sti; 1: hlt; jmp 1b"])
def test_a_signal_handler_may_interrupt_on_top_of_anything(any_guest, source):
    made = any_guest(
        source, handlers={0x24: "incq DATA; cmpq $100, DATA; jb 1f; cli; hlt; 1: iretq"}, interrupts=Source()
    )

    def interrupt():
        made.source.vectors.append(0x24)
        made.vcpu.notify_interrupt()

    with signals(interrupt, 0.001, 0.0001):
        assert made.run() == Halted()
    assert made.word() == 100


def test_a_handler_that_only_returns_does_not_disturb(any_guest):
    made = any_guest(f"mov $10000000, %ecx; 1: dec %ecx; jnz 1b; {HALT}")
    seen = []
    with signals(lambda: seen.append(1), 0.001, 0.001):
        while (left := made.vcpu.run(made.bus)) == Kicked():
            pass
    assert left == Halted()
    assert seen


def test_a_signal_handler_that_raises_in_another_hook_is_not_ours():
    """`sys.unraisablehook` is as it was after a run."""
    import sys

    from emulated_guests import Guest

    from anyvisor_unicorn.hypervisor import open_unicorn

    before = sys.unraisablehook
    with open_unicorn() as hypervisor:
        made = Guest(hypervisor, SMALLEST)
        during = []
        made.ports.then = lambda: during.append(sys.unraisablehook)
        assert made.run() == Halted()
        assert during[0] is not before
        assert sys.unraisablehook is before
        made.close()
