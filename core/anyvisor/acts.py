"""What a guest does that others notice, as values: its port and MMIO accesses, its loads and stores, its HLT.

A list of acts is a guest without a processor. The mock backend plays such lists, the recorder writes them down from
real guests, and the conformance suite says by them what its tiny guests should do.

Some facts about data. A guest in acts has one register: what it last read, from a port, from MMIO or from RAM. A write
or store whose `value` is None writes that. The `value` of a read is what it gave where that is known (in a recording),
else None.
"""

from __future__ import annotations

import attrs

from anyvisor.exits import Exit


@attrs.frozen
class Act:
    """Something that a guest does."""


@attrs.frozen
class PortIn(Act):
    """IN of 1, 2 or 4 bytes from an I/O port."""

    port: int
    size_bytes: int
    value: int | None = None


@attrs.frozen
class PortOut(Act):
    """OUT of 1, 2 or 4 bytes to an I/O port."""

    port: int
    size_bytes: int
    value: int | None = None


@attrs.frozen
class MmioRead(Act):
    """A load of 1, 2, 4 or 8 bytes from a guest-physical address without RAM."""

    guest_address: int
    size_bytes: int
    value: int | None = None


@attrs.frozen
class MmioWrite(Act):
    """A store of 1, 2, 4 or 8 bytes to a guest-physical address without RAM."""

    guest_address: int
    size_bytes: int
    value: int | None = None


@attrs.frozen
class Load(Act):
    """A load from RAM, little-endian."""

    guest_address: int
    size_bytes: int


@attrs.frozen
class Store(Act):
    """A store to RAM, little-endian."""

    guest_address: int
    size_bytes: int
    value: int | None = None


@attrs.frozen
class Halt(Act):
    """HLT: wait for an interrupt, or for ever if there can be none."""


@attrs.frozen
class Spin(Act):
    """An endless loop; the last act of a list."""


Script = tuple[Act | Exit, ...]
"""A guest in acts. An `Exit` among them is what `Vcpu.run` returns there: a death, an error of the hypervisor."""
