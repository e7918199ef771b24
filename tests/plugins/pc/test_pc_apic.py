"""Both APICs as one device: how they are wired to the 8259 pair and the processor, and what they survive."""

import threading

import hypothesis.strategies as st
from apic_bench import APIC, IO, LOCAL, ApicBench, FakePic
from hypothesis import settings
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule, run_state_machine_as_test

from anyvisor.clock import HostClock
from anyvisor.device import DeviceContext
from anyvisor.interrupts import InterruptWiring
from anyvisor_pc.apic import open_apic

LINT0, SVR, EOI, TIMER = 0x350, 0xF0, 0xB0, 0x320
EXTINT, MASKED = 7 << 8, 1 << 16


# -- the 8259 pair -------------------------------------------------------------------------------------------


def test_it_takes_over_from_the_pic_and_listens_to_all_lines():
    pic = FakePic()
    bench = ApicBench(pic)
    assert bench.sources == [pic, bench.apic]
    assert bench.wiring.source is bench.apic
    bench.enable()
    bench.redirect(4, 0x31)
    bench.set_line(4, True)
    assert bench.apic.pending


def test_the_pic_is_heard_from_reset_on_without_the_local_apic_being_enabled():
    pic = FakePic()
    bench = ApicBench(pic)
    assert not bench.apic.pending
    pic.vectors.append(0x08)
    assert bench.take() == [0x08]
    assert not bench.apic.pending


def test_the_pic_is_heard_through_an_unmasked_extint_only():
    pic = FakePic()
    bench = ApicBench(pic)
    bench.enable()
    pic.vectors.append(0x08)
    for low, heard in ((EXTINT | MASKED, False), (0x0031, False), (4 << 8, False), (EXTINT, True)):
        bench.set_lapic(LINT0, low)
        assert bench.apic.pending == heard
    bench.set_lapic(SVR, 0xFF)
    assert not bench.apic.pending, "being disabled masks LINT0"


def test_the_pic_is_heard_through_the_io_apic():
    pic = FakePic()
    bench = ApicBench(pic)
    bench.enable()
    bench.set_lapic(LINT0, MASKED)
    pic.vectors.append(0x08)
    bench.redirect(8, EXTINT | MASKED)
    assert not bench.apic.pending
    bench.redirect(8, EXTINT)
    assert bench.take() == [0x08]
    pic.vectors.append(0x09)
    bench.redirect(8, EXTINT | MASKED)
    assert bench.take() == []


def test_the_apics_own_interrupt_comes_first_and_the_pics_does_not_wait_for_its_end():
    pic = FakePic()
    bench = ApicBench(pic)
    bench.enable()
    bench.set_lapic(0x300, 0x400F1)
    pic.vectors.append(0x08)
    assert bench.take() == [0xF1, 0x08]
    assert bench.bits(0x100) == {0xF1}, "the PIC's are not in service here"


def test_without_a_pic_there_is_nothing_at_lint0():
    bench = ApicBench()
    assert (bench.apic.pending, bench.apic.acknowledge()) == (False, 0xFF)


def test_the_pic_is_called_without_the_lock():
    """The PIC may set a line, or hold its own lock in which a line was set, while it is acknowledged."""
    pic = FakePic()
    bench = ApicBench(pic)
    pic.vectors.append(0x08)
    pic.acknowledge = lambda: bench.set_line(4, True) or pic.vectors.pop()
    assert bench.take() == [0x08]


# -- the processor is told -----------------------------------------------------------------------------------


def test_the_processor_is_told_of_whatever_becomes_pending():
    bench = ApicBench()
    bench.enable()
    bench.redirect(4, 0x31)
    bench.set_line(4, True)
    assert bench.notices == [True]
    assert bench.take() == [0x31]
    bench.set_lapic(0x300, 0x40035)
    assert bench.notices == [True], "it waits for the end of 0x31"
    bench.set_lapic(EOI, 0)
    assert bench.notices == [True, True]
    assert bench.take() == [0x35]
    bench.set_lapic(EOI, 0)
    bench.set_lapic(TIMER, 0x41)
    bench.set_lapic(0x380, 1000)
    bench.clock.advance(2000)
    assert bench.notices == [True, True, True]


def test_the_processor_is_told_when_the_pic_is_let_through_again():
    pic = FakePic()
    bench = ApicBench(pic)
    bench.enable()
    bench.set_lapic(LINT0, MASKED)
    pic.vectors.append(0x08)
    bench.set_lapic(LINT0, EXTINT)
    assert bench.notices == [True]


def test_a_lower_task_priority_lets_in_what_waited():
    bench = ApicBench()
    bench.enable()
    bench.set_lapic(0x80, 0xF0)
    bench.set_lapic(0x300, 0x40041)
    assert bench.notices == []
    bench.set_lapic(0x80, 0)
    assert bench.notices == [True]


def test_a_timer_on_the_hosts_clock_interrupts_in_time_and_no_more_after_close():
    clock, told = HostClock(), threading.Semaphore(0)
    wiring = InterruptWiring(lambda gsi, level: None, lambda source: None, told.release)
    apic = open_apic(APIC, DeviceContext(None, None, None, None, clock, wiring))
    began = clock.now()
    try:
        for offset, value in ((SVR, 0x1FF), (0x3E0, 0b1011), (TIMER, 0x20041), (0x380, 2_000_000)):
            apic.write(LOCAL - IO + offset, 4, value)
        for _ in range(10):
            assert told.acquire(timeout=5)
            assert apic.acknowledge() == 0x41
            apic.write(LOCAL - IO + EOI, 4, 0)
        assert clock.now() - began >= 20_000_000, "none came early"
        apic.close()
        while told.acquire(blocking=False):
            pass  # what came just before it was closed
        apic.write(LOCAL - IO + EOI, 4, 0)
        assert not told.acquire(timeout=0.02)
    finally:
        clock.close()


def test_lines_from_several_threads_are_all_taken():
    """Each thread raises its own line and waits until the processor has lowered it again."""
    bench = ApicBench()
    bench.enable()
    pins, rounds, taken = (4, 5, 6), 200, []
    free = {pin: threading.Semaphore(1) for pin in pins}
    for pin in pins:
        bench.redirect(pin, 0x8000 | 0x40 + pin)

    def device(pin):
        for _ in range(rounds):
            assert free[pin].acquire(timeout=20)
            bench.apic.set_line(pin, True)

    threads = [threading.Thread(target=device, args=(pin,), daemon=True) for pin in pins]
    for thread in threads:
        thread.start()
    while len(taken) < rounds * len(pins) and (any(map(threading.Thread.is_alive, threads)) or bench.apic.pending):
        if bench.apic.pending:
            taken.append(bench.apic.acknowledge() - 0x40)
            bench.apic.set_line(taken[-1], False)
            bench.set_lapic(EOI, 0)
            free[taken[-1]].release()
    assert sorted(taken) == sorted(pins * rounds)


# -- anything ------------------------------------------------------------------------------------------------

VALUES = st.one_of(
    st.integers(0, 0xFFFFFFFF), st.integers(0, 0xFF), st.sampled_from([0x1FF, 0xFFFFFFFF, 0x20041, 0x8031])
)
OFFSETS = st.one_of(st.integers(0, 0xFF).map(lambda index: index * 16), st.integers(0, 0xFFF))
SIZES = st.sampled_from([4, 4, 4, 4, 1, 2, 8])
TIMES = st.sampled_from([0, 1, 999, 100_000, 1_000_000, 50_000_000])


class Fuzz(RuleBasedStateMachine):
    """A guest that writes anything anywhere, devices that set any line, and time that passes."""

    def __init__(self):
        super().__init__()
        self.pic = FakePic()
        self.bench = ApicBench(self.pic)
        self.bench.enable()

    @rule(base=st.sampled_from([IO, LOCAL]), offset=OFFSETS, size_bytes=SIZES, value=VALUES)
    def write(self, base, offset, size_bytes, value):
        self.bench.write(base + offset, value, size_bytes)

    @rule(base=st.sampled_from([IO, LOCAL]), offset=OFFSETS, size_bytes=SIZES)
    def read(self, base, offset, size_bytes):
        assert 0 <= self.bench.read(base + offset, size_bytes) < 1 << 32

    @rule(register=st.integers(0x10, 0x3F), value=VALUES)
    def redirect(self, register, value):
        self.bench.set_ioapic(register, value)
        assert self.bench.ioapic(register) & ~0x4000 & value == self.bench.ioapic(register) & ~0x4000

    @rule(offset=st.sampled_from([0x80, 0xB0, 0xD0, 0xE0, 0x300, 0x320, 0x350, 0x370, 0x380, 0x3E0]), value=VALUES)
    def write_what_matters(self, offset, value):
        self.bench.set_lapic(offset, value)

    @rule(gsi=st.integers(-1, 25), level=st.booleans())
    def line(self, gsi, level):
        self.bench.set_line(gsi, level)

    @rule(nanoseconds=TIMES)
    def wait(self, nanoseconds):
        before = self.bench.clock.calls
        self.bench.clock.advance(nanoseconds)
        assert self.bench.clock.calls - before <= nanoseconds // 100_000 + 2, "a burst"

    @rule()
    def pic_has_one(self):
        self.pic.vectors = [0x08]

    @rule()
    def take(self):
        priority = self.bench.lapic(0xA0)
        own = self.bench.apic._ready
        if self.bench.apic.pending:
            vector = self.bench.apic.acknowledge()
            assert vector >> 4 > priority >> 4 if own else vector == 0x08

    @invariant()
    def what_is_pending_was_told(self):
        """A processor that sleeps until it is told sleeps through nothing: the last notice was of something pending."""
        if self.bench.apic._ready:
            assert self.bench.notices
            assert self.bench.notices[-1]

    @invariant()
    def registers_agree(self):
        requested, in_service = self.bench.bits(0x200), self.bench.bits(0x100)
        assert all(vector >= 16 for vector in requested | in_service)
        assert self.bench.lapic(0xA0) >> 4 == max(self.bench.lapic(0x80), *in_service, 0) >> 4
        assert self.bench.lapic(0x390) <= self.bench.lapic(0x380)


def test_any_sequence_of_accesses_is_survived():
    run_state_machine_as_test(Fuzz, settings=settings(max_examples=150, stateful_step_count=80, deadline=None))
