"""A machine's SMBIOS structures, from and to bytes: structure table, guest memory, files of Linux and of dmidecode."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Self, TypeVar

import attrs

from anyvisor.errors import PlanError
from anyvisor.memory import Region
from anyvisor.plan import Blob, FirmwareTables
from anyvisor.x86_64.smbios.boot import EndOfTable, SystemBootInformation
from anyvisor.x86_64.smbios.entry_point import (
    MAX_ENTRY_BYTES,
    PARAGRAPH,
    SCANNED,
    EntryPoint,
    EntryPoint32,
    EntryPoint64,
    Read,
    decode_entry,
)
from anyvisor.x86_64.smbios.memory_devices import MemoryArrayMappedAddress, MemoryDevice, PhysicalMemoryArray
from anyvisor.x86_64.smbios.processor import ProcessorInformation
from anyvisor.x86_64.smbios.structure import RawStructure, Structure
from anyvisor.x86_64.smbios.system import (
    BaseboardInformation,
    BiosInformation,
    ChassisInformation,
    SystemInformation,
)

KNOWN: dict[int, type[Structure]] = {
    kind.TYPE: kind
    for kind in (
        BiosInformation,
        SystemInformation,
        BaseboardInformation,
        ChassisInformation,
        ProcessorInformation,
        PhysicalMemoryArray,
        MemoryDevice,
        MemoryArrayMappedAddress,
        SystemBootInformation,
        EndOfTable,
    )
}
"""Structures with a class of their own, by type."""
DUMP_TABLE = 0x20
"""Where the structure table lies in a file of `dmidecode --dump-bin`; the entry point is at its start."""
MAX_TABLE_BYTES = 1 << 24
"""The longest table that is read: an entry point's length can say up to 4 GiB."""
S = TypeVar("S", bound=Structure)


@attrs.frozen
class SmbiosTables:
    """SMBIOS structures in their order. `decode` and `from_memory` read some, `at` places them for a guest.

    `version` is the version of the specification. `entry` is the entry point of tables that were read.
    """

    structures: tuple[Structure | RawStructure, ...]
    version: tuple[int, ...] = (3, 3, 0)
    entry: EntryPoint | None = attrs.field(default=None, eq=False)

    @property
    def size_bytes(self) -> int:
        """How long the structure table is, the entry point not counted."""
        return len(self.to_bytes())

    def of(self, kind: type[S]) -> tuple[S, ...]:
        """The structures of a class, such as `ProcessorInformation`."""
        return tuple(each for each in self.structures if isinstance(each, kind))

    def to_bytes(self) -> bytes:
        """The structure table as it lies in memory."""
        return b"".join(each.to_bytes() for each in self.structures)

    def entry_point(self, table_address: int) -> EntryPoint64:
        """A 64-bit entry point for this table at that address."""
        major, minor, revision, *_ = (*self.version, 0)
        return EntryPoint64(table_address, self.size_bytes, (major, minor, revision))

    def at(self, region: Region) -> FirmwareTables:
        """The entry point at the start of `region`, at a multiple of 16, and the structures right behind.

        PlanError if they do not fit, or the start is not where an OS looks for an entry point.
        """
        if region.start % PARAGRAPH or not SCANNED.contains(region.start, EntryPoint64.SHAPE.size):
            where = f"at multiples of 16 in {SCANNED}"
            raise PlanError(f"SMBIOS entry point at {region.start:#x}: an OS looks for it only {where}; move it there")
        table = region.start + DUMP_TABLE
        content = self.to_bytes()
        if table + len(content) > region.end:
            raise PlanError(self._too_big(len(content), region))
        entry = Blob("SMBIOS entry point", region.start, self.entry_point(table).to_bytes())
        return FirmwareTables(region.start, (entry, Blob("SMBIOS tables", table, content)))

    def _too_big(self, size_bytes: int, region: Region) -> str:
        count = len(self.of(ProcessorInformation))
        what = f"SMBIOS tables of {size_bytes} bytes, {count} processor sockets among them, with {DUMP_TABLE} before"
        way_out = "have fewer sockets of more cores each, or make it larger in anyvisor_memory_layout"
        return f"{what} do not fit in the {region.size_bytes} bytes of {region}; {way_out}"

    def to_dump(self) -> bytes:
        """A file as `dmidecode --dump-bin` writes it, and `dmidecode --from-dump` reads it."""
        return self.entry_point(DUMP_TABLE).to_bytes().ljust(DUMP_TABLE, b"\0") + self.to_bytes()

    @classmethod
    def decode(cls, table: bytes, entry: EntryPoint | bytes | None = None) -> Self:
        """The structures in `table`, up to the last one; PlanError says at which offset one is broken.

        `entry` is their entry point, or its bytes: it has the version, and limits how much of `table` is read. Without
        one the version is taken to be 3.3, and `table` to end with a structure of type 127, or at its end.
        """
        found = decode_entry(entry) if isinstance(entry, bytes) else entry
        limited = table[: found.table_bytes] if found else table
        count = found.count if isinstance(found, EntryPoint32) else None
        structures = tuple(_structures(limited, count))
        return cls(structures, found.version, found) if found else cls(structures)

    @classmethod
    def from_memory(cls, read: Read, entry: int) -> Self:
        """The tables that the entry point at address `entry` leads to; see `find_entry`. PlanError for broken ones.

        What `read` raises for an address outside the guest's memory comes through.
        """
        found = decode_entry(_entry_bytes(read, entry))
        if found.table_bytes > MAX_TABLE_BYTES:
            raise PlanError(
                f"SMBIOS entry point at {entry:#x}: a table of {found.table_bytes} bytes; {MAX_TABLE_BYTES} are read"
            )
        return cls.decode(read(found.table_address, found.table_bytes), found)

    @classmethod
    def from_dump(cls, data: bytes) -> Self:
        """The tables in a file that `dmidecode --dump-bin` wrote."""
        found = decode_entry(data[:MAX_ENTRY_BYTES])
        if not 0 < found.table_address < len(data):
            raise PlanError(f"SMBIOS dump: its table is at {found.table_address:#x}, and it has {len(data)} bytes")
        return cls.decode(data[found.table_address :], found)

    @classmethod
    def from_sysfs(cls, directory: os.PathLike[str] | str = "/sys/firmware/dmi/tables") -> Self:
        """The tables of the machine this runs on, as Linux shows them to root. OSError where it shows none."""
        files = Path(directory)
        return cls.decode((files / "DMI").read_bytes(), (files / "smbios_entry_point").read_bytes())

    def describe(self) -> str:
        """The tables as text: the entry point if there is one, then every structure."""
        title = self.entry.describe() if self.entry else f"SMBIOS {'.'.join(map(str, self.version))}"
        return "\n".join([title, *(each.describe() for each in self.structures)])


def _structures(table: bytes, count: int | None) -> Iterator[Structure | RawStructure]:
    """The structures of a table one by one: up to the last, or `count` of them, or as many as there are."""
    offset = 0
    while offset < len(table) and count != 0:
        raw = RawStructure.decode(table, offset)
        offset += raw.size_bytes
        kind = KNOWN.get(raw.type)
        yield kind.from_raw(raw) if kind else raw
        if raw.type == EndOfTable.TYPE:
            return
        count = None if count is None else count - 1


def _entry_bytes(read: Read, address: int) -> bytes:
    """The entry point's bytes; no more of them than it has, as memory may end behind it."""
    head = read(address, len(EntryPoint64.ANCHOR))
    kind = EntryPoint64 if head == EntryPoint64.ANCHOR else EntryPoint32
    return read(address, kind.SHAPE.size)
