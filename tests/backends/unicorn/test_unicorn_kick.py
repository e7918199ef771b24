"""Kicks: from everywhere, at any moment, lost never, and what the guest was doing is done once."""

import sys
import threading
import time

import pytest
from emulated_guests import CODE, DATA, HALT, SPIN, STACK, Runner, Source, spinning

from anyvisor.exits import Halted, Kicked
from anyvisor.facts import Capability
from anyvisor.x86_64.state import Regs

SMALLEST = f"out %al, $PORT; {HALT}"


def test_it_is_said_that_kicks_get_a_spinning_guest_out(unicorn):
    assert unicorn.facts.has(Capability.KICK)


@pytest.mark.parametrize(
    "spin", ["jmp .", "cli; jmp .", "1: incq DATA; jmp 1b", "1: in $PORT, %al; jmp 1b", "1: mov MMIO, %eax; jmp 1b",
             "mov $DATA, %esi; mov $PORT, %edx; mov $~0, %rcx; 1: mov $DATA, %esi; outsb; jmp 1b",
             "1: pause; jmp 1b", "1: cpuid; jmp 1b", "1: pushf; popf; jmp 1b",
             "1: mov %cr3, %rax; mov %rax, %cr3; jmp 1b"]
)  # fmt: skip
def test_a_kick_gets_a_spinning_guest_out_soon(any_guest, spin):
    made, runner = spinning(any_guest, "out %al, $PORT\n" + spin)
    for _ in range(3):
        began = time.monotonic()
        made.vcpu.kick()
        assert runner.result() == Kicked()
        assert time.monotonic() - began < 20, "no more than a busy machine takes"
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


@pytest.mark.parametrize("turns", [1_000_000])
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


@pytest.mark.parametrize("elsewhere", [True, False], ids=["by another thread", "by its own"])
def test_a_kick_on_the_way_into_the_engine_is_not_lost(any_guest, elsewhere):
    """The engine forgets a stop that comes before it has begun."""

    class KickingSource(Source):
        """Asked whether an interrupt is pending, which is the last thing before the engine is started, it kicks."""

        @property
        def pending(self):
            if elsewhere:
                kicker = threading.Thread(target=made.vcpu.kick)
                kicker.start()
                kicker.join()
            else:
                made.vcpu.kick()
            return False

    made = any_guest(SPIN, interrupts=KickingSource())
    for _ in range(20):
        assert Runner(made).result() == Kicked()


def test_no_kick_is_lost_wherever_it_finds_the_vcpu(guest):
    """Also on its way into the engine, where a stop that comes too early is forgotten."""
    made = guest("1: addq $1, DATA; jmp 1b")
    returned, over = threading.Semaphore(0), threading.Event()

    def live():
        while not over.is_set():
            assert made.vcpu.run(made.bus) == Kicked()
            returned.release()

    runner = threading.Thread(target=live, daemon=True)
    runner.start()
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        for i in range(3000):
            for _ in range(i % 50):
                pass
            made.vcpu.kick()
            assert returned.acquire(timeout=10), f"kick {i} was lost"
    finally:
        sys.setswitchinterval(before)
    over.set()
    made.vcpu.kick()
    runner.join()


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
