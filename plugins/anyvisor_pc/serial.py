"""The serial port: a 16550A UART whose far end is a console.

Some facts about the 16550A (National Semiconductor PC16550D data sheet, section 8). It has eight ports. With
DLAB, the top bit of the line control register, set, the first two are the baud rate divisor instead. The
interrupt identification register tells the cause of highest priority: line status, received data, character
timeout, transmitter empty, modem status. The transmitter's cause goes away when it was read there, or a byte
is written; it comes back when the transmitter is empty again, or its enable bit goes from 0 to 1. The others
go away with what caused them.

On a PC the interrupt pin is wired through OUT2 to an edge-triggered line: no OUT2, no interrupt. A write makes
the transmitter busy, if only for a moment, so the line falls and rises again: a driver that never reads the
cause lives by that edge. Bytes written one right after the other fill the FIFO while the first is on its way,
so only the first of such a burst moves the line. In loopback mode the outputs are off and wired to the inputs: RTS to
CTS, DTR to DSR, OUT1 to RI, OUT2 to DCD, transmitter to receiver.

Time does not pass in this one: bytes leave at once, whatever the divisor, and fewer bytes than the trigger
level are a character timeout at once. Input waits in the console while the receiver has no room, so the host
cannot overrun it; but what the receiver holds when the guest resets its FIFOs is lost, as on a wire: a driver that
begins throws away what was typed before. A console with flow control sends only while somebody listens: with the
interrupt for received data on, OUT2 too, and RTS or FIFOs, which Linux sets up after it; or since the line status was
read again and again, until the port is set up anew. Word length and parity are kept and ignored.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

from anyvisor.console import Console
from anyvisor.device import DeviceContext
from anyvisor.plan import DeviceSpec
from anyvisor_pc.bytewide import NOTHING, ByteDevice

FIFO_BYTES = 16
TRIGGER_LEVELS = (1, 4, 8, 14)
POLLING_LOOKS = 16
"""Who reads the line status so often in a row waits for input; Linux does it thrice before it sends."""
POWER_ON_DIVISOR = 12

# Interrupt enable register: one bit for each cause.
RECEIVED_DATA, TRANSMITTER_EMPTY, LINE_STATUS, MODEM_STATUS = 0x01, 0x02, 0x04, 0x08
ALL_CAUSES = 0x0F

# Interrupt identification register: the cause, and two bits that say there are FIFOs.
NO_CAUSE, LINE_STATUS_CAUSE, RECEIVED_CAUSE = 0x01, 0x06, 0x04
TIMEOUT_CAUSE, EMPTY_CAUSE, MODEM_CAUSE = 0x0C, 0x02, 0x00
FIFOS_ENABLED = 0xC0

# FIFO control register; its top two bits are the trigger level.
ENABLE_FIFOS, CLEAR_RECEIVER, CLEAR_TRANSMITTER = 0x01, 0x02, 0x04

# Line control register.
SET_BREAK, DIVISOR_ACCESS = 0x40, 0x80

# Modem control register.
DTR, RTS, OUT1, OUT2, LOOPBACK = 0x01, 0x02, 0x04, 0x08, 0x10
MODEM_CONTROLS = 0x1F

# Line status register.
DATA_READY, OVERRUN, FRAMING_ERROR, BREAK, IDLE, FIFO_ERROR = 0x01, 0x02, 0x08, 0x10, 0x60, 0x80
ERROR_SHIFT = 8
"""Received characters carry their line status errors above their eight bits."""

# Modem status register: lines in the upper half, their changes in the lower.
CTS, DSR, RI, DCD = 0x10, 0x20, 0x40, 0x80
CONNECTED = CTS | DSR | DCD
CHANGES, RI_FELL = 0x0B, 0x04


def open_serial(spec: DeviceSpec, context: DeviceContext) -> Serial:
    """The serial port that `spec` describes; the setting `console` names its far end."""
    return Serial(context.interrupt(spec.gsi), context.console(str(spec.settings.get("console", spec.name))))


class Serial(ByteDevice):
    """A 16550A UART at eight ports. It raises and lowers `set_interrupt`, and talks to `console`."""

    def __init__(self, set_interrupt: Callable[[bool], None], console: Console):
        super().__init__()
        self._set_interrupt = set_interrupt
        self._console = console
        self._closed = False
        self._line_level = False
        self._received: deque[int] = deque()
        self._overrun = 0
        self._empty_pending = False
        self._bursting = False
        self._looks = 0
        self._interrupt_enable = 0
        self._fifo_control = 0
        self._line_control = 0
        self._modem_control = 0
        self._modem_changes = 0
        self._scratch = 0
        self._divisor = POWER_ON_DIVISOR
        self._readers = (
            self._read_data, self._read_enable, self._identify, lambda: self._line_control,
            lambda: self._modem_control, self._read_line_status, self._read_modem_status,
            lambda: self._scratch,
        )  # fmt: skip
        self._writers = (
            self._write_data, self._write_enable, self._write_fifo_control, self._write_line_control,
            self._write_modem_control, _ignore, _ignore, self._write_scratch,
        )  # fmt: skip
        console.on_input(self.input_came)

    def read_byte(self, offset: int) -> int:
        """Read one of the eight registers."""
        self._bursting = False
        return self._readers[offset]() if 0 <= offset < 8 else NOTHING

    def write_byte(self, offset: int, value: int) -> None:
        """Write one of the eight registers."""
        if offset or self._looks < POLLING_LOOKS:
            self._looks = 0
        if offset:
            self._bursting = False
        if 0 <= offset < 8:
            self._writers[offset](value)

    def input_came(self) -> None:
        """The console has input. It may say so once more after `close`, from a thread that is typing just then."""
        with self._lock:
            if not self._closed:
                self._fill()
                self._update_line()

    def close(self) -> None:
        """Leave the console; no interrupt is raised any more by what is typed."""
        with self._lock:
            self._closed = True
            self._console.on_input(None)

    # -- receiver and transmitter --------------------------------------------------------------------------

    def _read_data(self) -> int:
        if self._line_control & DIVISOR_ACCESS:
            return self._divisor & 0xFF
        character = self._received.popleft() if self._received else 0
        self._fill()
        self._update_line()
        return character & 0xFF

    def _write_data(self, value: int) -> None:
        if self._line_control & DIVISOR_ACCESS:
            self._divisor = self._divisor & 0xFF00 | value
            return
        if self._empty_pending and self._line_level and not self._bursting:
            self._empty_pending = False
            self._update_line()
        self._bursting = True
        if not self._modem_control & LOOPBACK:
            self._console.output(ONE_BYTE[value])
        elif not self._line_control & SET_BREAK:
            self._receive(value)
        self._empty_pending = True
        self._update_line()

    def _fill(self) -> None:
        """Take what the console sends, as far as there is room."""
        if self._modem_control & LOOPBACK or (self._console.flow_control and not self._listens):
            return
        if (room := self._depth - len(self._received)) > 0:
            self._received.extend(self._console.take_input(room))

    @property
    def _listens(self) -> bool:
        """Whether the guest waits for input, by interrupts or by looking."""
        ready = self._modem_control & RTS or self._fifo_control & ENABLE_FIFOS
        by_interrupts = ready and self._modem_control & OUT2 and self._interrupt_enable & RECEIVED_DATA
        return bool(by_interrupts) or self._looks >= POLLING_LOOKS

    def _receive(self, character: int) -> None:
        """A character from our own transmitter: one too many is lost with FIFOs, else replaces the last."""
        if len(self._received) >= self._depth:
            self._overrun = OVERRUN
            if self._fifo_control & ENABLE_FIFOS:
                return
            self._received.clear()
        self._received.append(character)

    @property
    def _depth(self) -> int:
        return FIFO_BYTES if self._fifo_control & ENABLE_FIFOS else 1

    def _write_fifo_control(self, value: int) -> None:
        if (value ^ self._fifo_control) & ENABLE_FIFOS:
            value |= CLEAR_RECEIVER | CLEAR_TRANSMITTER
        if value & CLEAR_RECEIVER:
            self._received.clear()
        if value & CLEAR_TRANSMITTER:
            self._empty_pending = True
        self._fifo_control = value if value & ENABLE_FIFOS else 0
        self._fill()
        self._update_line()

    # -- interrupts ----------------------------------------------------------------------------------------

    def _read_enable(self) -> int:
        return self._divisor >> 8 if self._line_control & DIVISOR_ACCESS else self._interrupt_enable

    def _write_enable(self, value: int) -> None:
        if self._line_control & DIVISOR_ACCESS:
            self._divisor = self._divisor & 0xFF | value << 8
            return
        enabled = value & ~self._interrupt_enable
        if enabled & TRANSMITTER_EMPTY:
            self._empty_pending = True
        self._interrupt_enable = value & ALL_CAUSES
        if enabled & RECEIVED_DATA:
            self._fill()
        self._update_line()

    def _identify(self) -> int:
        cause = self._cause()
        if cause == EMPTY_CAUSE:
            self._empty_pending = False
            self._update_line()
        return cause | (FIFOS_ENABLED if self._fifo_control & ENABLE_FIFOS else 0)

    def _cause(self) -> int:
        """The enabled cause of highest priority."""
        enabled, waiting = self._interrupt_enable, len(self._received)
        if enabled & LINE_STATUS and self._errors():
            return LINE_STATUS_CAUSE
        if enabled & RECEIVED_DATA and waiting:
            return RECEIVED_CAUSE if waiting >= TRIGGER_LEVELS[self._fifo_control >> 6] else TIMEOUT_CAUSE
        if enabled & TRANSMITTER_EMPTY and self._empty_pending:
            return EMPTY_CAUSE
        if enabled & MODEM_STATUS and self._modem_changes:
            return MODEM_CAUSE
        return NO_CAUSE

    def _update_line(self) -> None:
        """Set the interrupt line to what it should be, if it is not."""
        if not self._interrupt_enable and not self._line_level:
            return
        level = self._modem_control & (OUT2 | LOOPBACK) == OUT2 and self._cause() != NO_CAUSE
        if level != self._line_level:
            self._line_level = level
            self._set_interrupt(level)

    # -- line and modem ------------------------------------------------------------------------------------

    def _errors(self) -> int:
        """Line status errors: of the receiver, and of the character that is read next."""
        return self._overrun | (self._received[0] >> ERROR_SHIFT if self._received else 0)

    def _read_line_status(self) -> int:
        self._looks += 1
        if self._looks >= POLLING_LOOKS:
            self._fill()
        if not self._received and not self._overrun:
            return IDLE
        status = IDLE | self._errors() | (DATA_READY if self._received else 0)
        if self._fifo_control & ENABLE_FIFOS and any(each >> ERROR_SHIFT for each in self._received):
            status |= FIFO_ERROR
        self._overrun = 0
        if self._received:
            self._received[0] &= 0xFF
        self._update_line()
        return status

    def _write_line_control(self, value: int) -> None:
        begins_break = value & ~self._line_control & SET_BREAK
        self._line_control = value
        if begins_break and self._modem_control & LOOPBACK:
            self._receive((BREAK | FRAMING_ERROR) << ERROR_SHIFT)
            self._update_line()

    def _modem_lines(self) -> int:
        control = self._modem_control
        if not control & LOOPBACK:
            return CONNECTED
        wires = ((RTS, CTS), (DTR, DSR), (OUT1, RI), (OUT2, DCD))
        return sum(line for output, line in wires if control & output)

    def _write_modem_control(self, value: int) -> None:
        before = self._modem_lines()
        self._modem_control = value & MODEM_CONTROLS
        now = self._modem_lines()
        self._modem_changes |= (before ^ now) >> 4 & CHANGES | (RI_FELL if before & ~now & RI else 0)
        self._fill()
        self._update_line()

    def _read_modem_status(self) -> int:
        status = self._modem_lines() | self._modem_changes
        self._modem_changes = 0
        self._update_line()
        return status

    def _write_scratch(self, value: int) -> None:
        self._scratch = value


ONE_BYTE = tuple(bytes([value]) for value in range(256))


def _ignore(value: int) -> None:
    """Line and modem status are there to be read."""
