"""The bus: which device answers at which address, for I/O ports and MMIO alike.

Some facts about speed. This is the hottest path there is: it runs on every port and MMIO exit of every vCPU. So a
port is one dictionary look-up (each port of a device has its own entry: at most 65536 of them), and MMIO is a bisect
over the sorted ranges with the last hit tried first. No object is made on the way.

Addresses nobody claims read as all ones and swallow writes, as on a PC's bus; the first few are remembered in
`unclaimed`, since a guest that probes a device which is not there is often a clue.

A device is called from whichever vCPU thread made the access, and from several at once: it locks what it must.
"""

from __future__ import annotations

import bisect
from collections.abc import Callable
from typing import Protocol

from anyvisor.errors import PlanError
from anyvisor.memory import Region

Read = Callable[[int, int], int]
"""`read(offset, size_bytes) -> value`"""
Write = Callable[[int, int, int], None]
"""`write(offset, size_bytes, value)`"""

UNCLAIMED_KEPT = 64


class BusDevice(Protocol):
    """What the bus asks of a device: little-endian values of 1, 2, 4 or 8 bytes at an offset from the range's start."""

    def read(self, offset: int, size_bytes: int, /) -> int:
        """The value the guest reads; anything wider than `size_bytes` is cut off."""
        ...

    def write(self, offset: int, size_bytes: int, value: int, /) -> None:
        """The guest wrote `value`."""
        ...


class Bus:
    """Two address spaces, ports and MMIO, and the devices in them."""

    def __init__(self) -> None:
        self._ports: dict[int, tuple[int, Read, Write]] = {}
        self._port_names: dict[int, str] = {}
        self._mmio: list[tuple[int, int, Read, Write, str]] = []
        self._mmio_starts: list[int] = []
        self._last: tuple[int, int, Read, Write, str] = (0, 0, _read_nothing, _write_nothing, "")
        self.unclaimed: dict[tuple[str, int], int] = {}

    def add_ports(self, region: Region, device: BusDevice) -> None:
        """Let `device` answer at the I/O ports of `region`; PlanError when one of them is taken."""
        if not 0 <= region.start < region.end <= 0x10000:
            raise PlanError(f"ports {region} do not lie within 0-0xffff")
        for port in range(region.start, region.end):
            if port in self._ports:
                raise PlanError(f"port {port:#x} is claimed by both {self._port_names[port]} and {region.name or 'a device'}")
        for port in range(region.start, region.end):
            self._ports[port] = (port - region.start, device.read, device.write)
            self._port_names[port] = region.name

    def add_mmio(self, region: Region, device: BusDevice) -> None:
        """Let `device` answer at the guest-physical addresses of `region`; PlanError when some are taken."""
        if region.size_bytes <= 0 or region.start < 0:
            raise PlanError(f"MMIO range {region} is empty")
        for start, end, _, _, name in self._mmio:
            if region.overlaps(Region(start, end - start)):
                raise PlanError(f"MMIO range {region} overlaps {Region(start, end - start, name)}")
        self._mmio.append((region.start, region.end, device.read, device.write, region.name))
        self._mmio.sort(key=lambda each: each[0])
        self._mmio_starts = [each[0] for each in self._mmio]

    def read_port(self, port: int, size_bytes: int) -> int:
        """What an IN of `size_bytes` from `port` gives."""
        found = self._ports.get(port)
        if found is None:
            return self._nobody("port", port, size_bytes)
        return found[1](found[0], size_bytes)

    def write_port(self, port: int, size_bytes: int, value: int) -> None:
        """An OUT of `value`."""
        found = self._ports.get(port)
        if found is None:
            self._nobody("port", port, size_bytes)
        else:
            found[2](found[0], size_bytes, value)

    def read_mmio(self, address: int, size_bytes: int) -> int:
        """What a load of `size_bytes` from guest-physical `address` gives."""
        hit = self._last
        if not hit[0] <= address < hit[1]:
            hit = self._find(address)
        if hit[1] == 0:
            return self._nobody("mmio", address, size_bytes)
        return hit[2](address - hit[0], size_bytes)

    def write_mmio(self, address: int, size_bytes: int, value: int) -> None:
        """A store of `value` to guest-physical `address`."""
        hit = self._last
        if not hit[0] <= address < hit[1]:
            hit = self._find(address)
        if hit[1] == 0:
            self._nobody("mmio", address, size_bytes)
        else:
            hit[3](address - hit[0], size_bytes, value)

    def _find(self, address: int) -> tuple[int, int, Read, Write, str]:
        index = bisect.bisect_right(self._mmio_starts, address) - 1
        if index >= 0 and address < self._mmio[index][1]:
            self._last = self._mmio[index]
            return self._last
        return (0, 0, _read_nothing, _write_nothing, "")

    def _nobody(self, space: str, address: int, size_bytes: int) -> int:
        key = (space, address)
        if key in self.unclaimed or len(self.unclaimed) < UNCLAIMED_KEPT:
            self.unclaimed[key] = self.unclaimed.get(key, 0) + 1
        return (1 << size_bytes * 8) - 1


def _read_nothing(offset: int, size_bytes: int) -> int:  # noqa: ARG001
    return (1 << size_bytes * 8) - 1


def _write_nothing(offset: int, size_bytes: int, value: int) -> None:
    """Swallow it."""
