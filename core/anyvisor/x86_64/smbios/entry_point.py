"""The SMBIOS entry point: where the structure table is, and of which version; DSP0134, 5.2.

Some facts about entry points. There are two: `_SM_`, of 31 bytes and with a 32-bit address, and `_SM3_`, of 24 bytes
and with a 64-bit one (SMBIOS 3.0). Without UEFI an OS looks for them at every 16 bytes from 0xF0000 to 0xFFFFF, and
Linux believes `_SM3_` before `_SM_`. The older one has the exact length of the table and the number of its structures;
the newer one only a length that the table does not go beyond: it ends with the structure of type 127. All bytes of an
entry point sum to 0, and in the older one those from `_DMI_` on do so too, for readers that know nothing else.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import ClassVar, Self

import attrs

from anyvisor.errors import PlanError
from anyvisor.memory import Region
from anyvisor.x86_64.checksum import check_sum, with_checksum

Read = Callable[[int, int], bytes]
"""`read(guest_address, size_bytes) -> bytes`"""
SCANNED = Region(0xF0000, 0x10000, "BIOS")
"""Where an OS looks for an entry point."""
PARAGRAPH = 16
"""It lies at a multiple of this."""
MAX_ENTRY_BYTES = 32


@attrs.frozen
class EntryPoint64:
    """A `_SM3_` entry point: the table is at `table_address`, and no longer than `table_bytes`."""

    ANCHOR: ClassVar[bytes] = b"_SM3_"
    SHAPE: ClassVar[struct.Struct] = struct.Struct("<5sBBBBBBBIQ")

    table_address: int
    table_bytes: int
    version: tuple[int, int, int] = (3, 3, 0)
    revision: int = 1
    reserved: int = 0

    def to_bytes(self) -> bytes:
        """The 24 bytes in memory; PlanError for numbers that do not fit."""
        numbers = *self.version, self.revision, self.reserved, self.table_bytes, self.table_address
        return with_checksum(_packed(self, self.SHAPE, self.ANCHOR, 0, self.SHAPE.size, *numbers), 5)

    @classmethod
    def decode(cls, data: bytes) -> Self:
        """The entry point at the start of `data`; PlanError says at which offset it is broken."""
        _check(data, cls.ANCHOR, length_at=6, shortest=cls.SHAPE.size, longest=cls.SHAPE.size)
        _, _, _, *version, revision, reserved, size_bytes, address = cls.SHAPE.unpack_from(data)
        return cls(address, size_bytes, (version[0], version[1], version[2]), revision, reserved)

    def moved(self, table_address: int) -> Self:
        """The same, for a table at another address."""
        return attrs.evolve(self, table_address=table_address)

    def describe(self) -> str:
        """Version, address and length."""
        version = ".".join(map(str, self.version))
        return f"SMBIOS {version}, up to {self.table_bytes} bytes of structures at {self.table_address:#x}"


@attrs.frozen
class EntryPoint32:
    """A `_SM_` entry point: `count` structures in `table_bytes` bytes at `table_address`, the longest `max_bytes`."""

    ANCHOR: ClassVar[bytes] = b"_SM_"
    SHAPE: ClassVar[struct.Struct] = struct.Struct("<4sBBBBHB5s5sBHIHB")
    LEGACY: ClassVar[bytes] = b"_DMI_"

    table_address: int
    table_bytes: int
    count: int
    max_bytes: int
    version: tuple[int, int] = (2, 8)
    revision: int = 0
    formatted: bytes = bytes(5)
    bcd_revision: int = 0x28
    length: int = 31
    """Some writers of version 2.1 have 30 here, and sum up no more; it has 31 bytes all the same."""

    def to_bytes(self) -> bytes:
        """The 31 bytes in memory; PlanError for numbers that do not fit."""
        head = self.ANCHOR, 0, self.length, *self.version, self.max_bytes, self.revision, self.formatted
        table = self.LEGACY, 0, self.table_bytes, self.table_address, self.count, self.bcd_revision
        packed = _packed(self, self.SHAPE, *head, *table)
        whole = packed[:16] + with_checksum(packed[16:], 5)
        return with_checksum(whole[: self.length], 4) + whole[self.length :]

    @classmethod
    def decode(cls, data: bytes) -> Self:
        """The entry point at the start of `data`; PlanError says at which offset it is broken."""
        _check(data, cls.ANCHOR, length_at=5, shortest=cls.SHAPE.size - 1, longest=cls.SHAPE.size)
        _, _, length, major, minor, max_bytes, revision, formatted, legacy, *_ = cls.SHAPE.unpack_from(data)
        if legacy != cls.LEGACY:
            raise PlanError(f"SMBIOS entry point: anchor at offset 0x10 is {legacy!r}, not {cls.LEGACY!r}")
        check_sum("SMBIOS entry point, from 0x10 on", data[16 : cls.SHAPE.size], 5)
        size_bytes, address, count, bcd = cls.SHAPE.unpack_from(data)[-4:]
        version = major, minor
        return cls(address, size_bytes, count, max_bytes, version, revision, formatted, bcd, length)

    def moved(self, table_address: int) -> Self:
        """The same, for a table at another address."""
        return attrs.evolve(self, table_address=table_address)

    def describe(self) -> str:
        """Version, address, length and number of structures."""
        version = ".".join(map(str, self.version))
        what = f"{self.count} structures in {self.table_bytes} bytes"
        return f"SMBIOS {version}, {what} at {self.table_address:#x}"


EntryPoint = EntryPoint64 | EntryPoint32


def decode_entry(data: bytes) -> EntryPoint:
    """The entry point, of either kind, at the start of `data`; PlanError when there is none, or a broken one."""
    if data.startswith(EntryPoint64.ANCHOR):
        return EntryPoint64.decode(data)
    if data.startswith(EntryPoint32.ANCHOR):
        return EntryPoint32.decode(data)
    raise PlanError(f"SMBIOS entry point: offset 0x0 has {data[:5]!r}, not b'_SM3_' or b'_SM_'")


def find_entry(read: Read) -> int | None:
    """Where the entry point lies that Linux would take: the first sound `_SM3_`, else `_SM_`; None without one.

    `read` gives the guest's memory, of which there must be 1 MiB.
    """
    area = read(SCANNED.start, SCANNED.size_bytes)
    for kind in (EntryPoint64, EntryPoint32):
        for offset in range(0, len(area), PARAGRAPH):
            if area.startswith(kind.ANCHOR, offset) and _is_sound(kind, area[offset : offset + MAX_ENTRY_BYTES]):
                return SCANNED.start + offset
    return None


def _is_sound(kind: type[EntryPoint64] | type[EntryPoint32], data: bytes) -> bool:
    try:
        kind.decode(data)
    except PlanError:
        return False
    return True


def _packed(entry: EntryPoint, shape: struct.Struct, *values: bytes | int) -> bytes:
    try:
        return shape.pack(*values)
    except struct.error as error:
        raise PlanError(f"SMBIOS entry point: {entry} does not fit in its bytes: {error}") from error


def _check(data: bytes, anchor: bytes, *, length_at: int, shortest: int, longest: int) -> None:
    """PlanError unless `data` begins with a whole entry point: anchor, length and checksum."""
    if not data.startswith(anchor):
        raise PlanError(f"SMBIOS entry point: anchor at offset 0x0 is {data[: len(anchor)]!r}, not {anchor!r}")
    if len(data) < longest:
        raise PlanError(f"SMBIOS entry point ends at offset {len(data):#x}; it has {longest} bytes")
    length = data[length_at]
    if not shortest <= length <= longest:
        raise PlanError(f"SMBIOS entry point: length at offset {length_at:#x} is {length}, not {longest}")
    check_sum("SMBIOS entry point", data[:length], length_at - 1)
