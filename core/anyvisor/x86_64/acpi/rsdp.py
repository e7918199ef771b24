"""The root system description pointer: the one ACPI structure that an OS must be told of, or find (5.2.5.3)."""

from __future__ import annotations

import struct
from typing import Self

import attrs

from anyvisor.errors import PlanError
from anyvisor.x86_64.acpi.table import letters
from anyvisor.x86_64.checksum import check_sum, with_checksum

SIGNATURE = b"RSD PTR "
FIRST = struct.Struct("<8sB6sBI")
"""All that ACPI 1.0 has: signature, checksum, OEM id, revision, RSDT."""
REST = struct.Struct("<IQB3s")
"""What revision 2 adds: length, XSDT, checksum of all, reserved."""
SIZE_BYTES = FIRST.size + REST.size
FIRST_CHECKSUM, CHECKSUM = 8, 32
"""Offsets of the checksum of the first 20 bytes, and of that of all 36."""


@attrs.frozen
class Rsdp:
    """The pointer: guest-physical addresses of the XSDT and of the older RSDT, 0 for none of it.

    Revision 0 is ACPI 1.0's: 20 bytes, and no XSDT.

    >>> Rsdp(xsdt=0xA0000).to_bytes()[:20].hex(" ")
    '52 53 44 20 50 54 52 20 fc 41 4e 59 56 53 52 02 00 00 00 00'
    """

    xsdt: int = 0
    rsdt: int = 0
    revision: int = 2
    oem_id: str = "ANYVSR"
    reserved: bytes = bytes(3)

    def to_bytes(self) -> bytes:
        """The pointer as it lies in memory; PlanError when an address is too big for its place."""
        try:
            first = FIRST.pack(SIGNATURE, 0, letters(self.oem_id, 6), self.revision, self.rsdt)
            rest = REST.pack(SIZE_BYTES, self.xsdt, 0, self.reserved)
        except struct.error as error:
            raise PlanError(f"RSDP: a value does not fit in its place: {error}") from error
        first = with_checksum(first, FIRST_CHECKSUM)
        return with_checksum(first + rest, CHECKSUM) if self.revision >= 2 else first

    @classmethod
    def decode(cls, data: bytes) -> Self:
        """The pointer in `data`, bytes after its end left aside; PlanError says at which offset it is broken."""
        if len(data) < FIRST.size:
            raise PlanError(f"RSDP ends at offset {len(data):#x}; it has {FIRST.size} bytes, or {SIZE_BYTES}")
        signature, _, oem_id, revision, rsdt = FIRST.unpack_from(data)
        if signature != SIGNATURE:
            raise PlanError(f"RSDP: signature at offset 0x0 is {signature!r}, not {SIGNATURE!r}")
        check_sum("RSDP", data[: FIRST.size], FIRST_CHECKSUM)
        oem = oem_id.decode("latin-1")
        if revision < 2:
            return cls(0, rsdt, revision, oem)
        if len(data) < SIZE_BYTES:
            raise PlanError(f"RSDP ends at offset {len(data):#x}; one of revision {revision} has {SIZE_BYTES} bytes")
        size, xsdt, _, reserved = REST.unpack_from(data, FIRST.size)
        if size != SIZE_BYTES:
            raise PlanError(f"RSDP: length at offset 0x14 is {size}, not {SIZE_BYTES}")
        check_sum("RSDP", data[:SIZE_BYTES], CHECKSUM)
        return cls(xsdt, rsdt, revision, oem, reserved)

    @property
    def name(self) -> str:
        """What the specification calls it."""
        return "RSDP"

    def describe(self) -> str:
        """The pointer in words."""
        tables = [("XSDT", self.xsdt), ("RSDT", self.rsdt)]
        found = [f"  {name} at {address:#x}" for name, address in tables if address]
        title = f"RSDP: revision {self.revision}, {len(self.to_bytes())} bytes, OEM {self.oem_id.strip()}"
        return "\n".join([title, *(found or ["  no tables"])])
