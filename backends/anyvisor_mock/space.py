"""What a guest's accesses find: RAM, doorbells, writes that are gathered, and else the bus.

Some facts about pieces. A hypervisor splits an access that crosses a page there, and each piece goes where it belongs:
RAM, or the bus. Devices know pieces of 1, 2, 4 and 8 bytes; another is split again, into aligned ones. RAM that is
read-only for the guest is RAM to loads and a device to stores.

Gathered writes (`Vm.coalesce`) wait until a vCPU does something else that the bus has to see, or leaves `run`.
"""

from __future__ import annotations

import os
import threading
from collections import deque
from collections.abc import Iterator

from anyvisor.bus import ALL_ONES, Bus
from anyvisor.memory import PAGE_BYTES, RamRegion, Region
from anyvisor_mock.eventfds import Eventfds

Gathered = tuple[bool, int, int, int]
"""A write that waits: whether to a port, where, of how many bytes, what."""


class Space:
    """The two address spaces of one VM's guests: RAM that is `mapped`, and what lies in between."""

    def __init__(self, eventfds: Eventfds):
        self._eventfds = eventfds
        self._zones: list[tuple[bool, Region]] = []
        self._gathered: deque[Gathered] = deque()
        self._delivery = threading.RLock()
        self.mapped: list[tuple[RamRegion, bool]] = []
        """RAM, and whether it is read-only for the guest."""

    def gather(self, region: Region, *, port: bool) -> None:
        """Let writes to `region` wait."""
        self._zones.append((port, region))

    def deliver(self, bus: Bus) -> None:
        """Hand over the writes that have waited, in order."""
        with self._delivery:
            while self._gathered:
                port, address, size_bytes, value = self._gathered.popleft()
                (bus.write_port if port else bus.write_mmio)(address, size_bytes, value)

    # -- ports ---------------------------------------------------------------------------------------------------------

    def read_port(self, bus: Bus, port: int, size_bytes: int) -> int:
        """IN."""
        self.deliver(bus)
        return bus.read_port(port, size_bytes)

    def write_port(self, bus: Bus, port: int, size_bytes: int, value: int) -> None:
        """OUT."""
        value &= ALL_ONES[size_bytes]
        if not self._taken(port, size_bytes, value, port=True):
            self.deliver(bus)
            bus.write_port(port, size_bytes, value)

    # -- memory --------------------------------------------------------------------------------------------------------

    def read(self, bus: Bus, address: int, size_bytes: int) -> int:
        """A load, from RAM or MMIO."""
        answer = 0
        for offset, size in _pieces(address, size_bytes):
            answer |= self._read_piece(bus, address + offset, size) << 8 * offset
        return answer

    def _read_piece(self, bus: Bus, address: int, size_bytes: int) -> int:
        window = self._window(address, size_bytes, writing=False)
        if window is not None:
            with window:
                return int.from_bytes(window, "little")
        self.deliver(bus)
        parts = _aligned(address, size_bytes)
        return sum(bus.read_mmio(address + offset, size) << 8 * offset for offset, size in parts)

    def write(self, bus: Bus, address: int, size_bytes: int, value: int) -> None:
        """A store, to RAM or MMIO."""
        for offset, size in _pieces(address, size_bytes):
            self._write_piece(bus, address + offset, size, value >> 8 * offset & ALL_ONES[size])

    def _write_piece(self, bus: Bus, address: int, size_bytes: int, value: int) -> None:
        window = self._window(address, size_bytes, writing=True)
        if window is not None:
            with window:
                window[:] = value.to_bytes(size_bytes, "little")
        elif not self._taken(address, size_bytes, value, port=False):
            self.deliver(bus)
            for offset, size in _aligned(address, size_bytes):
                bus.write_mmio(address + offset, size, value >> 8 * offset & ALL_ONES[size])

    def _window(self, address: int, size_bytes: int, *, writing: bool) -> memoryview | None:
        """The RAM at an address, where there is some; pieces never cross a page."""
        for ram, readonly in self.mapped:
            if ram.region.contains(address, size_bytes) and not (readonly and writing):
                start = address - ram.region.start
                return ram.view[start : start + size_bytes]
        return None

    # -- instead of the bus --------------------------------------------------------------------------------------------

    def _taken(self, address: int, size_bytes: int, value: int, *, port: bool) -> bool:
        """Whether a write needs no answer: it signals an eventfd, or waits."""
        for bell in self._eventfds.doorbells:
            if bell.answers(address, size_bytes, value, port=port):
                os.write(bell.fd, (1).to_bytes(8, "little"))
                return True
        if any(space == port and zone.contains(address, size_bytes) for space, zone in self._zones):
            self._gathered.append((port, address, size_bytes, value))
            return True
        return False


def _pieces(address: int, size_bytes: int) -> Iterator[tuple[int, int]]:
    """Offset and size of the parts of an access that each lie in one page."""
    first = min(size_bytes, PAGE_BYTES - address % PAGE_BYTES)
    yield 0, first
    if first < size_bytes:
        yield first, size_bytes - first


def _aligned(address: int, size_bytes: int) -> Iterator[tuple[int, int]]:
    """Offset and size of the aligned parts of 1, 2, 4 or 8 bytes; of 1, 2, 4 or 8 bytes there is one."""
    if size_bytes in (1, 2, 4, 8):
        yield 0, size_bytes
        return
    offset = 0
    while offset < size_bytes:
        size = next(each for each in (4, 2, 1) if (address + offset) % each == 0 and offset + each <= size_bytes)
        yield offset, size
        offset += size
