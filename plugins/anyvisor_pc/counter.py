"""One of the three counters of an 8254 timer.

Some facts about the 8254 (Intel data sheet 8254). A control word picks one of six modes; then a count is written, one
byte or two, and counts down at 1193182 Hz:

- mode 0: OUT is low until the count has ended, once; GATE low holds the count;
- mode 1: the same, begun by each rise of GATE, and OUT is high before;
- mode 2: OUT is low for the last pulse of each round; GATE low stops it, its rise begins anew;
- mode 3: as mode 2, but OUT is low for the second half of each round;
- mode 4: OUT is low for one pulse at the end of the count; GATE low holds the count;
- mode 5: the same, begun by each rise of GATE.

In modes 0, 1, 4 and 5 the count goes on below zero, but OUT stays. A count of 0 is the greatest: 65536, or 10000 in
BCD. A latch keeps a count, and another one the status, until they are read.

Nothing counts here: the count is what the clock makes it. It begins as soon as it is written, not one pulse later, and
a new one in mode 2 or 3 does not wait for the end of the round, both as in KVM and QEMU.
"""

from __future__ import annotations

from anyvisor.clock import NANOSECONDS

INPUT_HZ = 1193182

TERMINAL_COUNT, ONE_SHOT, RATE, SQUARE_WAVE, SOFTWARE_STROBE, HARDWARE_STROBE = range(6)
PERIODIC = {RATE, SQUARE_WAVE}
BEGUN_BY_GATE = {ONE_SHOT, HARDWARE_STROBE}

# Control word and status.
BCD, HIGH_BYTE, BOTH_BYTES, ACCESS, PROGRAMMED = 0x01, 0x20, 0x30, 0x30, 0x3F
NULL_COUNT, OUT = 0x40, 0x80

LEAST_PERIOD = INPUT_HZ // 10_000
"""Of a shorter round only some rises are told, each 0.1 ms, lest a guest keep a thread of the host busy."""


def nanoseconds(pulses: int) -> int:
    """How long the input takes for so many pulses, rounded up."""
    return -(-pulses * NANOSECONDS // INPUT_HZ)


class Counter:
    """A counter with its OUT and GATE. All times are the clock's nanoseconds. Not locked: the timer is."""

    def __init__(self, *, gate: bool):
        self.gate = gate
        self.began: int | None = None
        """When it began to count; None while it stands still."""
        self._count = 0x10000
        self.program(BOTH_BYTES | SQUARE_WAVE << 1)

    def program(self, control: int) -> None:
        """A control word: a new mode, with no count yet."""
        self._control = control & PROGRAMMED
        self._access = control & ACCESS
        mode = control >> 1 & 7
        self._mode = mode if mode <= HARDWARE_STROBE else mode - 4
        self._modulus = 10_000 if control & BCD else 0x10000
        self._register: int | None = None
        self._low: int | None = None
        self._read_high = False
        self._latched: list[int] = []
        self._status: int | None = None
        self._stand_empty()

    def _stand_empty(self) -> None:
        """Do not count until there is a count."""
        self._null = True
        self.began, self._held = None, 0

    # -- counting ------------------------------------------------------------------------------------------

    def set_gate(self, gate: bool, now: int) -> None:
        """Set the level of GATE."""
        if gate == self.gate:
            return
        self.gate = gate
        if self._mode in BEGUN_BY_GATE:
            if gate and self._register is not None:
                self._begin(self._register, now)
        elif self.began is not None:
            self._held = now - self.began
            self.began = None
        elif gate and not self._null:
            self.began = now if self._mode in PERIODIC else now - self._held

    def _load(self, code: int, now: int) -> bool:
        """A whole count was written; whether it changes what OUT is about to do."""
        self._register = (self._number(code) if self._control & BCD else code) or self._modulus
        self._null = True
        if self._mode in BEGUN_BY_GATE:
            return False
        self._begin(self._register, now)
        return True

    def _begin(self, count: int, now: int) -> None:
        self._count, self._null = count, False
        self.began, self._held = now if self.gate or self._mode in BEGUN_BY_GATE else None, 0

    def pulses(self, now: int) -> int:
        """How often the input pulsed since the count began."""
        return (self._held if self.began is None else now - self.began) * INPUT_HZ // NANOSECONDS

    def out(self, now: int) -> bool:
        """The level of OUT."""
        mode, count, pulses = self._mode, self._count, self.pulses(now)
        if mode == TERMINAL_COUNT:
            return pulses >= count
        if mode == ONE_SHOT:
            return self.began is None or pulses >= count
        if mode in PERIODIC:
            high = count - 1 if mode == RATE else (count + 1) // 2
            return self.began is None or pulses % count < high
        return pulses != count

    def rise_after(self, pulses: int) -> int | None:
        """The pulse at which OUT rises next, after that many of them; None if it does not rise any more."""
        if self.began is None:
            return None
        if self._mode in PERIODIC:
            period = -(-LEAST_PERIOD // self._count) * self._count
            return (pulses // period + 1) * period
        rise = self._count + (self._mode in (SOFTWARE_STROBE, HARDWARE_STROBE))
        return rise if pulses < rise else None

    def _counted(self, now: int) -> int:
        """The count as it stands, in the counter's code."""
        count, pulses = self._count, self.pulses(now)
        if self._mode == SQUARE_WAVE:  # by twos, once for each half
            left = (count & ~1) - 2 * (pulses % count % ((count + 1) // 2))
        else:
            left = count - (pulses % count if self._mode == RATE else pulses)
        left %= self._modulus
        return self._code(left) if self._control & BCD else left

    # -- registers -----------------------------------------------------------------------------------------

    def write(self, value: int, now: int) -> bool:
        """A byte of a count; whether it changes what OUT is about to do."""
        if self._access != BOTH_BYTES:
            return self._load(value << 8 if self._access == HIGH_BYTE else value, now)
        if self._low is not None:
            low, self._low = self._low, None
            return self._load(value << 8 | low, now)
        self._low = value
        if self._mode != TERMINAL_COUNT:
            return False
        self._stand_empty()
        return True

    def read(self, now: int) -> int:
        """The latched status, or a byte of the latched count, or else of the count as it stands."""
        if self._status is not None:
            status, self._status = self._status, None
            return status
        if self._latched:
            return self._latched.pop(0)
        low, high = self._bytes(now)
        is_high = self._access == HIGH_BYTE or self._read_high
        if self._access == BOTH_BYTES:
            self._read_high = not is_high
        return high if is_high else low

    def latch_count(self, now: int) -> None:
        """Keep the count until it is read; a count that is kept already stays."""
        if not self._latched:
            low, high = self._bytes(now)
            self._latched = {BOTH_BYTES: [low, high], HIGH_BYTE: [high]}.get(self._access, [low])

    def latch_status(self, now: int) -> None:
        """Keep the status until it is read; a status that is kept already stays."""
        if self._status is None:
            self._status = (OUT if self.out(now) else 0) | (NULL_COUNT if self._null else 0) | self._control

    def _bytes(self, now: int) -> tuple[int, int]:
        """The count as it stands, the low byte first."""
        high, low = divmod(self._counted(now), 0x100)
        return low, high

    @staticmethod
    def _number(code: int) -> int:
        return sum((code >> 4 * digit & 0xF) * 10**digit for digit in range(4))

    @staticmethod
    def _code(number: int) -> int:
        return sum(number // 10**digit % 10 << 4 * digit for digit in range(4))
