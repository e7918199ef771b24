"""The 8254 and port 0x61 by the data sheet, on a clock turned by hand."""

import itertools
import time

import pytest
from pc_context import Bench, HandClock

from anyvisor_pc.pit import open_pit
from anyvisor_pc.specs import PIT

HZ = 1193182
SECOND = 10**9


def moment(pulses: int) -> int:
    """The first nanosecond by which the input has pulsed so many times."""
    return -(-pulses * SECOND // HZ)


class Timer:
    def __init__(self):
        self.clock = HandClock()
        self.bench = Bench(open_pit, PIT, clock=self.clock)
        self.out, self.inb = self.bench.outb, self.bench.inb

    def program(self, counter: int, mode: int, *count: int, access: int = 3, bcd: bool = False) -> None:
        self.out(0x43, counter << 6 | access << 4 | mode << 1 | bcd)
        for byte in count:
            self.out(0x40 + counter, byte)

    def at(self, pulses: int) -> None:
        self.clock.go_to(moment(pulses))

    def count(self, counter: int) -> int:
        low = self.inb(0x40 + counter)
        return low | self.inb(0x40 + counter) << 8

    def status(self, counter: int) -> int:
        self.out(0x43, 0xE0 | 2 << counter)
        return self.inb(0x40 + counter)

    @property
    def speaker_out(self) -> int:
        return self.inb(0x61) >> 5 & 1

    def course(self, *pulses: int) -> tuple[list[int], list[int]]:
        """Counts and OUT of counter 2 at those pulses."""
        counts, outs = [], []
        for each in pulses:
            self.at(each)
            counts.append(self.count(2))
            outs.append(self.speaker_out)
        return counts, outs


@pytest.fixture
def timer():
    timer = Timer()
    yield timer
    timer.bench.close()


# -- modes ---------------------------------------------------------------------------------------------------


def test_mode_0_counts_down_to_a_rise_and_on(timer):
    timer.out(0x61, 0x01)
    timer.program(2, 0, 4, 0)
    assert timer.course(0, 1, 3, 4, 5, 9) == ([4, 3, 1, 0, 0xFFFF, 0xFFFB], [0, 0, 0, 1, 1, 1])


def test_mode_0_ends_not_a_nanosecond_early(timer):
    timer.out(0x61, 0x01)
    timer.program(2, 0, 0xFF, 0xFF)
    timer.clock.go_to(moment(0xFFFF) - 1)
    assert timer.speaker_out == 0
    timer.clock.go_to(moment(0xFFFF))
    assert timer.speaker_out == 1


def test_a_low_gate_holds_modes_0_and_4(timer):
    """QEMU and KVM let them count on."""
    timer.out(0x61, 0x01)
    for mode in (0, 4):
        timer.program(2, mode, 100, 0)
        began = timer.clock.now()
        timer.clock.go_to(began + moment(30))
        timer.out(0x61, 0x00)
        timer.clock.go_to(began + moment(1030))
        assert timer.count(2) == 70
        timer.out(0x61, 0x01)
        timer.clock.go_to(timer.clock.now() + moment(20))
        assert timer.count(2) == 50


def test_a_count_that_is_loaded_under_a_low_gate_begins_with_the_gate(timer):
    timer.program(2, 0, 100, 0)
    timer.at(500)
    assert (timer.count(2), timer.speaker_out) == (100, 0)
    timer.out(0x61, 0x01)
    timer.clock.go_to(timer.clock.now() + moment(99))
    assert timer.speaker_out == 0
    timer.clock.go_to(timer.clock.now() + moment(1))
    assert timer.speaker_out == 1


def test_mode_1_is_begun_by_each_rise_of_gate(timer):
    timer.program(2, 1, 3, 0)
    assert timer.status(2) == 0x80 | 0x40 | 0x32, "OUT high, null count"
    timer.at(1000)
    assert timer.speaker_out == 1
    timer.out(0x61, 0x01)
    assert timer.status(2) == 0x32
    began = timer.clock.now()
    timer.out(0x61, 0x00)
    timer.clock.go_to(began + moment(2))
    assert timer.speaker_out == 0, "GATE low does not stop it"
    timer.out(0x61, 0x01)
    timer.clock.go_to(began + moment(4))
    assert timer.speaker_out == 0, "begun anew"
    timer.clock.go_to(began + moment(6))
    assert timer.speaker_out == 1


def test_mode_1_takes_a_new_count_at_the_next_rise_of_gate(timer):
    timer.program(2, 1, 10, 0)
    timer.out(0x61, 0x01)
    timer.out(0x42, 50)
    timer.out(0x42, 0)
    assert timer.status(2) == 0x40 | 0x32
    timer.at(10)
    assert timer.speaker_out == 1
    timer.out(0x61, 0x00)
    timer.out(0x61, 0x01)
    assert timer.count(2) == 50


def test_mode_2_is_low_for_the_last_pulse_of_each_round(timer):
    timer.out(0x61, 0x01)
    timer.program(2, 2, 4, 0)
    assert timer.course(*range(9)) == ([4, 3, 2, 1, 4, 3, 2, 1, 4], [1, 1, 1, 0, 1, 1, 1, 0, 1])


def test_mode_3_of_an_even_count_goes_by_twos(timer):
    timer.out(0x61, 0x01)
    timer.program(2, 3, 6, 0)
    assert timer.course(*range(7)) == ([6, 4, 2, 6, 4, 2, 6], [1, 1, 1, 0, 0, 0, 1])


def test_mode_3_of_an_odd_count_is_high_one_pulse_longer(timer):
    timer.out(0x61, 0x01)
    timer.program(2, 3, 5, 0)
    assert timer.course(*range(6)) == ([4, 2, 0, 4, 2, 4], [1, 1, 1, 0, 0, 1])


@pytest.mark.parametrize("mode", [2, 3])
def test_gate_stops_the_periodic_modes_with_out_high_and_begins_them_anew(timer, mode):
    timer.out(0x61, 0x01)
    timer.program(2, mode, 100, 0)
    timer.at(99)
    assert timer.speaker_out == 0
    timer.out(0x61, 0x00)
    assert timer.speaker_out == 1
    timer.at(1234)
    assert timer.speaker_out == 1
    timer.out(0x61, 0x01)
    assert timer.count(2) == 100


@pytest.mark.parametrize("mode", [4, 5])
def test_strobes_are_low_for_one_pulse_at_the_end(timer, mode):
    timer.out(0x61, 0x01 if mode == 4 else 0x00)
    timer.program(2, mode, 3, 0)
    timer.out(0x61, 0x01)
    assert timer.course(0, 2, 3, 4, 5) == ([3, 1, 0, 0xFFFF, 0xFFFE], [1, 1, 0, 1, 1])


def test_modes_6_and_7_are_2_and_3_and_read_back_as_written(timer):
    timer.out(0x61, 0x01)
    for mode, counts in ((6, [4, 3, 2, 1]), (7, [4, 2, 4, 2])):
        timer.program(2, mode, 4, 0)
        began = timer.clock.now()
        seen = []
        for pulse in range(4):
            timer.clock.go_to(began + moment(pulse))
            seen.append(timer.count(2))
        assert seen == counts
        assert timer.status(2) & 0x3F == 0x30 | mode << 1


# -- counts --------------------------------------------------------------------------------------------------


def test_zero_is_the_greatest_count(timer):
    timer.out(0x61, 0x01)
    timer.program(2, 0, 0, 0)
    assert timer.course(0, 1, 65535, 65536) == ([0, 0xFFFF, 1, 0], [0, 0, 0, 1])
    timer.program(2, 0, 0, 0, bcd=True)
    began = timer.clock.now()
    timer.clock.go_to(began + moment(1))
    assert timer.count(2) == 0x9999
    timer.clock.go_to(began + moment(10_000))
    assert (timer.count(2), timer.speaker_out) == (0, 1)


def test_bcd_counts_in_tens(timer):
    timer.program(1, 0, 0x00, 0x12, bcd=True)
    seen = []
    for pulse in (0, 1, 200, 201, 1200, 1201):
        timer.at(pulse)
        seen.append(timer.count(1))
    assert seen == [0x1200, 0x1199, 0x1000, 0x0999, 0x0000, 0x9999]


@pytest.mark.parametrize(("access", "written", "expected"), [(1, 0x34, 0x34), (2, 0x12, 0x1200)])
def test_counts_of_one_byte(timer, access, written, expected):
    timer.program(1, 2, written, access=access)
    timer.clock.go_to(0)
    assert timer.inb(0x41) == written
    assert timer.status(1) == 0x80 | access << 4 | 0x04
    timer.at(expected)
    assert timer.inb(0x41) == written
    timer.at(2 * expected - 1)
    assert timer.inb(0x41) == (1 if access == 1 else 0)


def test_the_first_byte_of_a_new_count_stops_mode_0(timer):
    timer.out(0x61, 0x01)
    timer.program(2, 0, 2, 0)
    timer.at(50)
    assert timer.speaker_out == 1
    timer.out(0x42, 9)
    assert timer.speaker_out == 0
    assert timer.status(2) == 0x40 | 0x30
    timer.at(500)
    assert timer.speaker_out == 0
    timer.out(0x42, 0)
    timer.clock.go_to(timer.clock.now() + moment(9))
    assert timer.speaker_out == 1


def test_null_count_is_told_until_there_is_a_count(timer):
    timer.program(1, 2)
    assert timer.status(1) == 0x80 | 0x40 | 0x34
    timer.out(0x41, 7)
    assert timer.status(1) & 0x40
    timer.out(0x41, 0)
    assert timer.status(1) == 0x80 | 0x34


# -- latches -------------------------------------------------------------------------------------------------


def test_a_latched_count_stays_until_it_is_read(timer):
    timer.program(1, 0, 0xFF, 0xFF)
    timer.at(0x1234)
    timer.out(0x43, 0x40)
    timer.at(0x5000)
    timer.out(0x43, 0x40)
    assert timer.count(1) == 0xFFFF - 0x1234
    assert timer.count(1) == 0xFFFF - 0x5000


def test_a_latch_begins_with_the_low_byte_even_after_half_a_read(timer):
    timer.program(1, 0, 0x34, 0x12)
    assert timer.inb(0x41) == 0x34
    timer.out(0x43, 0x40)
    timer.at(0x100)
    assert (timer.inb(0x41), timer.inb(0x41)) == (0x34, 0x12)
    assert timer.inb(0x41) == 0x11  # the other half


def test_read_back_gives_the_status_before_the_count(timer):
    timer.program(0, 2, 0, 0x10)
    timer.program(1, 0, 0, 0x20)
    timer.out(0x43, 0xC6)
    timer.at(0x100)
    assert (timer.inb(0x40), timer.count(0)) == (0xB4, 0x1000)
    assert (timer.inb(0x41), timer.count(1)) == (0x30, 0x2000)
    assert (timer.count(0), timer.count(1)) == (0x0F00, 0x1F00)


def test_a_latched_status_stays_until_it_is_read(timer):
    timer.program(1, 0, 100, 0)
    timer.out(0x43, 0xE4)
    timer.at(200)
    timer.out(0x43, 0xE4)
    assert (timer.inb(0x41), timer.status(1)) == (0x30, 0xB0)


def test_a_control_word_unlatches(timer):
    timer.program(1, 0, 0xFF, 0xFF)
    timer.out(0x43, 0xC4)
    timer.program(1, 0, 5, 0)
    assert timer.count(1) == 5


def test_the_control_port_cannot_be_read(timer):
    assert timer.inb(0x43) == 0xFF


# -- port 0x61 -----------------------------------------------------------------------------------------------


def test_refresh_bit_turns_over_every_15_microseconds(timer):
    levels = []
    for microsecond in range(1500):
        timer.clock.go_to(microsecond * 1000)
        levels.append(timer.inb(0x61) >> 4 & 1)
    changes = sum(before != after for before, after in itertools.pairwise(levels))
    assert changes == 1500 // 15.086


def test_port_61_keeps_its_lower_half(timer):
    timer.out(0x61, 0xFF)
    assert timer.inb(0x61) & 0x0F == 0x0F
    timer.out(0x61, 0xF0)
    assert timer.inb(0x61) & 0x0F == 0


def test_linux_measures_a_processor_with_it(timer):
    """As pit_calibrate_tsc: GATE up, speaker off, mode 0, and 10 ms until bit 5 is set."""
    timer.out(0x61, timer.inb(0x61) & ~0x02 | 0x01)
    latch = HZ // 100
    timer.program(2, 0, latch & 0xFF, latch >> 8)
    began, reads = timer.clock.now(), 0
    while not timer.inb(0x61) & 0x20:
        timer.clock.go_to(timer.clock.now() + 1000)
        reads += 1
    assert reads == 10_000
    assert timer.clock.now() - began == 10_000_000


# -- line 0 --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", [2, 3])
def test_line_0_rises_at_each_round_without_drift(timer, mode):
    timer.program(0, mode, 0xA9, 0x04)  # 250 Hz rounded: 1193 pulses
    period = 0x04A9
    for round_ in range(1, 50):
        timer.clock.go_to(moment(round_ * period) - 1)
        assert timer.bench.levels.count(True) == round_ - 1
        timer.clock.go_to(moment(round_ * period))
        assert timer.bench.levels.count(True) == round_
    assert timer.bench.levels == [True, *[False, True] * 48]


def test_an_hour_of_rounds_ends_where_arithmetic_says(timer):
    timer.program(0, 2, 0, 0)
    timer.clock.go_to(3600 * SECOND)
    rounds = 3600 * HZ // 65536
    assert timer.bench.levels.count(True) == rounds
    assert timer.clock.timers[0].deadline == moment((rounds + 1) * 65536)


def test_rounds_that_nobody_told_are_told_as_one(timer):
    timer.program(0, 2, 0xA9, 0x04)
    timer.clock.time = moment(0x04A9 * 100 + 7)
    timer.clock.go_to(timer.clock.time)
    assert timer.bench.levels == [True]
    assert timer.clock.timers[0].deadline == moment(0x04A9 * 101)


@pytest.mark.parametrize(("mode", "pulses"), [(0, 1000), (4, 1001)])
def test_line_0_rises_once_at_the_end_of_a_count(timer, mode, pulses):
    timer.program(0, mode, 0xE8, 0x03)
    timer.clock.go_to(moment(pulses) - 1)
    assert timer.bench.levels == []
    timer.clock.go_to(moment(pulses))
    assert timer.bench.levels == [True]
    timer.clock.go_to(10 * SECOND)
    assert timer.bench.levels == [True]


def test_linux_programs_one_shots_by_counts_alone(timer):
    timer.program(0, 4)
    for _ in range(3):
        timer.out(0x40, 0xE8)
        timer.out(0x40, 0x03)
        timer.clock.go_to(timer.clock.now() + SECOND // 100)
    assert timer.bench.levels == [True, False, True, False, True]


def test_a_new_control_word_silences_line_0(timer):
    timer.program(0, 2, 0xE8, 0x03)
    timer.at(1500)
    timer.program(0, 0)
    timer.clock.go_to(SECOND)
    assert timer.bench.levels == [True, False]


def test_no_interrupt_before_anyone_asks(timer):
    timer.clock.go_to(SECOND)
    assert timer.bench.levels == []
    assert timer.bench.gsis == [0]


def test_other_counters_leave_line_0_alone(timer):
    timer.program(0, 2, 0xE8, 0x03)
    timer.at(1500)
    timer.out(0x61, 0x01)
    timer.program(1, 2, 0xE8, 0x03)
    timer.program(2, 3, 0xE8, 0x03)
    timer.out(0x43, 0x00)
    assert timer.bench.levels == [True]
    assert timer.clock.timers[0].deadline == moment(2000)


def test_a_tiny_count_does_not_keep_the_host_busy(timer):
    """As with KVM, which tells no more than one in 0.2 ms; ours falls on ends of rounds nevertheless."""
    timer.program(0, 2, 7, 0)
    timer.clock.go_to(SECOND)
    assert 9_000 < timer.bench.levels.count(True) <= 10_100
    deadline = timer.clock.timers[0].deadline
    assert deadline in {
        moment(7 * n) for n in range(deadline * HZ // SECOND // 7 - 1, deadline * HZ // SECOND // 7 + 2)
    }


def test_a_call_that_was_on_its_way_is_ignored(timer):
    timer.program(0, 2, 0xE8, 0x03)
    late = timer.clock.timers[0].call
    timer.program(0, 0)
    late()
    assert timer.bench.levels == []
    timer.program(0, 2, 0xE8, 0x03)
    late()
    assert timer.bench.levels == []
    assert timer.clock.timers[0].deadline == moment(1000)


def test_nothing_rises_after_close(timer):
    timer.program(0, 2, 0xE8, 0x03)
    late = timer.clock.timers[0].call
    timer.bench.device.close()
    timer.bench.device.close()
    late()
    timer.clock.go_to(SECOND)
    assert timer.bench.levels == []
    assert timer.clock.timers[0].deadline is None


def test_a_host_clock_keeps_the_rate():
    bench = Bench(open_pit, PIT)
    count = HZ // 500
    for port, value in ((0x43, 0x34), (0x40, count & 0xFF), (0x40, count >> 8)):
        bench.outb(port, value)
    time.sleep(0.3)
    bench.close()
    rises, rounds = bench.levels.count(True), bench.clock.now() * HZ // SECOND // count
    assert 5 < rises <= rounds, "a busy host loses some; none is told twice"
    assert bench.levels == [index % 2 == 0 for index in range(len(bench.levels))]
