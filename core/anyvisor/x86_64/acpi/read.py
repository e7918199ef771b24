"""ACPI tables read back: from a guest's memory, as an OS walks them, or from a file with one table.

Wherever it comes from, a table that is read gives the same bytes when it is written: what is not understood is kept.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator

import attrs

from anyvisor.errors import PlanError
from anyvisor.plan import FirmwareTables
from anyvisor.x86_64.acpi import rsdp as pointers
from anyvisor.x86_64.acpi.facs import Facs
from anyvisor.x86_64.acpi.fadt import Fadt
from anyvisor.x86_64.acpi.hpet import Hpet
from anyvisor.x86_64.acpi.madt import Madt
from anyvisor.x86_64.acpi.mcfg import Mcfg
from anyvisor.x86_64.acpi.rsdp import Rsdp
from anyvisor.x86_64.acpi.slit import Slit
from anyvisor.x86_64.acpi.spcr import Spcr
from anyvisor.x86_64.acpi.srat import Srat
from anyvisor.x86_64.acpi.table import HEADER, SystemTable, Table
from anyvisor.x86_64.acpi.tables import AcpiTables
from anyvisor.x86_64.acpi.xsdt import Rsdt, Xsdt

_PREFIX = struct.Struct("<4sI")
"""Signature and length, with which every table begins, the FACS too."""
Read = Callable[[int, int], bytes]
"""`read(guest_address, size_bytes) -> bytes`"""

KINDS: dict[str, type[SystemTable]] = {
    kind.SIGNATURE: kind for kind in (Fadt, Hpet, Madt, Mcfg, Rsdt, Slit, Spcr, Srat, Xsdt)
}
"""The tables that are understood, by signature."""
MAX_TABLES_BYTES = 16 << 20
"""What leads to more of it is taken for broken: all tables of one machine together."""


def decode_table(data: bytes) -> SystemTable | Facs | Rsdp:
    """The table that `data` starts with, as a value of the class that its signature asks for; `Table` if none does.

    PlanError says at which offset it is broken.

    >>> decode_table(Xsdt((0x1000,)).to_bytes()).tables == (0x1000,)
    True
    """
    if data.startswith(pointers.SIGNATURE):
        return Rsdp.decode(data)
    if data.startswith(Facs.SIGNATURE.encode()):
        return Facs.decode(data)
    return KINDS.get(data[:4].decode("latin-1"), Table).decode(data)


@attrs.frozen
class PlacedTable:
    """A table, and the guest-physical address at which it was found."""

    address: int
    table: SystemTable | Facs

    def describe(self) -> str:
        """The table in words, its address in the first line."""
        title, *rest = self.table.describe().splitlines()
        return "\n".join([f"{title}, at {self.address:#x}", *rest])


@attrs.frozen
class FoundTables:
    """What an RSDP leads to: the XSDT or RSDT, and every table, in the order in which they are named."""

    address: int
    rsdp: Rsdp
    root: PlacedTable
    placed: tuple[PlacedTable, ...]

    @property
    def tables(self) -> AcpiTables:
        """The tables without their addresses, to be changed and placed anew."""
        return AcpiTables(tuple(each.table for each in self.placed))

    def describe(self) -> str:
        """All of it in words, with addresses."""
        title, *rest = self.rsdp.describe().splitlines()
        return "\n".join([f"{title}, at {self.address:#x}", *rest, *(each.describe() for each in self.all_placed)])

    @property
    def all_placed(self) -> tuple[PlacedTable, ...]:
        """The XSDT or RSDT, and the tables."""
        return (self.root, *self.placed)


def read_tables(read: Read, rsdp_address: int) -> FoundTables:
    """Every table that the RSDP at that address leads to; PlanError says where which one is broken.

    What `read` raises for an address outside the guest's memory comes through.
    """
    rsdp = Rsdp.decode(read(rsdp_address, pointers.SIZE_BYTES))
    at = rsdp.xsdt or rsdp.rsdt
    if not at:
        raise PlanError(f"RSDP at {rsdp_address:#x} leads to no XSDT and no RSDT")
    found = _placed(read, at)
    root = next(found)
    if not isinstance(root.table, Rsdt):
        raise PlanError(f"RSDP at {rsdp_address:#x} leads to a {root.table.name} at {at:#x}, not to an XSDT")
    return FoundTables(rsdp_address, rsdp, root, tuple(found))


def read_placed(firmware: FirmwareTables) -> FoundTables:
    """The tables in pieces of a boot plan, as `anyvisor_acpi` returns them."""

    def read(address: int, size_bytes: int) -> bytes:
        for blob in firmware.blobs:
            if blob.region.contains(address, min(size_bytes, blob.size_bytes)):
                return blob.read(address - blob.guest_address, size_bytes)
        raise PlanError(f"no ACPI table lies at {address:#x}; a piece was dropped, or an address is wrong")

    return read_tables(read, firmware.pointer)


def _placed(read: Read, root: int) -> Iterator[PlacedTable]:
    """The table at `root`, and all that it leads to, in their order."""
    waiting, left_bytes = [root], MAX_TABLES_BYTES
    while waiting:
        address = waiting.pop()
        size = _size_at(read, address)
        left_bytes -= size
        if left_bytes < 0:
            raise PlanError(f"ACPI tables: with that at {address:#x} they have more than {MAX_TABLES_BYTES} bytes")
        found = _table_at(read, address, size)
        yield found
        if isinstance(found.table, Rsdt) and address == root:
            waiting += filter(None, reversed(found.table.tables))
        elif isinstance(found.table, Fadt):
            waiting += filter(None, (found.table.dsdt_address, found.table.facs_address))


def _size_at(read: Read, address: int) -> int:
    """How long the table at an address says that it is."""
    start = read(address, _PREFIX.size)
    if len(start) < _PREFIX.size:
        raise PlanError(f"ACPI table at {address:#x}: the memory that is read ends before it")
    signature, size = _PREFIX.unpack(start)
    if not HEADER.size <= size <= MAX_TABLES_BYTES:
        raise PlanError(f"ACPI table {signature!r} at {address:#x}: length {size} is none that a table has")
    return int(size)


def _table_at(read: Read, address: int, size_bytes: int) -> PlacedTable:
    try:
        table = decode_table(read(address, size_bytes))
    except PlanError as error:
        raise PlanError(f"ACPI table at {address:#x}: {error}") from error
    if isinstance(table, Rsdp):
        raise PlanError(f"ACPI table at {address:#x}: it is another RSDP")
    return PlacedTable(address, table)
