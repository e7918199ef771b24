"""The keyboard controller: an 8042 with no keyboard and no mouse, kept for what else hangs on it.

Some facts about the 8042. It was a microcontroller with spare pins, so the PC's reset line and the gate of
address line 20 were soldered to it: command 0xFE at port 0x64, or an output port (command 0xD1) with bit 0
clear, resets the machine. Operating systems look for it and wait half a second for an answer that does not
come, so this one answers each command at once, and says in its interface test that the mouse port is dead.

Port 0x60 holds one byte at a time. A byte for the keyboard gets the answer of a controller whose keyboard is
not plugged in: 0xFE ("resend") with the timeout bit in the status, and interrupt 1 where that is enabled.
Registers: IBM PC/AT Technical Reference, section 1.
"""

from __future__ import annotations

from collections.abc import Callable

from anyvisor.device import DeviceContext, StopReason
from anyvisor.plan import DeviceSpec
from anyvisor_pc.bytewide import NOTHING, ByteDevice

DATA, COMMAND = 0, 4

# Status register, read from port 0x64.
OUTPUT_FULL, SYSTEM_FLAG, LAST_WAS_COMMAND, UNLOCKED, TIMED_OUT = 0x01, 0x04, 0x08, 0x10, 0x40

# Configuration, the first of 32 bytes of RAM.
KEYBOARD_INTERRUPT, KEYBOARD_OFF, MOUSE_OFF, TRANSLATE = 0x01, 0x10, 0x20, 0x40
RAM_BYTES = 32

# Commands, written to port 0x64; those from 0x60 on that take a byte get it by the next write to port 0x60.
READ_RAM, WRITE_RAM = range(0x20, 0x40), range(0x60, 0x80)
MOUSE_DISABLE, MOUSE_ENABLE, MOUSE_TEST, SELF_TEST, KEYBOARD_TEST = 0xA7, 0xA8, 0xA9, 0xAA, 0xAB
KEYBOARD_DISABLE, KEYBOARD_ENABLE, READ_INPUT_PORT, READ_OUTPUT_PORT = 0xAD, 0xAE, 0xC0, 0xD0
WRITE_OUTPUT_PORT, WRITE_KEYBOARD_BUFFER, WRITE_MOUSE_BUFFER, WRITE_MOUSE, READ_TEST_PINS = (
    0xD1,
    0xD2,
    0xD3,
    0xD4,
    0xE0,
)
PULSE = range(0xF0, 0x100)
TAKES_BYTE = {*WRITE_RAM, WRITE_OUTPUT_PORT, WRITE_KEYBOARD_BUFFER, WRITE_MOUSE_BUFFER, WRITE_MOUSE}

# Answers.
TEST_PASSED, KEYBOARD_WORKS, MOUSE_CLOCK_STUCK, RESEND, NOT_INHIBITED = 0x55, 0x00, 0x01, 0xFE, 0x80

# Output port.
NOT_RESET, A20, KEYBOARD_FULL = 0x01, 0x02, 0x10


def open_i8042(spec: DeviceSpec, context: DeviceContext) -> KeyboardController:
    """The keyboard controller that `spec` describes."""
    return KeyboardController(context.interrupt(spec.gsi), context.request_stop)


class KeyboardController(ByteDevice):
    """An 8042 at offsets 0 (port 0x60) and 4 (port 0x64); a reset calls `request_stop("reset")`."""

    def __init__(self, set_interrupt: Callable[[bool], None], request_stop: Callable[[StopReason], None]):
        super().__init__()
        self._set_interrupt = set_interrupt
        self._request_stop = request_stop
        self._line_level = False
        self._status = SYSTEM_FLAG | UNLOCKED
        self._output = 0
        self._ram = bytearray(RAM_BYTES)
        self._ram[0] = TRANSLATE | MOUSE_OFF | SYSTEM_FLAG | KEYBOARD_INTERRUPT
        self._output_port = A20 | NOT_RESET
        self._pending: int | None = None

    def read_byte(self, offset: int) -> int:
        """The output buffer, or the status."""
        if offset == COMMAND:
            return self._status
        if offset != DATA:
            return NOTHING
        self._status &= ~(OUTPUT_FULL | TIMED_OUT)
        self._update_line()
        return self._output

    def write_byte(self, offset: int, value: int) -> None:
        """A command, or the byte that the last command waits for, or one for the keyboard."""
        if offset == COMMAND:
            self._status |= LAST_WAS_COMMAND
            self._pending = value if value in TAKES_BYTE else None
            self._command(value)
        elif offset == DATA:
            self._status &= ~LAST_WAS_COMMAND
            command, self._pending = self._pending, None
            self._argument(command, value)

    def _command(self, command: int) -> None:
        answers = {
            MOUSE_TEST: MOUSE_CLOCK_STUCK,
            SELF_TEST: TEST_PASSED,
            KEYBOARD_TEST: KEYBOARD_WORKS,
            READ_INPUT_PORT: NOT_INHIBITED,
            READ_OUTPUT_PORT: self._output_port | (KEYBOARD_FULL if self._status & OUTPUT_FULL else 0),
            READ_TEST_PINS: 0,
        }
        switches = {
            KEYBOARD_DISABLE: (KEYBOARD_OFF, 0), KEYBOARD_ENABLE: (0, KEYBOARD_OFF),
            MOUSE_DISABLE: (MOUSE_OFF, 0), MOUSE_ENABLE: (0, MOUSE_OFF),
        }  # fmt: skip
        if command in answers:
            self._answer(answers[command])
        elif command in switches:
            on, off = switches[command]
            self._ram[0] = self._ram[0] & ~off | on
        elif command in READ_RAM:
            self._answer(self._ram[command - READ_RAM.start])
        elif command in PULSE and not command & NOT_RESET:
            self._request_stop("reset")

    def _argument(self, command: int | None, value: int) -> None:
        if command is None or command == WRITE_MOUSE:
            self._answer(RESEND, TIMED_OUT)
        elif command in WRITE_RAM:
            self._write_ram(command - WRITE_RAM.start, value)
        elif command == WRITE_OUTPUT_PORT:
            self._output_port = value & A20 | NOT_RESET
            if not value & NOT_RESET:
                self._request_stop("reset")
        else:
            self._answer(value)

    def _write_ram(self, index: int, value: int) -> None:
        self._ram[index] = value
        self._status = self._status & ~SYSTEM_FLAG | self._ram[0] & SYSTEM_FLAG
        self._update_line()

    def _answer(self, value: int, flags: int = 0) -> None:
        self._output = value
        self._status = self._status & ~TIMED_OUT | OUTPUT_FULL | flags
        self._update_line()

    def _update_line(self) -> None:
        level = bool(self._status & OUTPUT_FULL and self._ram[0] & KEYBOARD_INTERRUPT)
        if level != self._line_level:
            self._line_level = level
            self._set_interrupt(level)
