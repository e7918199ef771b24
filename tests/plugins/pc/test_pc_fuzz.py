"""Any bytes at any port, in any order: no device raises, grows, or contradicts itself."""

import contextlib

import hypothesis.strategies as st
import pytest
from hypothesis import settings
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule, run_state_machine_as_test
from pc_context import Bench, HandClock

from anyvisor.clock import HostClock
from anyvisor_pc.debug import open_debug
from anyvisor_pc.i8042 import open_i8042
from anyvisor_pc.pci import open_pci
from anyvisor_pc.pic import open_pic
from anyvisor_pc.pit import open_pit
from anyvisor_pc.rtc import open_rtc
from anyvisor_pc.serial import open_serial
from anyvisor_pc.specs import DEBUG, I8042, PCI, PIC, PIT, RTC, SERIAL

VALUES = st.one_of(st.integers(0, 0xFF), st.sampled_from([0, 0xFFFFFFFF, 0x80000000]), st.integers(0, 0xFFFFFFFF))
SIZES = st.sampled_from([1, 1, 1, 1, 2, 4])
FUZZ = settings(max_examples=60, stateful_step_count=60, deadline=None)


class Fuzz(RuleBasedStateMachine):
    """Reads and writes of every size at and around a device's ports."""

    factory = spec = None
    new_clock = HostClock

    def __init__(self):
        super().__init__()
        self.bench = Bench(type(self).factory, self.spec, clock=self.new_clock())
        first, last = self.spec.ports[0], self.spec.ports[-1]
        self.ports = [port for region in self.spec.ports for port in range(region.start, region.end)]
        self.ports += [first.start - 1, last.end]

    @rule(where=st.integers(0, 10), size_bytes=SIZES)
    def read(self, where, size_bytes):
        port = self.ports[where % len(self.ports)]
        assert 0 <= self.bench.bus.read_port(port, size_bytes) < 1 << 8 * size_bytes

    @rule(where=st.integers(0, 10), size_bytes=SIZES, value=VALUES)
    def write(self, where, size_bytes, value):
        self.bench.bus.write_port(self.ports[where % len(self.ports)], size_bytes, value)

    @invariant()
    def line_changes_alternate_and_begin_by_rising(self):
        levels = self.bench.levels
        assert levels == [index % 2 == 0 for index in range(len(levels))]

    @invariant()
    def only_resets_are_asked_for(self):
        assert set(self.bench.stops) <= {"reset"}

    def teardown(self):
        self.bench.close()


class SerialFuzz(Fuzz):
    factory, spec = staticmethod(open_serial), SERIAL

    @rule(data=st.binary(max_size=100))
    def input(self, data):
        with contextlib.suppress(TimeoutError):
            self.bench.consoles["serial0"].write(data, timeout=0)

    @rule()
    def identify(self):
        """The line is what the cause says, once OUT2 lets it through."""
        control = self.bench.inb(0x3FC)
        expected = bool(control & 0x08 and not control & 0x10)
        line = self.bench.level
        cause = self.bench.inb(0x3FA)
        assert cause & 0x30 == 0
        assert line == (expected and not cause & 0x01)

    @rule()
    def drain(self):
        """Without loopback, a guest that reads on gets to the end of its input, and data-ready then goes."""
        self.bench.outb(0x3FB, 0)
        self.bench.outb(0x3FC, 0)
        reads = 0
        while self.bench.inb(0x3FD) & 0x01:
            self.bench.inb(0x3F8)
            reads += 1
            assert reads < 70_000
        assert len(self.bench.consoles["serial0"]._input) == 0

    @invariant()
    def nothing_grows(self):
        device, console = self.bench.device, self.bench.consoles["serial0"]
        assert len(device._received) <= 16
        assert len(console._input) <= 64 * 1024


class I8042Fuzz(Fuzz):
    factory, spec = staticmethod(open_i8042), I8042

    @invariant()
    def output_is_never_full_for_long(self):
        self.bench.inb(0x60)
        assert self.bench.inb(0x64) & 0x43 == 0


class RtcFuzz(Fuzz):
    factory, spec = staticmethod(open_rtc), RTC

    @rule(index=st.integers(0, 0xFF), value=st.integers(0, 0xFF))
    def store(self, index, value):
        self.bench.outb(0x70, index)
        self.bench.outb(0x71, value)

    @rule(index=st.integers(0, 0xFF))
    def load(self, index):
        self.bench.outb(0x70, index)
        self.bench.inb(0x71)

    @invariant()
    def nothing_grows(self):
        assert len(self.bench.device._ram) == 128


class PciFuzz(Fuzz):
    factory, spec = staticmethod(open_pci), PCI


class DebugFuzz(Fuzz):
    factory, spec = staticmethod(open_debug), DEBUG

    @invariant()
    def post_code_is_a_byte(self):
        assert 0 <= self.bench.device.post_code <= 0xFF


class PicFuzz(Fuzz):
    factory, spec = staticmethod(open_pic), PIC

    @rule(gsi=st.integers(-1, 24), level=st.booleans())
    def set_line(self, gsi, level):
        self.bench.wiring.line(gsi)(level)

    @rule()
    def acknowledge(self):
        """A vector is of one of the two chips; without a request it is a spurious one."""
        pair, asked = self.bench.device, self.bench.device.pending
        vector = pair.acknowledge()
        assert vector & 0xF8 in (pair.master.irq_base, pair.slave.irq_base)
        assert asked or vector == pair.master.irq_base + 7

    @invariant()
    def pending_is_what_the_first_chip_requests(self):
        pair = self.bench.device
        assert pair.pending == (pair.master.request() is not None)
        for chip in (pair.master, pair.slave):
            for register in (chip.irr, chip.isr, chip.imr, chip.elcr):
                assert 0 <= register <= 0xFF


class PitFuzz(Fuzz):
    factory, spec, new_clock = staticmethod(open_pit), PIT, HandClock

    @rule(nanoseconds=st.integers(0, 10**8))
    def wait(self, nanoseconds):
        levels, clock = self.bench.levels, self.bench.clock
        before = len(levels)
        clock.go_to(clock.now() + nanoseconds)
        assert (len(levels) - before) // 2 <= nanoseconds // 99_000 + 1, "a guest cannot keep the host busy"

    @rule(count=st.integers(0, 0xFFFF), mode=st.integers(0, 7), counter=st.integers(0, 2))
    def program(self, count, mode, counter):
        self.bench.outb(0x43, counter << 6 | 0x30 | mode << 1)
        self.bench.bus.write_port(0x40 + counter, 1, count & 0xFF)
        self.bench.bus.write_port(0x40 + counter, 1, count >> 8)

    @invariant()
    def the_timer_is_never_set_to_the_past(self):
        deadline = self.bench.clock.timers[0].deadline
        assert deadline is None or deadline > self.bench.clock.now()


@pytest.mark.parametrize("machine", [SerialFuzz, I8042Fuzz, RtcFuzz, PciFuzz, DebugFuzz, PicFuzz, PitFuzz])
def test_any_sequence_of_accesses_is_survived(machine):
    run_state_machine_as_test(machine, settings=FUZZ)
