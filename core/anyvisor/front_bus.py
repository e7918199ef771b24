"""A bus in front of another, that notes what goes through."""

from __future__ import annotations

import abc

from anyvisor.bus import Bus, BusDevice, Read, Write
from anyvisor.memory import Region

PORTS_KEPT = 1024
"""How many ports are remembered: a guest may touch all 65536, and each is a kilobyte here, for each vCPU."""


class FrontBus(Bus, abc.ABC):
    """Answers as `inner` does. Who subclasses it wraps what answers at a port, and both accesses to MMIO.

    For one vCPU, or one run of it, since ports are remembered.
    """

    def __init__(self, inner: Bus):
        self._inner = inner
        self._known: dict[int, tuple[int, Read, Write]] = {}
        self.unclaimed = inner.unclaimed

    @abc.abstractmethod
    def _port_read(self, port: int, read: Read) -> Read:
        """`read`, noted."""

    @abc.abstractmethod
    def _port_write(self, port: int, write: Write) -> Write:
        """`write`, noted."""

    def add_ports(self, region: Region, device: BusDevice, *, offset: int = 0) -> None:
        """Let `device` answer on the bus behind this one."""
        self._inner.add_ports(region, device, offset=offset)

    def add_mmio(self, region: Region, device: BusDevice, *, offset: int = 0) -> None:
        """Let `device` answer on the bus behind this one."""
        self._inner.add_mmio(region, device, offset=offset)

    def port(self, port: int) -> tuple[int, Read, Write]:
        """Who answers at a port, with what notes the access in between."""
        if port not in self._known:
            if len(self._known) >= PORTS_KEPT:
                self._known.clear()
            offset, read, write = self._inner.port(port)
            self._known[port] = (offset, self._port_read(port, read), self._port_write(port, write))
        return self._known[port]

    def read_port(self, port: int, size_bytes: int) -> int:
        """What an IN of `size_bytes` from `port` gives."""
        offset, read, _ = self.port(port)
        return read(offset, size_bytes)

    def write_port(self, port: int, size_bytes: int, value: int) -> None:
        """An OUT of `value`."""
        offset, _, write = self.port(port)
        write(offset, size_bytes, value)
