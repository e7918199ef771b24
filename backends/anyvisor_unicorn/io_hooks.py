"""Port and MMIO accesses of the guest, answered by the bus from within the engine's hooks."""

from __future__ import annotations

import ctypes
from collections.abc import Callable

from anyvisor.bus import Bus
from anyvisor.flight import IN, OUT, READ, WRITE, Entry


class IoHooks:
    """Gives accesses to `bus` and counts them in `exits`; `fail` is told what a device raises, and a read is zero."""

    def __init__(self, exits: dict[str, int], fail: Callable[[BaseException], None]):
        self.bus = Bus()
        self.note: Callable[[Entry], None] | None = None
        """What accesses are noted with, if they are; see `anyvisor.flight`."""
        self.rip = ctypes.c_uint64(0)
        """Where the engine has RIP, at an IN or OUT."""
        self._exits = exits
        self._fail = fail

    def port_in(self, _: int, port: int, size: int, __: int) -> int:
        """IN."""
        self._exits["in"] += 1
        value = None
        try:
            value = self.bus.read_port(port, size)
        except BaseException as error:  # noqa: BLE001
            self._fail(error)
        if (note := self.note) is not None:
            note((IN, port, size, value, self.rip.value))
        return value or 0

    def port_out(self, _: int, port: int, size: int, value: int, __: int) -> None:
        """OUT."""
        self._exits["out"] += 1
        if (note := self.note) is not None:
            note((OUT, port, size, value, self.rip.value))
        try:
            self.bus.write_port(port, size, value)
        except BaseException as error:  # noqa: BLE001
            self._fail(error)

    def read_mmio(self, address: int, size: int) -> int:
        """A load from where there is no RAM."""
        self._exits["mmio"] += 1
        value = None
        try:
            value = self.bus.read_mmio(address, size)
        except BaseException as error:  # noqa: BLE001
            self._fail(error)
        if (note := self.note) is not None:
            note((READ, address, size, value, 0))
        return value or 0

    def write_mmio(self, address: int, size: int, value: int) -> None:
        """A store to where there is no RAM."""
        self._exits["mmio"] += 1
        if (note := self.note) is not None:
            note((WRITE, address, size, value, 0))
        try:
            self.bus.write_mmio(address, size, value)
        except BaseException as error:  # noqa: BLE001
            self._fail(error)
