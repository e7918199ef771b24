"""The SLIT: how far every NUMA node is from every other (5.2.17).

A node is at distance 10 from itself; 20 means that an access takes twice as long, 255 that there is no way.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import Any, Self

import attrs

from anyvisor.errors import PlanError
from anyvisor.x86_64.acpi.table import HEADER, SystemTable

_COUNT = struct.Struct("<Q")


@attrs.frozen
class Slit(SystemTable):
    """The System Locality Information Table: a row of distances for each node.

    >>> Slit(((10, 20), (20, 10))).to_bytes()[36:].hex(" ")
    '02 00 00 00 00 00 00 00 0a 14 14 0a'
    """

    SIGNATURE, NAME = "SLIT", "SLIT"

    distances: tuple[tuple[int, ...], ...]

    def body(self) -> bytes:
        """The count, then the rows. PlanError when a row has not a distance for each node."""
        count = len(self.distances)
        for node, row in enumerate(self.distances):
            if len(row) != count or not all(0 <= each <= 255 for each in row):
                raise PlanError(f"SLIT: node {node} has the distances {row}; give {count}, each 10 to 255")
        return _COUNT.pack(count) + b"".join([bytes(row) for row in self.distances])

    @classmethod
    def from_body(cls, body: bytes, **header: Any) -> Self:
        """The rows in `body`."""
        (count,) = _COUNT.unpack_from(body)
        if len(body) != _COUNT.size + count * count:
            size = HEADER.size + len(body)
            raise PlanError(f"SLIT: {count} nodes at offset {HEADER.size:#x} do not fit its length of {size} bytes")
        return cls(tuple(tuple(body[8 + count * row : 8 + count * (row + 1)]) for row in range(count)), **header)

    def details(self) -> Iterator[str]:
        """A line for each node."""
        for node, row in enumerate(self.distances):
            yield f"node {node}: distances {' '.join(str(each) for each in row)}"
