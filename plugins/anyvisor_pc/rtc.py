"""The real-time clock: an MC146818 with its 128 bytes of CMOS RAM, showing the machine's time of day in UTC.

Some facts about the MC146818. Port 0x70 takes the number of a byte, port 0x71 is that byte; bit 7 of the
number is the PC's NMI mask. Bytes 0 to 9 are the time, in BCD unless register B says binary, the hour with an
afternoon bit unless it says 24 hours. Byte 0x32 is the century, by custom. Once a second the chip updates the
time; for 2.2 ms until then, UIP in register A warns not to read it. While SET in register B is on there are
no updates, and a guest may set the time: that moves this clock against the machine's, and nothing else. Data
sheet: Motorola MC146818, "Memory" and "Registers".

Alarm, periodic and update-ended interrupts are not generated: the alarm bytes are RAM, and register C reads
as zero. The divider bits of register A are kept and ignored.
"""

from __future__ import annotations

import calendar
import time
from collections.abc import Callable

from anyvisor.device import DeviceContext
from anyvisor.memory import GIB, KIB, MIB
from anyvisor.plan import DeviceSpec
from anyvisor_pc.bytewide import NOTHING, ByteDevice

RAM_BYTES = 128
INDEX, DATA = 0, 1

SECOND, MINUTE, HOUR, WEEKDAY, DAY, MONTH, YEAR, CENTURY = 0x00, 0x02, 0x04, 0x06, 0x07, 0x08, 0x09, 0x32
TIME_BYTES = {SECOND, MINUTE, HOUR, WEEKDAY, DAY, MONTH, YEAR, CENTURY}
REGISTER_A, REGISTER_B, REGISTER_C, REGISTER_D = 0x0A, 0x0B, 0x0C, 0x0D
READ_ONLY = {REGISTER_C, REGISTER_D}

UPDATE_IN_PROGRESS, DIVIDER_32_KHZ, RATE_1024_HZ = 0x80, 0x20, 0x06
SET, BINARY, HOURS_24 = 0x80, 0x04, 0x02
VALID = 0x80
AFTERNOON = 0x80
UPDATE_SECONDS = 0.002228

BASE_KIB, EXTENDED_KIB, EXTENDED_KIB_AGAIN, HIGH_64_KIB = 0x15, 0x17, 0x30, 0x34
"""Sizes of memory: below 640 KiB, above 1 MiB (twice), and above 16 MiB; RAM above 4 GiB is in none of them."""


def open_rtc(spec: DeviceSpec, context: DeviceContext) -> RealTimeClock:  # noqa: ARG001 - a factory's signature
    """The clock that `spec` describes; the CMOS RAM says how much memory there is."""
    lowest = context.memory.regions[0].region
    return RealTimeClock(now=context.clock.wall_seconds, memory_bytes=min(lowest.end, 4 * GIB))


class RealTimeClock(ByteDevice):
    """An MC146818 at two ports. `now`, in seconds since 1970, is its time until the guest sets another.

    `memory_bytes` is how far RAM reaches from address 0 without a hole.
    """

    def __init__(self, *, now: Callable[[], float], memory_bytes: int = 0):
        super().__init__()
        self._now = now
        self._ahead_seconds = 0.0
        self._index = 0
        self._ram = bytearray(RAM_BYTES)
        self._ram[REGISTER_A] = DIVIDER_32_KHZ | RATE_1024_HZ
        self._ram[REGISTER_B] = HOURS_24
        self._ram[REGISTER_D] = VALID
        self._note_memory(memory_bytes)

    def read_byte(self, offset: int) -> int:
        """The byte that was chosen. The choice itself cannot be read."""
        if offset != DATA:
            return NOTHING
        if self._index == REGISTER_A:
            return self._ram[REGISTER_A] | (UPDATE_IN_PROGRESS if self._is_updating() else 0)
        if self._index in TIME_BYTES:
            self._update()
        return self._ram[self._index]

    def write_byte(self, offset: int, value: int) -> None:
        """Choose a byte, or write it."""
        if offset == INDEX:
            self._index = value % RAM_BYTES
        elif offset == DATA and self._index not in READ_ONLY:
            self._write(self._index, value)

    def _write(self, index: int, value: int) -> None:
        if index == REGISTER_A:
            value &= ~UPDATE_IN_PROGRESS
        self._update()
        was_set = self._ram[REGISTER_B] & SET
        self._ram[index] = value
        if index in TIME_BYTES or was_set:
            self._adopt()

    @property
    def _stopped(self) -> bool:
        return bool(self._ram[REGISTER_B] & SET)

    def _is_updating(self) -> bool:
        return not self._stopped and (self._now() + self._ahead_seconds) % 1 > 1 - UPDATE_SECONDS

    def _update(self) -> None:
        """Write the time into its bytes, unless the guest is setting it."""
        if self._stopped:
            return
        clock = time.gmtime(self._now() + self._ahead_seconds)
        century, year = divmod(clock.tm_year, 100)
        numbers = {
            SECOND: clock.tm_sec, MINUTE: clock.tm_min, WEEKDAY: (clock.tm_wday + 1) % 7 + 1,
            DAY: clock.tm_mday, MONTH: clock.tm_mon, YEAR: year, CENTURY: century,
        }  # fmt: skip
        for index, number in numbers.items():
            self._ram[index] = self._coded(number)
        self._ram[HOUR] = self._coded_hour(clock.tm_hour)

    def _adopt(self) -> None:
        """Go on from the time in its bytes, if it is one, unless the guest is still setting it."""
        if self._stopped or (seconds := self._seconds()) is None:
            return
        self._ahead_seconds = seconds - self._now()

    def _seconds(self) -> int | None:
        """The time in its bytes, in seconds since 1970; None if there is no such time."""
        second, minute, day, month, year, century = (
            self._decoded(self._ram[index]) for index in (SECOND, MINUTE, DAY, MONTH, YEAR, CENTURY)
        )
        hour, full_year = self._decoded_hour(self._ram[HOUR]), century * 100 + year
        if not (1970 <= full_year <= 9998 and 1 <= month <= 12 and hour < 24 and minute < 60 and second < 60):
            return None
        if not 1 <= day <= calendar.monthrange(full_year, month)[1]:
            return None
        return calendar.timegm((full_year, month, day, hour, minute, second))

    def _coded(self, number: int) -> int:
        return number if self._ram[REGISTER_B] & BINARY else number // 10 << 4 | number % 10

    def _decoded(self, code: int) -> int:
        return code if self._ram[REGISTER_B] & BINARY else (code >> 4) * 10 + (code & 0x0F)

    def _coded_hour(self, hour: int) -> int:
        if self._ram[REGISTER_B] & HOURS_24:
            return self._coded(hour)
        return self._coded((hour - 1) % 12 + 1) | (AFTERNOON if hour >= 12 else 0)

    def _decoded_hour(self, code: int) -> int:
        if self._ram[REGISTER_B] & HOURS_24:
            return self._decoded(code)
        return self._decoded(code & ~AFTERNOON) % 12 + (12 if code & AFTERNOON else 0)

    def _note_memory(self, memory_bytes: int) -> None:
        """Memory sizes where a BIOS leaves them: the two bytes of each, low one first."""
        beyond_1m, beyond_16m = max(memory_bytes - MIB, 0), max(memory_bytes - 16 * MIB, 0)
        for index, size in (
            (BASE_KIB, min(memory_bytes // KIB, 640)),
            (EXTENDED_KIB, min(beyond_1m // KIB, 0xFFFF)),
            (EXTENDED_KIB_AGAIN, min(beyond_1m // KIB, 0xFFFF)),
            (HIGH_64_KIB, min(beyond_16m // (64 * KIB), 0xFFFF)),
        ):
            self._ram[index : index + 2] = size.to_bytes(2, "little")
