"""The local APIC, against Intel's SDM Vol. 3, chapter 11, where neither QEMU nor KVM can be asked."""

import pytest
from apic_bench import LOCAL, ApicBench

from anyvisor.x86_64.lapic import Lapic, boot_lapic

TPR, PPR, EOI, SVR, ESR, ICR, ICR_HIGH = 0x80, 0xA0, 0xB0, 0xF0, 0x280, 0x300, 0x310
TIMER, THERMAL, PERFORMANCE, LINT0, LINT1, ERROR = range(0x320, 0x380, 0x10)
INITIAL, CURRENT, DIVIDE = 0x380, 0x390, 0x3E0
BY_1 = 0b1011
ISR, TMR, IRR = 0x100, 0x180, 0x200
MASKED, PERIODIC = 1 << 16, 1 << 17
MILLISECOND = 1_000_000


@pytest.fixture
def bench():
    made = ApicBench()
    made.enable()
    return made


def send_to_self(bench, *vectors):
    for vector in vectors:
        bench.set_lapic(ICR, 0x40000 | vector)


# -- registers -----------------------------------------------------------------------------------------------


def test_registers_begin_as_a_pcs_firmware_leaves_them():
    bench = ApicBench()
    page = bytearray(1024)
    for offset in range(0x20, 0x3F0, 0x10):
        page[offset : offset + 4] = bench.lapic(offset).to_bytes(4, "little")
    change = boot_lapic(boot_processor=True)
    assert Lapic.from_bytes(bytes(page)) == Lapic(**dict(change.fields))


@pytest.mark.parametrize("offset", [0x00, 0x10, 0x40, 0x70, 0xC0, 0x290, 0x2F0, 0x3A0, 0x3F0, 0xFF0])
def test_registers_that_do_not_exist_read_as_zero_and_are_an_error(bench, offset):
    assert bench.lapic(offset) == 0
    bench.set_lapic(ESR, 0)
    assert bench.lapic(ESR) == 0x80
    bench.set_lapic(ESR, 0)
    assert bench.lapic(ESR) == 0
    bench.set_lapic(offset, 0xFFFFFFFF)
    bench.set_lapic(ESR, 0)
    assert bench.lapic(ESR) == 0x80


@pytest.mark.parametrize("offset", [0x30, 0x90, 0xA0, 0x100, 0x1F0, 0x270, 0x390])
def test_read_only_registers_are_not_written_and_no_error(bench, offset):
    before = bench.lapic(offset)
    bench.set_lapic(offset, 0xFFFFFFFF)
    bench.set_lapic(ESR, 0)
    assert (bench.lapic(offset), bench.lapic(ESR)) == (before, 0)


@pytest.mark.parametrize("size_bytes", [1, 2, 8])
def test_accesses_that_are_not_32_bits_wide_do_nothing(bench, size_bytes):
    bench.set_lapic(TPR, 0x20)
    bench.write(LOCAL + TPR, 0x77, size_bytes)
    assert bench.read(LOCAL + TPR, size_bytes) == 0
    assert bench.lapic(TPR) == 0x20


# -- errors --------------------------------------------------------------------------------------------------


def test_illegal_vectors_are_not_sent_and_are_an_error(bench):
    send_to_self(bench, 0x0F)
    assert bench.lapic(ESR) == 0, "not shown before it is written"
    bench.set_lapic(ESR, 0)
    assert (bench.lapic(ESR), bench.bits(IRR)) == (0x20, set())


def test_illegal_vectors_that_arrive_are_an_error(bench):
    bench.redirect(4, 0x0005)
    bench.set_line(4, True)
    bench.set_lapic(ESR, 0)
    assert (bench.lapic(ESR), bench.bits(IRR)) == (0x40, set())


def test_an_error_interrupts_once_until_it_is_shown(bench):
    bench.set_lapic(ERROR, 0xFE)
    for _ in range(3):
        send_to_self(bench, 0)
    assert bench.take() == [0xFE]
    bench.set_lapic(EOI, 0)
    send_to_self(bench, 0)
    assert bench.take() == []
    bench.set_lapic(ESR, 0)
    send_to_self(bench, 0)
    assert bench.take() == [0xFE]


def test_an_error_vector_that_is_illegal_itself_is_one_more_error(bench):
    bench.set_lapic(ERROR, 0x02)
    send_to_self(bench, 0)
    bench.set_lapic(ESR, 0)
    assert (bench.lapic(ESR), bench.bits(IRR)) == (0x60, set())


# -- messages ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["smi", "nmi", "init", "startup"])
@pytest.mark.parametrize("shorthand", range(4))
def test_other_messages_than_interrupts_go_nowhere(bench, mode, shorthand):
    delivery_mode = {"smi": 2, "nmi": 4, "init": 5, "startup": 6}[mode]
    bench.set_lapic(ICR, 0x31 | delivery_mode << 8 | 0x4000 | shorthand << 18)
    bench.set_lapic(ESR, 0)
    assert (bench.bits(IRR), bench.lapic(ESR), bench.apic.pending) == (set(), 0, False)


def test_a_message_is_delivered_by_the_time_its_status_is_read(bench):
    bench.set_lapic(ICR, 0x41031)
    assert bench.lapic(ICR) == 0x40031


def test_what_is_no_destination_model_matches_nobody(bench):
    bench.set_lapic(0xE0, 0x5FFFFFFF)
    bench.set_lapic(0xD0, 0x11000000)
    bench.set_lapic(ICR_HIGH, 0x11000000)
    bench.set_lapic(ICR, 0x831)
    assert bench.bits(IRR) == set()


def test_own_id_can_be_changed(bench):
    bench.set_lapic(0x20, 0x07000000)
    for destination, vector in ((0, 0x30), (7, 0x37)):
        bench.set_lapic(ICR_HIGH, destination << 24)
        bench.set_lapic(ICR, vector)
    assert bench.bits(IRR) == {0x37}


# -- priorities ----------------------------------------------------------------------------------------------


def test_an_interrupt_of_the_same_class_waits_and_one_of_a_higher_class_does_not(bench):
    send_to_self(bench, 0x45)
    assert bench.take() == [0x45]
    send_to_self(bench, 0x4F)
    assert (bench.take(), bench.lapic(PPR)) == ([], 0x40)
    send_to_self(bench, 0x50)
    assert (bench.take(), bench.lapic(PPR), bench.bits(ISR)) == ([0x50], 0x50, {0x45, 0x50})
    bench.set_lapic(EOI, 0)
    assert (bench.take(), bench.bits(ISR)) == ([], {0x45})
    bench.set_lapic(EOI, 0)
    assert bench.take() == [0x4F]


def test_an_end_of_nothing_is_harmless(bench):
    bench.set_lapic(EOI, 0)
    send_to_self(bench, 0x31)
    bench.set_lapic(EOI, 0)
    assert bench.take() == [0x31]


def test_an_interrupt_that_went_away_is_spurious_and_not_in_service(bench):
    bench.set_lapic(LINT0, MASKED)
    bench.set_lapic(SVR, 0x1EF)
    send_to_self(bench, 0x31)
    bench.set_lapic(TPR, 0x30)
    assert (bench.apic.pending, bench.apic.acknowledge(), bench.bits(ISR)) == (False, 0xEF, set())


def test_disabling_keeps_what_was_accepted(bench):
    send_to_self(bench, 0x31)
    bench.set_lapic(SVR, 0xFF)
    assert (bench.take(), bench.bits(IRR)) == ([], {0x31})
    bench.enable()
    assert bench.take() == [0x31]


# -- timer ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("code", "divisor"),
    [(0b0000, 2), (0b0001, 4), (0b0010, 8), (0b0011, 16), (0b1000, 32), (0b1001, 64), (0b1010, 128)],
)
def test_divider_and_interrupt_are_exact(bench, code, divisor):
    bench.set_lapic(DIVIDE, code)
    bench.set_lapic(TIMER, 0x41)
    bench.set_lapic(INITIAL, 1000)
    assert bench.lapic(CURRENT) == 1000
    bench.clock.advance(divisor - 1)
    assert bench.lapic(CURRENT) == 1000
    bench.clock.advance(1)
    assert bench.lapic(CURRENT) == 999
    bench.clock.advance(999 * divisor - 1)
    assert (bench.lapic(CURRENT), bench.take()) == (1, [])
    bench.clock.advance(1)
    assert (bench.lapic(CURRENT), bench.take()) == (0, [0x41])
    bench.clock.advance(5000 * divisor)
    assert (bench.lapic(CURRENT), bench.lapic(INITIAL), bench.bits(IRR)) == (0, 1000, set())


def start(bench, count, low):
    bench.set_lapic(DIVIDE, BY_1)
    bench.set_lapic(TIMER, low)
    bench.set_lapic(INITIAL, count)


def test_periodic_timer_keeps_its_rhythm_when_it_is_late(bench):
    start(bench, MILLISECOND, 0x41 | PERIODIC)
    bench.clock.time += 10_600_000  # nobody looks for ten periods and a half
    bench.clock.advance(0)
    assert (bench.take(), bench.lapic(CURRENT)) == ([0x41], 400_000)
    bench.set_lapic(EOI, 0)
    bench.clock.advance(399_999)
    assert bench.take() == []
    bench.clock.advance(1)
    assert (bench.take(), bench.clock.calls) == ([0x41], 2)


@pytest.mark.parametrize("count", [1, 7, 99_999, 100_000, 100_001])
def test_alarms_never_come_in_bursts(bench, count):
    start(bench, count, 0x41 | PERIODIC)
    bench.clock.advance(10 * MILLISECOND)
    assert 99 <= bench.clock.calls <= 101
    assert 1 <= bench.lapic(CURRENT) <= count


def test_a_guest_that_reads_the_count_gets_the_interrupt_that_is_due(bench):
    start(bench, 1000, 0x41)
    bench.clock.time += 1000  # the alarm is late
    assert (bench.lapic(CURRENT), bench.take()) == (0, [0x41])
    bench.set_lapic(EOI, 0)
    bench.clock.advance(10)
    assert bench.take() == [], "the late alarm adds nothing"


def test_a_masked_timer_sets_no_alarm_and_is_heard_of_once_it_is_unmasked(bench):
    start(bench, MILLISECOND, 0x41 | MASKED | PERIODIC)
    bench.clock.advance(5_500_000)
    assert (bench.clock.calls, bench.bits(IRR), bench.lapic(CURRENT)) == (0, set(), 500_000)
    bench.set_lapic(TIMER, 0x41 | PERIODIC)
    assert bench.take() == []
    bench.clock.advance(500_000)
    assert bench.take() == [0x41]


def test_masking_in_time_silences_the_timer(bench):
    start(bench, MILLISECOND, 0x41)
    bench.clock.advance(MILLISECOND - 1)
    bench.set_lapic(TIMER, 0x41 | MASKED)
    bench.clock.advance(MILLISECOND)
    assert (bench.clock.calls, bench.bits(IRR)) == (0, set())


def test_masking_too_late_does_not_take_the_interrupt_back(bench):
    start(bench, MILLISECOND, 0x41)
    bench.clock.time += MILLISECOND
    bench.set_lapic(TIMER, 0x42 | MASKED)
    assert bench.take() == [0x41]


def test_a_new_initial_count_begins_anew_and_0_stops(bench):
    start(bench, 1000, 0x41)
    bench.clock.advance(999)
    bench.set_lapic(INITIAL, 1000)
    bench.clock.advance(999)
    assert bench.take() == []
    bench.set_lapic(INITIAL, 0)
    bench.clock.advance(MILLISECOND)
    assert (bench.take(), bench.lapic(CURRENT), bench.clock.calls) == ([], 0, 0)


def test_a_new_divider_goes_on_from_the_count_that_was_reached(bench):
    start(bench, 1000, 0x41)
    bench.clock.advance(400)
    bench.set_lapic(DIVIDE, 0b0011)
    assert bench.lapic(CURRENT) == 600
    bench.clock.advance(600 * 16 - 1)
    assert (bench.lapic(CURRENT), bench.take()) == (1, [])
    bench.clock.advance(1)
    assert bench.take() == [0x41]


def test_disabling_the_apic_silences_the_timer_until_it_is_unmasked_again(bench):
    start(bench, MILLISECOND, 0x41 | PERIODIC)
    bench.set_lapic(SVR, 0xFF)
    bench.clock.advance(3 * MILLISECOND)
    bench.enable()
    bench.clock.advance(3 * MILLISECOND)
    assert (bench.bits(IRR), bench.lapic(TIMER), bench.clock.calls) == (set(), 0x41 | MASKED | PERIODIC, 0)
    bench.set_lapic(TIMER, 0x41 | PERIODIC)
    bench.clock.advance(MILLISECOND)
    assert bench.take() == [0x41]


def test_after_close_there_is_no_alarm(bench):
    start(bench, MILLISECOND, 0x41 | PERIODIC)
    bench.apic.close()
    bench.apic.close()
    bench.clock.advance(10 * MILLISECOND)
    assert (bench.clock.calls, bench.bits(IRR)) == (0, set())
