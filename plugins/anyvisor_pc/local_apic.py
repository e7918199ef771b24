"""The local APIC: what stands between a processor and everything that wants to interrupt it.

Some facts about it (SDM Vol. 3, chapter 11). An interrupt that is accepted sets the bit of its vector in the request
register (IRR). The highest one is offered to the processor if its class, the upper half of the vector, is above that of
the processor's priority; when it is taken, its bit moves to the in-service register (ISR), and the end of interrupt
(EOI) clears the highest bit there. The trigger mode register (TMR) remembers which vectors came from level-triggered
pins: their EOI is told to the I/O APIC.

After reset it is disabled by software (bit 8 of the spurious vector register): it then accepts nothing, and what it
masked by being disabled must be unmasked again. LINT0 and LINT1 begin as a PC's firmware leaves them, ExtINT and NMI.

The machine has one processor. So interrupts that it sends reach itself or nobody, and INIT, start-up, NMI and SMI
messages go nowhere. LINT0 matters only in ExtINT mode; LINT1, thermal and performance entries are kept, and nothing
raises them. It is an xAPIC whose end-of-interrupt broadcasts cannot be suppressed, without CMCI and TSC-deadline mode.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from anyvisor.bits import Bits, bit, field
from anyvisor.clock import Clock, Timer
from anyvisor.x86_64.lapic import MASKED, DeliveryMode, LocalVector
from anyvisor_pc.apic_timer import ApicTimer

ID, VERSION, TASK_PRIORITY, ARBITRATION_PRIORITY, PROCESSOR_PRIORITY, EOI = 0x20, 0x30, 0x80, 0x90, 0xA0, 0xB0
LOGICAL_DESTINATION, DESTINATION_FORMAT, SPURIOUS_VECTOR, ERROR_STATUS = 0xD0, 0xE0, 0xF0, 0x280
ICR_LOW, ICR_HIGH = 0x300, 0x310
TIMER, THERMAL, PERFORMANCE, LINT0, LINT1, ERROR = LOCAL_VECTORS = range(0x320, 0x380, 0x10)
INITIAL_COUNT, CURRENT_COUNT, DIVIDE_CONFIGURATION = 0x380, 0x390, 0x3E0
BITMAPS = {0x100: "in_service", 0x180: "trigger_mode", 0x200: "interrupt_request"}
BITMAP_REGISTERS = range(0x100, 0x280, 0x10)
"""Eight registers of 32 bits for each of the bitmaps."""

INTEGRATED = 0x14
"""The version of a local APIC that is part of the processor."""
SOFTWARE_ENABLED = 0x100
FLAT, CLUSTER = 0xF, 0x0
EVERYBODY = 0xFF
FIRST_LEGAL_VECTOR = 16
SEND_ILLEGAL_VECTOR, RECEIVE_ILLEGAL_VECTOR, ILLEGAL_REGISTER = 0x20, 0x40, 0x80
PERIODIC = 1
ARRIVE_AS_VECTOR = (DeliveryMode.FIXED, DeliveryMode.LOWEST_PRIORITY)

_VECTOR = LocalVector.vector.mask | LocalVector.masked.mask
_WITH_MODE = _VECTOR | LocalVector.delivery_mode.mask
_PIN = _WITH_MODE | LocalVector.active_low.mask | LocalVector.level_triggered.mask
WRITABLE = {
    ID: 0xFF000000, TASK_PRIORITY: 0xFF, LOGICAL_DESTINATION: 0xFF000000, DESTINATION_FORMAT: 0xF0000000,
    SPURIOUS_VECTOR: 0x3FF, ICR_LOW: 0x000CCFFF, ICR_HIGH: 0xFF000000,
    TIMER: _VECTOR | LocalVector.timer_mode.place(PERIODIC), THERMAL: _WITH_MODE, PERFORMANCE: _WITH_MODE,
    LINT0: _PIN, LINT1: _PIN, ERROR: _VECTOR,
}  # fmt: skip
"""The registers that remember what is written to them, and which bits of it."""
ALWAYS_ONE = {DESTINATION_FORMAT: 0x0FFFFFFF}
READ_ONLY = {VERSION, ARBITRATION_PRIORITY, PROCESSOR_PRIORITY, CURRENT_COUNT, *BITMAP_REGISTERS}
AT_RESET = {
    **dict.fromkeys(WRITABLE, 0), VERSION: INTEGRATED | len(LOCAL_VECTORS) - 1 << 16, ARBITRATION_PRIORITY: 0, EOI: 0,
    ERROR_STATUS: 0, DESTINATION_FORMAT: 0xFFFFFFFF, SPURIOUS_VECTOR: 0xFF, **dict.fromkeys(LOCAL_VECTORS, MASKED),
    LINT0: LocalVector(delivery_mode=DeliveryMode.EXTINT), LINT1: LocalVector(delivery_mode=DeliveryMode.NMI),
}  # fmt: skip
"""What the registers hold at first, but for the live ones; those that are only written read as 0."""


class InterruptCommand(Bits):
    """The lower half of the interrupt command register (SDM Vol. 3, 11.6.1)."""

    vector = field(0, 8)
    delivery_mode = field(8, 3)
    logical = bit(11)
    shorthand = field(18, 2)


NO_SHORTHAND, SELF, ALL, OTHERS = range(4)


class LocalApic:
    """The one processor's local APIC, by register offset. Its owner locks it, and lets `alarm` call `timer.settle`.

    `end_of_level(vector)` is called at the end of an interrupt that was level-triggered.
    """

    def __init__(self, clock: Clock, alarm: Timer, end_of_level: Callable[[int], None]):
        self._end_of_level = end_of_level
        self._registers: dict[int, int] = dict(AT_RESET)
        self._new_errors = 0
        self.interrupt_request = self.in_service = self.trigger_mode = 0
        """One number each: bit n stands for vector n."""
        self.timer = ApicTimer(clock, alarm, partial(self._interrupt_locally, TIMER))
        self._live: dict[int, Callable[[], int]] = {
            PROCESSOR_PRIORITY: lambda: self.processor_priority, INITIAL_COUNT: lambda: self.timer.initial_count,
            CURRENT_COUNT: lambda: self.timer.current_count,
            DIVIDE_CONFIGURATION: lambda: self.timer.divide_configuration,
            **{register: partial(self._bitmap, register) for register in BITMAP_REGISTERS},
        }  # fmt: skip
        self._effects: dict[int, Callable[[int], None]] = {
            EOI: self._end_interrupt, SPURIOUS_VECTOR: self._enable, ERROR_STATUS: self._show_errors,
            ICR_LOW: self._send, INITIAL_COUNT: self.timer.start, DIVIDE_CONFIGURATION: self.timer.divide,
            **{register: partial(self._set_local_vector, register) for register in LOCAL_VECTORS},
        }  # fmt: skip

    # -- registers -------------------------------------------------------------------------------------------------

    def read(self, register: int) -> int:
        """The register at an offset; 0, and an error noted, where there is none."""
        if register in self._live:
            return self._live[register]()
        if register not in self._registers:
            self._note_error(ILLEGAL_REGISTER)
        return self._registers.get(register, 0)

    def write(self, register: int, value: int) -> None:
        """The guest wrote 32 bits to the register at an offset; what its timer has had to say before comes first."""
        self.timer.settle()
        if register in WRITABLE:
            self._registers[register] = value & WRITABLE[register] | ALWAYS_ONE.get(register, 0)
        if register in self._effects:
            self._effects[register](value)
        elif register not in WRITABLE and register not in READ_ONLY:
            self._note_error(ILLEGAL_REGISTER)

    @property
    def enabled(self) -> bool:
        """Whether software has enabled it."""
        return bool(self._registers[SPURIOUS_VECTOR] & SOFTWARE_ENABLED)

    @property
    def spurious_vector(self) -> int:
        """What the processor gets when the interrupt that it wanted to take is gone."""
        return self._registers[SPURIOUS_VECTOR] & 0xFF

    @property
    def passes_extint(self) -> bool:
        """Whether LINT0 lets the interrupts of the 8259 pair through."""
        return self._registers[LINT0] & (LocalVector.delivery_mode.mask | LocalVector.masked.mask) == LocalVector(
            delivery_mode=DeliveryMode.EXTINT
        )

    @property
    def processor_priority(self) -> int:
        """Interrupts of this class and below must wait (SDM Vol. 3, 11.8.3.1)."""
        task, in_service = self._registers[TASK_PRIORITY], _highest(self.in_service)
        return task if task >> 4 >= in_service >> 4 else in_service & 0xF0

    # -- interrupts ------------------------------------------------------------------------------------------------

    @property
    def pending(self) -> bool:
        """Whether it offers the processor an interrupt."""
        return self.enabled and _highest(self.interrupt_request) >> 4 > self.processor_priority >> 4

    def take(self) -> int:
        """The processor takes the interrupt that is `pending`: its vector."""
        vector = _highest(self.interrupt_request)
        self.interrupt_request &= ~(1 << vector)
        self.in_service |= 1 << vector
        return vector

    def accept(self, vector: int, *, level: bool = False) -> bool:
        """An interrupt arrives; whether it is accepted."""
        if not self.enabled:
            return False
        if vector < FIRST_LEGAL_VECTOR:
            self._note_error(RECEIVE_ILLEGAL_VECTOR)
            return False
        self.interrupt_request |= 1 << vector
        self.trigger_mode = self.trigger_mode & ~(1 << vector) | level << vector
        return True

    def is_meant(self, destination: int, *, logical: bool) -> bool:
        """Whether a message to a destination of 8 bits is for this APIC (SDM Vol. 3, 11.6.2)."""
        if destination == EVERYBODY:
            return True
        if not logical:
            return destination == self._registers[ID] >> 24
        mine, model = self._registers[LOGICAL_DESTINATION] >> 24, self._registers[DESTINATION_FORMAT] >> 28
        if model == CLUSTER:
            return mine >> 4 == destination >> 4 and bool(mine & destination & 0xF)
        return model == FLAT and bool(mine & destination)

    def _interrupt_locally(self, register: int) -> None:
        entry = LocalVector(self._registers[register])
        if not entry.masked:
            self.accept(entry.vector)

    # -- what writing does -----------------------------------------------------------------------------------------

    def _end_interrupt(self, _: int) -> None:
        vector = _highest(self.in_service)
        if vector < 0:
            return
        self.in_service &= ~(1 << vector)
        if self.trigger_mode >> vector & 1:
            self._end_of_level(vector)

    def _enable(self, _: int) -> None:
        if not self.enabled:
            for register in LOCAL_VECTORS:
                self._set_local_vector(register, self._registers[register])

    def _set_local_vector(self, register: int, _: int) -> None:
        if not self.enabled:
            self._registers[register] |= LocalVector.masked.mask
        if register == TIMER:
            self.timer.configure(LocalVector(self._registers[TIMER]))

    def _show_errors(self, _: int) -> None:
        self._registers[ERROR_STATUS], self._new_errors = self._new_errors, 0

    def _note_error(self, error: int) -> None:
        if not self._new_errors & error:
            self._new_errors |= error
            self._interrupt_locally(ERROR)

    def _send(self, value: int) -> None:
        command = InterruptCommand(value)
        if command.delivery_mode not in ARRIVE_AS_VECTOR or command.shorthand == OTHERS:
            return
        if command.vector < FIRST_LEGAL_VECTOR:
            self._note_error(SEND_ILLEGAL_VECTOR)
            return
        destination = self._registers[ICR_HIGH] >> 24
        if command.shorthand in (SELF, ALL) or self.is_meant(destination, logical=command.logical):
            self.accept(command.vector)

    def _bitmap(self, register: int) -> int:
        bits: int = getattr(self, BITMAPS[register & ~0x70])
        return bits >> 32 * (register >> 4 & 7) & 0xFFFFFFFF


def _highest(bits: int) -> int:
    """The highest bit that is set, the interrupt of the highest priority; -1 if none is."""
    return bits.bit_length() - 1
