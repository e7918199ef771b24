"""The I/O APIC: 24 interrupt lines, each with an entry that says which vector it has and how it is heard.

Some facts about it (Intel 82093AA data sheet). There are two registers to get at the others: the index, and the window
that it moves. An edge-triggered line interrupts when it rises, unless it is masked just then. A level-triggered one
interrupts while it is high; the entry's remote IRR is set then, and holds it back until the local APIC reports the end
of an interrupt of that vector: if the line is still high, it interrupts anew.

Pin n is the machine's line (GSI) n, as its MP table says, the timer's 0 included. A line is asserted or not: polarity
is kept and not looked at. The version is 0x20, that of the 82093AA's successors, whose EOI register lets an OS clear a
remote IRR in one write; with an older one, Linux makes the entry edge-triggered for a moment, which works here as well.

Entries for NMI, SMI and INIT interrupt nobody. An unmasked ExtINT entry lets the 8259 pair's interrupts through: on a
PC with such wiring, it is their output that the pin is soldered to.
"""

from __future__ import annotations

from collections.abc import Callable

from anyvisor.bits import Bits, bit, field
from anyvisor.x86_64.lapic import DeliveryMode

PINS = 24
INDEX, WINDOW, END_OF_INTERRUPT = 0x00, 0x10, 0x40
DECODED = 0xFF
"""The bits of an offset that the chip looks at."""
ID, VERSION, ARBITRATION = 0x00, 0x01, 0x02
REDIRECTION = range(0x10, 0x10 + 2 * PINS)
"""Two registers for each pin, the lower half first."""
VERSION_VALUE = 0x20 | PINS - 1 << 16
ID_BITS = 0x0F000000
ARRIVE_AS_VECTOR = (DeliveryMode.FIXED, DeliveryMode.LOWEST_PRIORITY)


class Redirection(Bits):
    """An entry of the redirection table (82093AA, 3.2.4)."""

    vector = field(0, 8)
    delivery_mode = field(8, 3)
    logical = bit(11)
    delivery_pending = bit(12)
    active_low = bit(13)
    remote_irr = bit(14)
    level_triggered = bit(15)
    masked = bit(16)
    destination = field(56, 8)


READ_ONLY = Redirection(delivery_pending=True, remote_irr=True)
WRITABLE = 0xFF000000_0001FFFF & ~READ_ONLY

Deliver = Callable[[Redirection], bool]
"""Send an entry's interrupt to the local APICs; whether one of them accepted it."""


class IoApic:
    """An I/O APIC of 24 pins, by register offset. Its owner locks it; `deliver` sends what its pins say."""

    def __init__(self, deliver: Deliver):
        self._deliver = deliver
        self._index = 0
        self._id = 0
        self._entries = [Redirection(masked=True)] * PINS
        self._levels = [False] * PINS
        self.passes_extint = False
        """Whether an entry lets the interrupts of the 8259 pair through."""

    @property
    def entries(self) -> tuple[Redirection, ...]:
        """The redirection table."""
        return tuple(self._entries)

    def read(self, offset: int) -> int:
        """The 32 bits at an offset from the chip's address; 0 where there is nothing."""
        return {INDEX: self._index, WINDOW: self._read_register()}.get(offset & DECODED, 0)

    def write(self, offset: int, value: int) -> None:
        """The guest wrote 32 bits."""
        offset &= DECODED
        if offset == INDEX:
            self._index = value & 0xFF
        elif offset == WINDOW:
            self._write_register(value)
        elif offset == END_OF_INTERRUPT:
            self.end_interrupt(value & 0xFF)

    def set_line(self, pin: int, level: bool) -> None:
        """A line changes; one without a pin is nobody's business here."""
        if not 0 <= pin < PINS:
            return
        rises = level and not self._levels[pin]
        self._levels[pin] = level
        if rises:
            self._offer(pin)

    def end_interrupt(self, vector: int) -> None:
        """A local APIC is done with a level-triggered interrupt: pins with its vector may interrupt again."""
        for pin, entry in enumerate(self._entries):
            if entry.remote_irr and entry.vector == vector:
                self._entries[pin] = entry.replace(remote_irr=False)
                self._offer_level(pin)

    def _offer_level(self, pin: int) -> None:
        if self._levels[pin] and self._entries[pin].level_triggered:
            self._offer(pin)

    def _offer(self, pin: int) -> None:
        entry = self._entries[pin]
        if entry.masked or entry.remote_irr or entry.delivery_mode not in ARRIVE_AS_VECTOR:
            return
        accepted = self._deliver(entry)
        self._entries[pin] = entry.replace(remote_irr=accepted and entry.level_triggered)

    def _read_register(self) -> int:
        if self._index in REDIRECTION:
            pin, upper = divmod(self._index - REDIRECTION.start, 2)
            return self._entries[pin] >> 32 * upper & 0xFFFFFFFF
        return {ID: self._id, VERSION: VERSION_VALUE, ARBITRATION: self._id}.get(self._index, 0)

    def _write_register(self, value: int) -> None:
        if self._index in REDIRECTION:
            self._write_entry(*divmod(self._index - REDIRECTION.start, 2), value)
        elif self._index == ID:
            self._id = value & ID_BITS

    def _write_entry(self, pin: int, upper: int, value: int) -> None:
        """An entry that becomes edge-triggered forgets its remote IRR."""
        written = WRITABLE & 0xFFFFFFFF << 32 * upper
        entry = Redirection(self._entries[pin] & ~written | value << 32 * upper & written)
        self._entries[pin] = entry.replace(remote_irr=entry.remote_irr and entry.level_triggered)
        self.passes_extint = any(
            each.delivery_mode == DeliveryMode.EXTINT and not each.masked for each in self._entries
        )
        self._offer_level(pin)
