"""The bus: which device answers at which address, for I/O ports and MMIO alike.

Some facts about speed. This is the hottest path there is: it runs on every port and MMIO exit of every vCPU.
So a port is one dictionary look-up (each port of a device has its own entry: at most 65536 of them), and MMIO
is a bisect over the sorted ranges with the last hit tried first. No object is made on the way.

Addresses nobody claims read as all ones and swallow writes, as on a PC's bus; the first few are remembered in
`unclaimed`, since a guest that probes a device which is not there is often a clue.

An access goes to the device at its first byte, whole, even where it reaches beyond the device's range.

A device is called from whichever vCPU thread made the access, and from several at once: it locks what it
must. Devices are added before the first vCPU runs.
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
Range = tuple[int, int, int, Read, Write, str]
"""A claimed MMIO range: start, end, the address at which offsets are 0, read, write, name."""

UNCLAIMED_KEPT = 64
ALL_ONES = tuple((1 << size_bytes * 8) - 1 for size_bytes in range(9))
"""The highest value of each access size, by size in bytes."""


class BusDevice(Protocol):
    """What the bus asks of a device: little-endian values of 1, 2, 4 or 8 bytes at an offset in its range.

    Some hypervisors make two accesses of 4 bytes of one of 8, the lower first.
    """

    def read(self, offset: int, size_bytes: int, /) -> int:
        """The value the guest reads; the bus cuts off what is wider than `size_bytes`."""
        ...

    def write(self, offset: int, size_bytes: int, value: int, /) -> None:
        """The guest wrote `value`."""
        ...


class Bus:
    """Two address spaces, ports and MMIO, and the devices in them."""

    def __init__(self) -> None:
        self._port_reads: dict[int, tuple[int, Read]] = {}
        self._port_writes: dict[int, tuple[int, Write]] = {}
        self._port_names: dict[int, str] = {}
        self._mmio: list[Range] = []
        self._mmio_starts: list[int] = []
        self._last: Range = NOWHERE
        self.unclaimed: dict[tuple[str, int], int] = {}
        """How often nobody answered at `("port" | "mmio", address)`; the first 64 addresses only."""

    def add_ports(self, region: Region, device: BusDevice, *, offset: int = 0) -> None:
        """Let `device` answer at the I/O ports of `region`; PlanError when one of them is taken.

        The device sees the region's first port as `offset`.
        """
        if not 0 <= region.start < region.end <= 0x10000:
            raise PlanError(f"ports {region} do not lie within 0-0xffff")
        ports = range(region.start, region.end)
        for port in ports:
            if port in self._port_names:
                taken_by = self._port_names[port] or "a device without a name"
                raise PlanError(f"ports {region} are claimed twice: {taken_by} has port {port:#x}; move one of them")
        for port in ports:
            self._port_reads[port] = (port - region.start + offset, device.read)
            self._port_writes[port] = (port - region.start + offset, device.write)
            self._port_names[port] = region.name

    def add_mmio(self, region: Region, device: BusDevice, *, offset: int = 0) -> None:
        """Let `device` answer at the guest-physical addresses of `region`; PlanError when some are taken.

        The device sees the region's first byte as `offset`.
        """
        if region.size_bytes <= 0 or region.start < 0 or region.end > 1 << 64:
            raise PlanError(f"MMIO range {region} is empty or outside the 64-bit address space")
        for start, end, _, _, _, name in self._mmio:
            if region.overlaps(taken := Region(start, end - start, name)):
                raise PlanError(f"MMIO range {region} overlaps {taken}; move one of them")
        claimed = (region.start, region.end, region.start - offset, device.read, device.write, region.name)
        self._mmio = sorted([*self._mmio, claimed], key=lambda each: each[0])
        self._mmio_starts = [each[0] for each in self._mmio]

    def port(self, port: int) -> tuple[int, Read, Write]:
        """Who answers at a port: the offset to call it with, its read, its write.

        For a run loop that asks once and remembers. Who calls `read` must cut its answer to size.
        """
        if port in self._port_reads:
            return *self._port_reads[port], self._port_writes[port][1]
        return port, self._nobody_reads, self._nobody_writes

    def name_at(self, address: int, *, port: bool = False) -> str:
        """The name of who answers at a port or a guest-physical address; empty for nobody, and for one without."""
        return self._port_names.get(address, "") if port else self._find(address)[5]

    def read_port(self, port: int, size_bytes: int) -> int:
        """What an IN of `size_bytes` from `port` gives."""
        try:
            offset, read = self._port_reads[port]
        except KeyError:
            return self._nobody("port", port, size_bytes)
        return read(offset, size_bytes) & ALL_ONES[size_bytes]

    def write_port(self, port: int, size_bytes: int, value: int) -> None:
        """An OUT of `value`."""
        try:
            offset, write = self._port_writes[port]
        except KeyError:
            self._nobody("port", port, size_bytes)
        else:
            write(offset, size_bytes, value)

    def read_mmio(self, address: int, size_bytes: int) -> int:
        """What a load of `size_bytes` from guest-physical `address` gives."""
        hit = self._last
        if not hit[0] <= address < hit[1]:
            hit = self._find(address)
            if hit is NOWHERE:
                return self._nobody("mmio", address, size_bytes)
        return hit[3](address - hit[2], size_bytes) & ALL_ONES[size_bytes]

    def write_mmio(self, address: int, size_bytes: int, value: int) -> None:
        """A store of `value` to guest-physical `address`."""
        hit = self._last
        if not hit[0] <= address < hit[1]:
            hit = self._find(address)
            if hit is NOWHERE:
                self._nobody("mmio", address, size_bytes)
                return
        hit[4](address - hit[2], size_bytes, value)

    def _find(self, address: int) -> Range:
        index = bisect.bisect_right(self._mmio_starts, address) - 1
        if index >= 0 and address < self._mmio[index][1]:
            self._last = self._mmio[index]
            return self._mmio[index]
        return NOWHERE

    def _nobody_reads(self, port: int, size_bytes: int) -> int:
        return self._nobody("port", port, size_bytes)

    def _nobody_writes(self, port: int, size_bytes: int, value: int) -> None:  # noqa: ARG002
        self._nobody("port", port, size_bytes)

    def _nobody(self, space: str, address: int, size_bytes: int) -> int:
        key = (space, address)
        if key in self.unclaimed or len(self.unclaimed) < UNCLAIMED_KEPT:
            self.unclaimed[key] = self.unclaimed.get(key, 0) + 1
        return ALL_ONES[size_bytes]


def _read_nothing(offset: int, size_bytes: int) -> int:  # noqa: ARG001
    return ALL_ONES[size_bytes]


def _write_nothing(offset: int, size_bytes: int, value: int) -> None:
    """Swallow it."""


NOWHERE: Range = (0, 0, 0, _read_nothing, _write_nothing, "")
"""Where an address that nobody claims is found."""
