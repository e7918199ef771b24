"""The power-management device: how a guest with ACPI switches its machine off, resets it and tells the time.

Some facts about the PM registers (ACPI specification 6.5, 4.8). The status register says what happened; a 1 written to
a bit clears it. A bit that is set there and in the enable register raises the SCI, the one interrupt that ACPI has,
until it is cleared. A PC's control register also says whether ACPI or the BIOS is in charge; here is no BIOS that could
be, so SCI_EN is always set. A guest goes to sleep by writing the number of a state to SLP_TYP and 1 to SLP_EN, in one
write or in two; the only state here is the one without a way back.

The timer counts at 3.579545 MHz and has 32 bits. When its highest bit changes, every ten minutes, TMR_STS is set:
nothing else happens here, since there is no button. A machine of the reduced profile has neither these registers nor
the timer. It has a byte to sleep by, and one that would tell of a wake-up. The reset register is there either way.
"""

from __future__ import annotations

from collections.abc import Callable

from anyvisor.clock import NANOSECONDS, Clock
from anyvisor.device import DeviceContext, StopReason
from anyvisor.plan import DeviceSpec
from anyvisor.x86_64.acpi.power import (
    PM1_CONTROL,
    PM1_EVENT,
    PM_TIMER,
    PM_TIMER_BYTES,
    PM_TIMER_HZ,
    RESET,
    RESET_VALUE,
    SLEEP_CONTROL,
    SLEEP_STATUS,
    SOFT_OFF,
)
from anyvisor_pc.bytewide import NOTHING, ByteDevice

STATUS, ENABLE, CONTROL = PM1_EVENT, PM1_EVENT + 2, PM1_CONTROL

TIMER = 0x0001
"""In the status register that the timer's highest bit changed; in the enable register that this shall interrupt."""
ENABLES = 0x0721
"""The enable register's bits: timer, global lock, power button, sleep button and clock, here or not."""
SCI_ENABLE, BUS_MASTER_RELOAD, SLEEP_TYPE, SLEEP_ENABLE = 0x0001, 0x0002, 0x1C00, 0x2000
SLEEP_TYPE_SHIFT = 10
"""The control register; SLEEP_ENABLE reads as zero."""

REDUCED_SLEEP_TYPE, REDUCED_SLEEP_ENABLE = 0x1C, 0x20
REDUCED_SLEEP_TYPE_SHIFT = 2
"""The same in the sleep control register of the reduced profile."""

TIMER_END = 1 << 8 * PM_TIMER_BYTES
HALF_TURN = TIMER_END // 2
"""So many ticks of the timer are from one change of its highest bit to the next."""


def open_acpi_pm(spec: DeviceSpec, context: DeviceContext) -> PowerDevice:
    """The device that `spec` describes; the setting `reduced` says that it is one of the reduced profile."""
    if spec.settings.get("reduced", False):
        return SleepRegisters(context.request_stop)
    return PmRegisters(context.interrupt(spec.gsi), context.request_stop, context.clock)


class PowerDevice(ByteDevice):
    """What both profiles have: a register that resets the machine, and an end by `request_stop("shutdown")`."""

    def __init__(self, request_stop: Callable[[StopReason], None]):
        super().__init__()
        self._request_stop = request_stop

    def read_byte(self, offset: int) -> int:  # noqa: ARG002 - what has registers to read says so
        """Nothing: the reset register is written only."""
        return NOTHING

    def write_byte(self, offset: int, value: int) -> None:
        """Reset the machine."""
        if (offset, value) == (RESET, RESET_VALUE):
            self._request_stop("reset")

    def _sleep(self, sleep_type: int) -> None:
        """Enter a state of sleep; writes of numbers that `\\_S5` does not name are ignored, as on a PC."""
        if sleep_type == SOFT_OFF:
            self._request_stop("shutdown")


class SleepRegisters(PowerDevice):
    """The reduced profile: sleep control and sleep status, a byte each."""

    def __init__(self, request_stop: Callable[[StopReason], None]):
        super().__init__(request_stop)
        self._control = 0

    def read_byte(self, offset: int) -> int:
        """The sleep type as it was written; no wake-up."""
        return {SLEEP_CONTROL: self._control, SLEEP_STATUS: 0}.get(offset, NOTHING)

    def write_byte(self, offset: int, value: int) -> None:
        """Sleep, or reset the machine."""
        super().write_byte(offset, value)
        if offset == SLEEP_CONTROL:
            self._control = value & REDUCED_SLEEP_TYPE
            if value & REDUCED_SLEEP_ENABLE:
                self._sleep(self._control >> REDUCED_SLEEP_TYPE_SHIFT)


class PmRegisters(PowerDevice):
    """The PC's profile: event block, control register and timer. It raises and lowers `set_interrupt`, the SCI."""

    def __init__(self, set_interrupt: Callable[[bool], None], request_stop: Callable[[StopReason], None], clock: Clock):
        super().__init__(request_stop)
        self._set_interrupt = set_interrupt
        self._line_level = False
        self._clock = clock
        self._half_turn = clock.timer(self._half_turn_came)
        self._half_turns_seen = 0
        self._enable = 0
        self._control = 0

    @property
    def _ticks(self) -> int:
        """How often the timer has ticked since the machine was made."""
        return self._clock.now() * PM_TIMER_HZ // NANOSECONDS

    @property
    def _status(self) -> int:
        return TIMER if self._ticks // HALF_TURN > self._half_turns_seen else 0

    def read(self, offset: int, size_bytes: int) -> int:
        """The guest's IN of 1, 2 or 4 bytes; the timer's are all of one moment."""
        if (offset, size_bytes) == (PM_TIMER, PM_TIMER_BYTES):
            return self._ticks % TIMER_END
        return super().read(offset, size_bytes)

    def read_byte(self, offset: int) -> int:
        """One byte of a register."""
        for start, size_bytes, value in (
            (STATUS, 2, self._status),
            (ENABLE, 2, self._enable),
            (CONTROL, 2, self._control | SCI_ENABLE),
            (PM_TIMER, PM_TIMER_BYTES, self._ticks),
        ):
            if start <= offset < start + size_bytes:
                return value >> 8 * (offset - start) & 0xFF
        return NOTHING

    def write_byte(self, offset: int, value: int) -> None:
        """Clear a status, enable an interrupt, sleep, or reset the machine."""
        super().write_byte(offset, value)
        if offset == STATUS and value & TIMER:
            self._half_turns_seen = self._ticks // HALF_TURN
        elif offset in (ENABLE, ENABLE + 1):
            self._enable = _with_byte(self._enable, offset - ENABLE, value) & ENABLES
        elif offset in (CONTROL, CONTROL + 1):
            self._write_control(_with_byte(self._control, offset - CONTROL, value))
        self._update()

    def _write_control(self, value: int) -> None:
        self._control = value & (BUS_MASTER_RELOAD | SLEEP_TYPE)
        if value & SLEEP_ENABLE:
            self._sleep((value & SLEEP_TYPE) >> SLEEP_TYPE_SHIFT)

    def _half_turn_came(self) -> None:
        with self._lock:
            self._update()

    def _update(self) -> None:
        """Bring the line to where status and enable say it is; be called when the timer will change that."""
        level = bool(self._status & self._enable)
        if level != self._line_level:
            self._line_level = level
            self._set_interrupt(level)
        if self._enable & TIMER and not level:
            self._half_turn.set(-(-(self._half_turns_seen + 1) * HALF_TURN * NANOSECONDS // PM_TIMER_HZ))
        else:
            self._half_turn.clear()

    def close(self) -> None:
        """Raise no interrupt any more."""
        with self._lock:
            self._enable = 0
            self._half_turn.clear()


def _with_byte(value: int, index: int, byte: int) -> int:
    """`value` with one of its bytes replaced."""
    return value & ~(0xFF << 8 * index) | byte << 8 * index
