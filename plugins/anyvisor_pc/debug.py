"""Two ports for firmware and boot code that have nothing else to talk to.

Some facts about them. Port 0x80 takes the power-on self-test code of a BIOS: the last one before a hang tells
where it hung. Linux writes there too, to wait a microsecond. Port 0xE9 is an invention of the Bochs emulator:
a byte written there is a character of a debug console, and reading it gives 0xE9 where the port exists.
"""

from __future__ import annotations

from anyvisor.console import Console
from anyvisor.device import DeviceContext
from anyvisor.plan import DeviceSpec
from anyvisor_pc.bytewide import NOTHING, ByteDevice

POST_CODE, CHARACTER = 0x00, 0x69
PRESENT = 0xE9


def open_debug(spec: DeviceSpec, context: DeviceContext) -> DebugPorts:
    """The debug ports that `spec` describes; the setting `console` names where characters go."""
    return DebugPorts(context.console(str(spec.settings.get("console", spec.name))))


class DebugPorts(ByteDevice):
    """Offset 0 is port 0x80, offset 0x69 port 0xE9. `post_code` is the last one written."""

    def __init__(self, console: Console):
        super().__init__()
        self._console = console
        self.post_code = 0

    def read_byte(self, offset: int) -> int:
        """The last POST code, or that the debug console is there."""
        return {POST_CODE: self.post_code, CHARACTER: PRESENT}.get(offset, NOTHING)

    def write_byte(self, offset: int, value: int) -> None:
        """A POST code, or a character for the console."""
        if offset == POST_CODE:
            self.post_code = value
        elif offset == CHARACTER:
            self._console.output(bytes([value]))
