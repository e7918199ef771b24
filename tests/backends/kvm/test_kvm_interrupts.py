"""Interrupts from a controller of the machine's own: which get in and when, and how a vCPU waits for them in HLT."""

import functools
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import attrs
import pytest
from tiny_guests import (
    HALT,
    HANDLER,
    INTERRUPT_VECTOR,
    OTHER_PORT,
    OUT_THEN_SPIN,
    PORT,
    SMALLEST,
    SPIN,
    Guest,
    Source,
    handle_interrupt,
    held,
    long_mode,
)

from anyvisor.errors import HypervisorError, Unsupported
from anyvisor.exits import Halted, Kicked
from anyvisor.hypervisor import InterruptSource
from anyvisor.x86_64.state import Activity, MpState, Regs
from anyvisor_kvm.hypervisor import open_kvm
from rounds import rounds

pytestmark = pytest.mark.kvm

IF = 1 << 9 | 1 << 1
"""RFLAGS with interrupts on; bit 1 is always set."""
SAID = 0x99
"""What the handler of `handle_interrupt` writes to OTHER_PORT."""
OUT_THEN_WAIT = bytes([0xE6, PORT,               # out PORT, al
                       0xFB,                     # sti
                       0xF4, 0xEB, 0xFD])  # wait: hlt; jmp wait            # fmt: skip


@pytest.fixture
def wired(guest):
    """`wired(code, *vectors)`: a guest that takes its interrupts from `guest.source`, and answers INTERRUPT_VECTOR."""

    def make(code, *vectors, **options):
        source = Source(*vectors)
        made = guest(code, source=source, **options)
        made.source = source
        handle_interrupt(made.memory)
        return made

    return make


def interrupt(made, vector=INTERRUPT_VECTOR):
    """What a controller does when a line is raised."""
    made.source.vectors.append(vector)
    made.vcpu.notify_interrupt()


def until_said(made, times=1):
    """Kick once the handler has said so many times that it ran."""
    made.others.then = lambda: made.vcpu.kick() if len(made.others.writes) == times else None


class Runner(threading.Thread):
    """Runs a vCPU once, elsewhere."""

    def __init__(self, made):
        super().__init__(daemon=True)
        self.made, self.found = made, None
        self.start()

    def run(self):
        self.found = self.made.vcpu.run(self.made.bus)

    def result(self):
        self.join(20)
        assert not self.is_alive(), f"the vCPU did not come back; it has said {len(self.made.others.writes)}"
        return self.found


def waiting(wired, code=OUT_THEN_WAIT):
    """A guest that stands in HLT, or is about to, in a thread of its own."""
    made, inside = wired(code), threading.Event()
    made.ports.then = inside.set
    runner = Runner(made)
    assert inside.wait(10)
    time.sleep(0.05)
    assert runner.is_alive()
    return made, runner


def test_the_scripted_source_is_one(wired):
    assert {name for name in vars(InterruptSource) if not name.startswith("_")} <= set(dir(Source()))


# -- getting in --------------------------------------------------------------------------------------------------------


def test_an_interrupt_that_is_pending_when_run_begins_gets_to_its_handler(wired):
    made = wired(SPIN, INTERRUPT_VECTOR)
    until_said(made)
    assert made.run(rflags=IF, rsp=0x8000) == Kicked()
    assert (made.others.values, made.source.log) == ([SAID], [f"vector {INTERRUPT_VECTOR:#x}"])


@pytest.mark.parametrize("code", [OUT_THEN_SPIN, OUT_THEN_WAIT], ids=["spinning", "halted"])
def test_a_device_may_interrupt_from_within_an_access_of_the_guest(wired, code):
    made = wired(code)
    made.ports.then = lambda: interrupt(made)
    until_said(made)
    assert made.run(rflags=IF, rsp=0x8000) == Kicked()
    assert made.others.values == [SAID]


def test_the_answer_of_a_read_arrives_before_the_interrupt_that_it_raised(wired):
    made = wired(bytes([0xE4, PORT, *SPIN]), answers=[0x42])  # in al, PORT; jmp .
    made.memory.write(HANDLER, bytes([0xE6, OTHER_PORT, 0xCF]))  # out OTHER_PORT, al; iret
    made.ports.then = lambda: interrupt(made)
    until_said(made)
    assert made.run(rflags=IF, rsp=0x8000) == Kicked()
    assert (made.others.values, len(made.ports.reads)) == ([0x42], 1)


def test_an_interrupt_waits_for_sti(wired):
    code = bytes([0xE6, PORT, 0x90, 0xE6, PORT + 1, 0xFB, 0x90, *SPIN])
    made = wired(code)  # out PORT, al; nop; out PORT + 1, al; sti; nop; jmp .
    log = made.source.log

    def written():
        log.append(f"port {made.ports.writes[-1][0]}")
        if len(made.ports.writes) == 1:
            interrupt(made)

    made.ports.then = written
    until_said(made)
    assert made.run(rsp=0x8000) == Kicked()
    assert log == ["port 0", "port 1", f"vector {INTERRUPT_VECTOR:#x}"]


def test_an_interrupt_does_not_come_between_sti_and_hlt(wired):
    """Else the guest would sleep although what it waits for has come. SDM Vol. 2B, STI."""
    made = wired(OUT_THEN_WAIT)
    made.memory.write(HANDLER, bytes([0x58, 0x50, 0xE6, OTHER_PORT, 0xCF]))  # pop ax; push ax; out OTHER_PORT, al; iret
    made.ports.then = lambda: interrupt(made)
    until_said(made)
    assert made.run(rsp=0x8000) == Kicked()
    after_hlt = OUT_THEN_WAIT.index(HALT) + 1
    assert made.others.values == [after_hlt]


def test_interrupts_that_are_pending_together_come_one_after_the_other(wired):
    vectors = [INTERRUPT_VECTOR, INTERRUPT_VECTOR + 1, INTERRUPT_VECTOR]
    made = wired(SPIN, *vectors)
    made.memory.write(4 * (INTERRUPT_VECTOR + 1), (HANDLER + 0x10).to_bytes(4, "little"))
    made.memory.write(HANDLER + 0x10, bytes([0xB0, 0x77, 0xE6, OTHER_PORT, 0xCF]))  # mov al, 0x77; out OTHER_PORT, al
    until_said(made, 3)
    assert made.run(rflags=IF, rsp=0x8000) == Kicked()
    assert made.others.values == [SAID, 0x77, SAID]


def test_a_source_that_changes_its_mind_does_no_harm(wired):
    """A line may be lowered again before the guest takes the interrupt."""
    made = wired(bytes([0xE6, PORT, 0xE6, PORT, 0xFB, 0x90, *SMALLEST, *SPIN]))  # out; out; sti; nop; out; hlt
    writes = made.ports.writes

    def written():
        {1: lambda: interrupt(made), 2: made.source.vectors.clear, 3: made.vcpu.kick}[len(writes)]()

    made.ports.then = written
    assert made.run(rsp=0x8000) == Kicked()
    assert (len(writes), made.others.values, made.source.log) == (3, [], [])


def test_a_source_may_take_over_from_another(wired):
    made = wired(SPIN, 0x99)
    second = Source(INTERRUPT_VECTOR)
    made.vcpu.take_interrupts_from(second)
    until_said(made)
    assert made.run(rflags=IF, rsp=0x8000) == Kicked()
    assert (made.source.log, second.log) == ([], [f"vector {INTERRUPT_VECTOR:#x}"])


def test_a_guest_that_lowers_its_task_priority_in_cr8_goes_on(wired):
    made = wired(bytes([0xB8, 5, 0, 0, 0, 0x44, 0x0F, 0x22, 0xC0,       # mov eax, 5; mov cr8, rax
                        0x31, 0xC0, 0x44, 0x0F, 0x22, 0xC0,             # xor eax, eax; mov cr8, rax
                        *SMALLEST]))  # fmt: skip
    long_mode(made.vcpu, made.memory)
    assert made.run(rsp=0x8000) == Halted()
    assert made.ports.values == [0]


# -- HLT ---------------------------------------------------------------------------------------------------------------


def test_hlt_is_woken_by_an_interrupt_from_another_thread(wired):
    made, runner = waiting(wired)
    until_said(made)
    interrupt(made)
    assert runner.result() == Kicked()
    assert made.others.values == [SAID]


def test_hlt_is_woken_by_a_timer_of_the_vms_clock_again_and_again(wired):
    made = wired(OUT_THEN_WAIT)

    def tick():
        interrupt(made)
        timer.set(made.vm.clock.now() + 1_000_000)

    timer = made.vm.clock.timer(tick)
    made.ports.then = lambda: timer.set(0)
    until_said(made, 20)
    assert made.run(rsp=0x8000) == Kicked()
    assert made.others.values == [SAID] * 20
    assert made.vm.clock.now() >= 19_000_000


def test_hlt_costs_no_processor_time(wired):
    made, runner = waiting(wired)
    before = time.process_time()
    time.sleep(0.3)
    assert time.process_time() - before < 0.25
    made.vcpu.kick()
    runner.result()


def test_a_notification_without_an_interrupt_lets_hlt_go_on(wired):
    made, runner = waiting(wired, bytes([0xE6, PORT, 0xFB, 0xF4, *SMALLEST]))  # out; sti; hlt; out; hlt
    for _ in range(5):
        made.vcpu.notify_interrupt()
        time.sleep(0.01)
    assert len(made.ports.writes) == 1
    until_said(made)
    interrupt(made)
    assert runner.result() == Kicked()
    made.vcpu.kick()
    assert made.vcpu.run(made.bus) == Kicked()


def test_hlt_with_interrupts_off_is_halted_whatever_is_pending(wired):
    made = wired(SMALLEST, INTERRUPT_VECTOR)
    assert made.run(rsp=0x8000) == Halted()
    assert made.source.log == []


def test_hlt_without_a_source_is_halted(guest):
    assert guest(HALT).run(rflags=IF) == Halted()


def test_a_kick_gets_a_vcpu_out_of_hlt_and_the_next_run_goes_on_waiting(wired):
    made, runner = waiting(wired, bytes([0xE6, PORT, 0xFB, 0xF4, *SMALLEST]))  # out; sti; hlt; out; hlt
    for _ in range(3):
        made.vcpu.kick()
        assert runner.result() == Kicked()
        assert made.vcpu.get(MpState) == MpState(Activity.HALTED)
        runner = Runner(made)
        time.sleep(0.02)
        assert runner.is_alive()
        assert len(made.ports.writes) == 1, "the guest went on behind HLT"
    interrupt(made)
    while len(made.ports.writes) < 2:
        assert runner.is_alive()
    assert made.others.values == [SAID]
    made.vcpu.kick()
    assert runner.result() == Kicked()


def test_a_kick_before_run_counts_for_a_vcpu_in_hlt(wired):
    made, runner = waiting(wired)
    made.vcpu.kick()
    assert runner.result() == Kicked()
    made.vcpu.kick()
    assert made.vcpu.run(made.bus) == Kicked()


def test_standing_in_hlt_is_a_state_that_can_be_put(wired):
    made = wired(SMALLEST)
    made.vcpu.put(MpState(Activity.HALTED))
    made.vcpu.put(Regs(rflags=IF, rsp=0x8000))
    assert made.vcpu.get(MpState) == MpState(Activity.HALTED)
    threading.Timer(0.05, interrupt, (made,)).start()
    until_said(made)
    assert made.vcpu.run(made.bus) == Kicked()
    assert (made.ports.writes, made.others.values) == ([], [SAID])
    assert made.vcpu.get(MpState) == MpState(Activity.RUNNABLE)


def test_a_vcpu_in_hlt_that_is_made_runnable_goes_on(wired):
    made, runner = waiting(wired, bytes([0xE6, PORT, 0xFB, 0xF4, 0xFA, *SMALLEST]))  # out; sti; hlt; cli; out; hlt
    made.vcpu.kick()
    assert runner.result() == Kicked()
    made.vcpu.put(MpState(Activity.RUNNABLE))
    assert made.vcpu.run(made.bus) == Halted()
    assert len(made.ports.writes) == 2


def test_a_signal_gets_a_vcpu_out_of_hlt_and_its_handler_runs(wired):
    made = wired(OUT_THEN_WAIT)
    seen = []
    old = signal.signal(signal.SIGUSR1, lambda *_: seen.append("handled"))
    me = threading.get_ident()
    try:
        made.ports.then = threading.Timer(0.05, signal.pthread_kill, (me, signal.SIGUSR1)).start
        assert made.run(rsp=0x8000) == Kicked()
    finally:
        signal.signal(signal.SIGUSR1, old)
    assert seen == ["handled"]
    threading.Timer(0.05, interrupt, (made,)).start()
    until_said(made)
    assert made.vcpu.run(made.bus) == Kicked()
    assert made.others.values == [SAID]


def test_ctrl_c_comes_out_of_hlt_and_the_vcpu_goes_on_waiting(wired):
    made = wired(OUT_THEN_WAIT)
    made.ports.then = threading.Timer(0.05, os.kill, (os.getpid(), signal.SIGINT)).start
    with pytest.raises(KeyboardInterrupt):
        made.run(rsp=0x8000)
    threading.Timer(0.05, interrupt, (made,)).start()
    until_said(made)
    assert made.vcpu.run(made.bus) == Kicked()
    assert made.others.values == [SAID]


@pytest.mark.parametrize("what", ["kick", "interrupt"])
def test_a_signal_handler_on_top_of_the_wait_may_kick_and_interrupt(wired, what):
    made = wired(OUT_THEN_WAIT)
    do = {"kick": made.vcpu.kick, "interrupt": lambda: interrupt(made)}[what]
    old = signal.signal(signal.SIGUSR1, lambda *_: do())
    me = threading.get_ident()
    try:
        made.ports.then = threading.Timer(0.05, signal.pthread_kill, (me, signal.SIGUSR1)).start
        assert made.run(rsp=0x8000) == Kicked()
        until_said(made)
        if what == "interrupt":
            assert made.vcpu.run(made.bus) == Kicked()
            assert made.others.values == [SAID]
    finally:
        signal.signal(signal.SIGUSR1, old)


def test_without_a_kick_signal_hlt_is_woken_and_kicked_all_the_same(usable_kvm):
    with open_kvm(kick_signal=None) as kvm:
        made = Guest(kvm, OUT_THEN_WAIT, source=Source())
        made.source = Source()
        made.vcpu.take_interrupts_from(made.source)
        handle_interrupt(made.memory)
        made.ports.then = threading.Timer(0.05, interrupt, (made,)).start
        made.others.then = threading.Timer(0.05, made.vcpu.kick).start
        assert made.run(rsp=0x8000) == Kicked()
        assert made.others.values == [SAID]
        made.close()


# -- threads -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("code", [OUT_THEN_SPIN, OUT_THEN_WAIT], ids=["spinning", "halting"])
def test_a_storm_of_interrupts_from_several_threads_loses_none_and_returns_no_kick(wired, code):
    made, threads, each = wired(code), 4, 150
    made.vcpu.put(Regs(rflags=IF, rsp=0x8000))
    runner = Runner(made)
    storm = [
        threading.Thread(target=lambda: [interrupt(made) for _ in range(each)], daemon=True) for _ in range(threads)
    ]
    for thread in storm:
        thread.start()
    for thread in storm:
        thread.join(20)
    deadline = time.monotonic() + 20
    while len(made.others.writes) < threads * each and time.monotonic() < deadline:
        assert runner.is_alive(), f"run came back with {runner.found}"
        time.sleep(0.01)
    assert made.others.values == [SAID] * threads * each
    made.vcpu.kick()
    assert runner.result() == Kicked()


def test_notifications_alone_never_end_run(wired):
    made, runner = waiting(wired, OUT_THEN_SPIN)
    for _ in range(2000):
        made.vcpu.notify_interrupt()
    time.sleep(0.02)
    assert runner.is_alive()
    made.vcpu.kick()
    assert runner.result() == Kicked()


RACE = """
import sys, threading
sys.path.insert(0, sys.argv[1])
from tiny_guests import INTERRUPT_VECTOR, SPIN, Guest, Source, handle_interrupt
from anyvisor.exits import Kicked
from anyvisor.x86_64.state import Regs
from anyvisor_kvm.hypervisor import open_kvm

CODE, RUNS, INTERRUPTS = bytes.fromhex(sys.argv[2]), *map(int, sys.argv[3:])
with open_kvm() as kvm:
    source = Source()
    guest = Guest(kvm, CODE, source=source)
    handle_interrupt(guest.memory)
    guest.vcpu.put(Regs(rflags=0x202, rsp=0x8000))
    over, counts, turn = threading.Event(), [0, 0], threading.Semaphore(0)

    def interrupt():
        while not over.is_set():
            source.vectors.append(INTERRUPT_VECTOR)
            guest.vcpu.notify_interrupt()
            counts[0] += 1
            while source.vectors and not over.is_set():
                pass

    def kick():
        while counts[0] < INTERRUPTS or counts[1] < RUNS:
            guest.vcpu.kick()
            counts[1] += 1
            if not turn.acquire(timeout=20):
                counts[1] = "lost"
                break
        over.set()
        guest.vcpu.kick()

    threads = [threading.Thread(target=each, daemon=True) for each in (interrupt, kick)]
    sys.setswitchinterval(1e-5)
    for each in threads:
        each.start()
    results = []
    while not over.is_set():
        results.append(guest.vcpu.run(guest.bus))
        turn.release()
    for each in threads:
        each.join()
    guest.others.then = lambda: guest.vcpu.kick() if len(guest.others.writes) == counts[0] else None
    while len(guest.others.writes) < counts[0]:
        assert guest.vcpu.run(guest.bus) == Kicked()
    guest.close()
assert set(results) == {Kicked()}, set(results)
assert len(results) in (counts[1], counts[1] + 1), counts
print("survived", counts[0])
"""


@pytest.mark.parametrize("code", [SPIN, OUT_THEN_WAIT[2:]], ids=["spinning", "halting"])
def test_kicks_that_race_interrupts_are_told_apart_and_none_of_either_is_lost(code):
    """In a process of its own: a kick signal gone astray would end it."""
    counts = (str(rounds(300)), str(rounds(50)))
    command = [sys.executable, "-c", RACE, str(Path(__file__).parent), code.hex(), *counts]
    found = subprocess.run(command, capture_output=True, text=True, timeout=50, check=False)
    assert (found.returncode, found.stdout[:8]) == (0, "survived"), found.stderr


# -- errors, and the end -----------------------------------------------------------------------------------------------


def test_when_a_device_raises_its_access_is_over_and_the_interrupt_it_raised_is_not_lost(wired):
    made = wired(bytes([0xE6, PORT, 0xE6, PORT + 1, *SPIN]))  # out PORT, al; out PORT + 1, al; jmp .

    def fail():
        interrupt(made)
        made.ports.then = lambda: None
        raise ValueError("broken device")

    made.ports.then = fail
    with pytest.raises(ValueError, match="broken device"):
        made.run(rflags=IF, rsp=0x8000)
    assert (made.vcpu.get(Regs).rip, made.source.log) == (2, [])
    until_said(made)
    assert made.vcpu.run(made.bus) == Kicked()
    made.vcpu.put(attrs.evolve(made.vcpu.get(Regs), rip=2))
    made.ports.then = made.vcpu.kick
    assert made.vcpu.run(made.bus) == Kicked()
    assert ([offset for offset, _, _ in made.ports.writes], made.others.values) == ([0, 1], [SAID])


@pytest.mark.parametrize("name", ["pending", "acknowledge"])
def test_the_error_of_a_source_comes_out_of_run_and_the_vcpu_goes_on(wired, name):
    made = wired(OUT_THEN_WAIT)

    class Broken(Source):
        pending = property(lambda self: 1 // 0 if name == "pending" else True)

        def acknowledge(self):
            return 1 // 0

    made.vcpu.take_interrupts_from(Broken())
    with pytest.raises(ZeroDivisionError):
        made.run(rflags=IF, rsp=0x8000)
    made.vcpu.take_interrupts_from(made.source)
    made.ports.then = lambda: interrupt(made)
    until_said(made)
    assert made.vcpu.run(made.bus) == Kicked()
    assert (len(made.ports.writes), made.others.values) == (1, [SAID])


def test_a_vector_that_is_none_is_refused(wired):
    with pytest.raises(HypervisorError, match=r"KVM_INTERRUPT \(vCPU 0\): EINVAL"):
        wired(SPIN, 0x100).run(rflags=IF)


def test_a_vm_whose_controllers_are_in_kvm_takes_no_others(guest):
    made = guest(HALT, irqchip=True)
    with pytest.raises(Unsupported, match=r"vCPU 0 takes its interrupts from the controllers in KVM; .* no Irqchip"):
        made.vcpu.take_interrupts_from(Source())
    made.vcpu.notify_interrupt()
    made.vcpu.kick()
    assert [made.vcpu.run(made.bus) for _ in range(1)] == [Kicked()]


def test_a_notification_for_a_vcpu_without_a_source_or_after_close_does_nothing(guest, wired):
    made = guest(SMALLEST)
    made.vcpu.notify_interrupt()
    assert made.run() == Halted()
    made = wired(SPIN)
    made.vcpu.close()
    made.vcpu.notify_interrupt()


def test_timers_that_notify_while_the_vm_is_closed_do_no_harm_and_are_called_no_more(kvm):
    before, failures, calls = held(), [], []
    timers = []

    def tick(made):
        calls.append(made)
        made.vcpu.notify_interrupt()
        timers[-1].set(0)

    for _ in range(30):
        made = Guest(kvm, SPIN, source=Source())
        made.vm.clock.on_failure(failures.append)
        timers.append(made.vm.clock.timer(functools.partial(tick, made)))
        timers[-1].set(0)
        while made not in calls[-1:]:
            time.sleep(0)
        made.close()
        count = len(calls)
        timers[-1].set(0)
        time.sleep(0.001)
        assert len(calls) == count
    assert (held(), failures) == (before, [])


def test_a_vm_that_cannot_be_closed_since_a_vcpu_runs_keeps_its_clock(wired):
    made, runner = waiting(wired)
    with pytest.raises(HypervisorError, match="EBUSY"):
        made.vm.close()
    made.vm.clock.timer(made.vcpu.kick).set(0)
    assert runner.result() == Kicked()
