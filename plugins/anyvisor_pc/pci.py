"""The PCI configuration ports, with nothing behind them.

Some facts about configuration mechanism #1 (PCI Local Bus Specification 3.0, 3.2.2.3.2). A 32-bit write to
port 0xCF8 says which register of which device; ports 0xCFC to 0xCFF are then that register. Only 32-bit
accesses to 0xCF8 are that address; it can be read back, which is how an OS finds the mechanism. A register of
an absent device reads as all ones. Within the four ports lies another one: a byte access to 0xCF9 is the
chipset's reset control register.
"""

from __future__ import annotations

import threading
from collections.abc import Callable

from anyvisor.bus import ALL_ONES
from anyvisor.device import DeviceContext, StopReason
from anyvisor.plan import DeviceSpec

ADDRESS, RESET_CONTROL = 0, 1
ADDRESS_BITS = 0x80FFFFFC
"""Enable, bus, device, function, register; the rest reads as zero."""
HARD_RESET, RESET_CPU, FULL_RESET = 0x02, 0x04, 0x08


def open_pci(spec: DeviceSpec, context: DeviceContext) -> PciPorts:  # noqa: ARG001 - a factory's signature
    """The configuration ports that `spec` describes."""
    return PciPorts(context.request_stop)


class PciPorts:
    """Ports 0xCF8 to 0xCFF of a machine without PCI devices; a reset calls `request_stop("reset")`."""

    def __init__(self, request_stop: Callable[[StopReason], None]):
        self._request_stop = request_stop
        self._lock = threading.Lock()
        self._address = 0
        self._reset_control = 0

    def read(self, offset: int, size_bytes: int) -> int:
        """The address as it was written, the reset control register, or all ones."""
        with self._lock:
            if (offset, size_bytes) == (ADDRESS, 4):
                return self._address
            if (offset, size_bytes) == (RESET_CONTROL, 1):
                return self._reset_control
        return ALL_ONES[size_bytes]

    def write(self, offset: int, size_bytes: int, value: int) -> None:
        """Set the address, or reset the machine."""
        with self._lock:
            if (offset, size_bytes) == (ADDRESS, 4):
                self._address = value & ADDRESS_BITS
            elif (offset, size_bytes) == (RESET_CONTROL, 1):
                self._reset_control = value & (HARD_RESET | FULL_RESET)
                if value & RESET_CPU:
                    self._request_stop("reset")

    def close(self) -> None:
        """There is nothing to give back."""
