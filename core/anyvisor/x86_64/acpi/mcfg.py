"""The MCFG: where the configuration space of PCI Express lies in memory (PCI Firmware Specification 3.3, 4.1.2)."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Self

import attrs

from anyvisor.errors import PlanError
from anyvisor.memory import MIB, Region
from anyvisor.x86_64.acpi.table import HEADER, SystemTable, body_size
from anyvisor.x86_64.records import U8, U16, U64, pack, raw, shape_of, unpack

BUS_BYTES = 1 * MIB
"""What the configuration space of one bus takes: 32 devices of 8 functions of 4 KiB."""


@attrs.frozen
class Ecam:
    """The configuration space of some buses of a segment. `start` is that of bus 0, though it may not be among them."""

    start: int = attrs.field(metadata=U64)
    segment: int = attrs.field(default=0, metadata=U16)
    first_bus: int = attrs.field(default=0, metadata=U8)
    last_bus: int = attrs.field(default=255, metadata=U8)
    reserved: bytes = attrs.field(default=bytes(4), metadata=raw(4))

    @classmethod
    def covering(cls, region: Region) -> Ecam:
        """As many buses as fit in a region, from bus 0; PlanError when there is not 1 MiB for one."""
        buses = min(region.size_bytes // BUS_BYTES, 256)
        if not buses:
            raise PlanError(f"MCFG: {region} has no room for the configuration space of one bus; give it 1M a bus")
        return cls(region.start, last_bus=buses - 1)

    def __str__(self) -> str:
        return f"segment {self.segment}, buses {self.first_bus}-{self.last_bus}: bus 0 at {self.start:#x}"


@attrs.frozen
class Mcfg(SystemTable):
    """The PCI Express memory-mapped configuration table."""

    SIGNATURE, NAME = "MCFG", "MCFG"

    reserved: bytes = attrs.field(default=bytes(8), metadata=raw(8))
    spaces: tuple[Ecam, ...] = ()

    def body(self) -> bytes:
        """The configuration spaces."""
        return pack(self) + b"".join([pack(each) for each in self.spaces])

    @classmethod
    def from_body(cls, body: bytes, **header: Any) -> Self:
        """The configuration spaces in `body`."""
        start, size = body_size(cls), shape_of(Ecam).struct.size
        if len(body) < start or (len(body) - start) % size:
            raise PlanError(f"MCFG ends at offset {HEADER.size + len(body):#x}, within a configuration space")
        spaces = tuple(Ecam(**unpack(Ecam, body[place : place + size])) for place in range(start, len(body), size))
        return cls(**unpack(cls, body), spaces=spaces, **header)

    def details(self) -> Iterator[str]:
        """A line for each configuration space."""
        return (str(each) for each in self.spaces)
