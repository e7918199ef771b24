"""The XSDT and the older RSDT: the addresses of all tables but those that the FADT names (5.2.7, 5.2.8)."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import Any, ClassVar, Self

import attrs

from anyvisor.x86_64.acpi.table import SystemTable


@attrs.frozen
class Rsdt(SystemTable):
    """Guest-physical addresses of tables, of 32 bits each."""

    SIGNATURE, NAME = "RSDT", "RSDT"
    ADDRESS: ClassVar[str] = "I"

    tables: tuple[int, ...] = ()

    def body(self) -> bytes:
        """The addresses."""
        return struct.pack(f"<{len(self.tables)}{self.ADDRESS}", *self.tables)

    @classmethod
    def from_body(cls, body: bytes, **header: Any) -> Self:
        """The addresses in `body`; struct.error when it ends within one."""
        return cls(tuple(address for (address,) in struct.iter_unpack(f"<{cls.ADDRESS}", body)), **header)

    def details(self) -> Iterator[str]:
        """Every address."""
        return (f"table at {address:#x}" for address in self.tables)


@attrs.frozen
class Xsdt(Rsdt):
    """Guest-physical addresses of tables, of 64 bits each.

    >>> Xsdt.decode(Xsdt((0xA0040, 0xA0180)).to_bytes()).tables == (0xA0040, 0xA0180)
    True
    """

    SIGNATURE, NAME = "XSDT", "XSDT"
    ADDRESS = "Q"
