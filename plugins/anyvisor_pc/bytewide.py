"""Devices with 8-bit registers.

Some facts about the ISA bus. It is eight bits wide for these chips, so the chipset takes a wider access
apart: a 16-bit OUT to port 0x70 reaches ports 0x70 and 0x71 as two bytes, lowest first.
"""

from __future__ import annotations

import abc
import threading

NOTHING = 0xFF
"""What an eight-bit bus reads where no register answers."""


class ByteDevice(abc.ABC):
    """A device eight bits wide: wider accesses reach it byte by byte, under one hold of its lock."""

    def __init__(self) -> None:
        self._lock = threading.Lock()

    @abc.abstractmethod
    def read_byte(self, offset: int) -> int:
        """What the register at `offset` holds, `NOTHING` where there is none. Called with the lock held."""

    @abc.abstractmethod
    def write_byte(self, offset: int, value: int) -> None:
        """The guest wrote `value` (0 to 255) to the register at `offset`. Called with the lock held."""

    def read(self, offset: int, size_bytes: int) -> int:
        """The guest's IN of 1, 2 or 4 bytes."""
        with self._lock:
            if size_bytes == 1:
                return self.read_byte(offset)
            return int.from_bytes([self.read_byte(offset + i) for i in range(size_bytes)], "little")

    def write(self, offset: int, size_bytes: int, value: int) -> None:
        """The guest's OUT of 1, 2 or 4 bytes."""
        with self._lock:
            if size_bytes == 1:
                self.write_byte(offset, value & 0xFF)
                return
            for i in range(size_bytes):
                self.write_byte(offset + i, value >> 8 * i & 0xFF)

    def close(self) -> None:  # noqa: B027 - most of these chips hold nothing
        """Give back what the device holds."""
