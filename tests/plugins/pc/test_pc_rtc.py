"""The clock, read as mc146818rtc drivers read it."""

import calendar
import time

import pytest
from pc_context import Bench, HandClock

from anyvisor.memory import GIB, MIB, Region
from anyvisor_pc.rtc import RealTimeClock, open_rtc
from anyvisor_pc.specs import RTC

INDEX, DATA = 0, 1
A_MOMENT = calendar.timegm((2031, 12, 28, 23, 9, 5))
"""A Sunday, just before midnight."""


class Clock:
    def __init__(self, seconds: float = A_MOMENT):
        self.seconds = seconds
        self.rtc = RealTimeClock(now=lambda: self.seconds)

    def read(self, index: int) -> int:
        self.rtc.write(INDEX, 1, index)
        return self.rtc.read(DATA, 1)

    def write(self, index: int, value: int) -> None:
        self.rtc.write(INDEX, 1, index)
        self.rtc.write(DATA, 1, value)

    def date(self) -> list[int]:
        return [self.read(index) for index in (0x32, 9, 8, 7, 4, 2, 0)]

    def set_date(self, *values: int) -> None:
        self.write(0x0B, self.read(0x0B) | 0x80)
        for index, value in zip((0x32, 9, 8, 7, 4, 2, 0), values, strict=True):
            self.write(index, value)
        self.write(0x0B, self.read(0x0B) & ~0x80)


def test_time_is_the_hosts_in_bcd_utc():
    clock = Clock()
    assert clock.date() == [0x20, 0x31, 0x12, 0x28, 0x23, 0x09, 0x05]
    assert clock.read(6) == 1, "Sunday"


def test_time_goes_on():
    clock = Clock()
    clock.seconds += 3600 * 25
    assert clock.date() == [0x20, 0x31, 0x12, 0x30, 0x00, 0x09, 0x05]
    assert clock.read(6) == 3


def test_binary_mode():
    clock = Clock()
    clock.write(0x0B, 0x06)
    assert clock.date() == [20, 31, 12, 28, 23, 9, 5]


@pytest.mark.parametrize(("hour", "bcd"), [(0, 0x12), (1, 0x01), (11, 0x11), (12, 0x92), (13, 0x81), (23, 0x91)])
def test_twelve_hour_mode(hour, bcd):
    clock = Clock(calendar.timegm((2031, 1, 1, hour, 0, 0)))
    clock.write(0x0B, 0x00)
    assert clock.read(4) == bcd
    clock.set_date(0x20, 0x31, 0x01, 0x01, bcd, 0, 0)
    assert clock.read(4) == bcd
    clock.write(0x0B, 0x02)
    assert clock.read(4) == int(str(hour), 16)


def test_valid_and_no_interrupt_flags():
    clock = Clock()
    clock.write(0x0D, 0)
    clock.write(0x0C, 0xFF)
    assert (clock.read(0x0A), clock.read(0x0B), clock.read(0x0C), clock.read(0x0D)) == (0x26, 0x02, 0, 0x80)


def test_update_in_progress_warns_for_two_milliseconds_before_each_second():
    clock = Clock()
    seen = []
    for fraction in (0.0, 0.5, 0.9977, 0.9978, 0.9999):
        clock.seconds = A_MOMENT + fraction
        seen.append(clock.read(0x0A) >> 7)
    assert seen == [0, 0, 0, 1, 1]
    clock.write(0x0B, 0x82)
    assert clock.read(0x0A) >> 7 == 0


def test_a_guest_can_set_the_time_and_it_goes_on_from_there():
    clock = Clock()
    clock.set_date(0x20, 0x24, 0x02, 0x29, 0x12, 0x34, 0x56)
    assert clock.date() == [0x20, 0x24, 0x02, 0x29, 0x12, 0x34, 0x56]
    assert clock.read(6) == 5
    clock.seconds += 86400
    assert clock.date() == [0x20, 0x24, 0x03, 0x01, 0x12, 0x34, 0x56]


def test_time_stands_still_while_it_is_being_set():
    clock = Clock()
    clock.write(0x0B, 0x82)
    clock.seconds += 10
    assert clock.read(0) == 0x05
    clock.write(0x0B, 0x02)
    assert clock.read(0) == 0x05
    clock.seconds += 10
    assert clock.read(0) == 0x15


@pytest.mark.parametrize(
    "date",
    [
        (0x20, 0x23, 0x02, 0x29, 0, 0, 0),
        (0x20, 0x23, 0x13, 1, 0, 0, 0),
        (0x20, 0x23, 0, 1, 0, 0, 0),
        (0x20, 0x23, 1, 0, 0, 0, 0),
        (0x20, 0x23, 1, 1, 0x24, 0, 0),
        (0x20, 0x23, 1, 1, 0, 0x60, 0),
        (0x20, 0x23, 1, 1, 0, 0, 0x60),
        (0x19, 0x69, 1, 1, 0, 0, 0),
        (0xFF,) * 7,
        (0,) * 7,
    ],
)
def test_an_impossible_date_is_not_taken(date):
    clock = Clock()
    clock.set_date(*date)
    assert clock.date() == [0x20, 0x31, 0x12, 0x28, 0x23, 0x09, 0x05]


def test_ram_is_kept_and_ends_at_128_bytes():
    clock = Clock()
    clock.write(0x7F, 0xAB)
    assert clock.read(0x7F) == clock.read(0xFF) == 0xAB, "bit 7 of the index is the NMI mask"
    assert len(clock.rtc._ram) == 128


def test_index_cannot_be_read_and_a_16_bit_write_does_both():
    clock = Clock()
    clock.rtc.write(INDEX, 2, 0x5A40)
    assert clock.read(0x40) == 0x5A
    assert clock.rtc.read(INDEX, 1) == 0xFF


@pytest.mark.parametrize(
    ("ram", "expected"),
    [
        ([Region(0, 64 * MIB)], [0x80, 0x02, 0x00, 0xFC, 0x00, 0xFC, 0x00, 0x03]),
        ([Region(0, 3 * GIB), Region(4 * GIB, 5 * GIB)], [0x80, 0x02, 0xFF, 0xFF, 0xFF, 0xFF, 0x00, 0xBF]),
        ([Region(0, 6 * GIB)], [0x80, 0x02, 0xFF, 0xFF, 0xFF, 0xFF, 0x00, 0xFF]),
    ],
    ids=["64M", "3G and 5G above 4G", "6G without a gap"],
)
def test_memory_sizes_below_4_gib_are_where_a_bios_leaves_them(ram, expected):
    bench = Bench(open_rtc, RTC, ram=ram)
    sizes = []
    for index in (0x15, 0x16, 0x17, 0x18, 0x30, 0x31, 0x34, 0x35):
        bench.outb(0x70, index)
        sizes.append(bench.inb(0x71))
    bench.close()
    assert sizes == expected


def test_time_of_day_is_the_machines_own():
    bench = Bench(open_rtc, RTC, clock=HandClock(seconds=A_MOMENT))
    seen = []
    for moment in (0, 86_400 * 10**9):
        bench.clock.go_to(moment)
        bench.outb(0x70, 0x07)
        seen.append(bench.inb(0x71))
    bench.close()
    assert seen == [0x28, 0x29]


def test_a_real_clock_shows_now():
    bench = Bench(open_rtc, RTC)
    bench.outb(0x70, 0x09)
    before, year, after = time.gmtime().tm_year, bench.inb(0x71), time.gmtime().tm_year
    bench.close()
    assert year in {int(str(each % 100), 16) for each in (before, after)}
