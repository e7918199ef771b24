"""Tables in a dump of a machine's memory from address 0 on, such as QEMU's `pmemsave 0 SIZE FILE` writes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import attrs

from anyvisor.errors import PlanError
from anyvisor.memory import MIB, Region
from anyvisor.x86_64.acpi.read import FoundTables
from anyvisor.x86_64.describe_tables import acpi_text, mptable_text, smbios_text
from anyvisor.x86_64.firmware_tables import (
    READ_ERRORS,
    FoundMpTable,
    FoundSmbios,
    Read,
    find_acpi,
    find_mptable,
    find_smbios,
)


@attrs.frozen
class FoundInMemory:
    """The tables that an OS would find there, None for those that are not there, or broken."""

    acpi: FoundTables | None
    mptable: FoundMpTable | None
    smbios: FoundSmbios | None


def is_memory(data: bytes) -> bool:
    """Whether the bytes can be a memory: they go on beyond the first MiB, and some pointer lies where it should."""
    if len(data) < MIB:
        return False
    return any(mark in data[0x9FC00:MIB] for mark in (b"RSD PTR ", b"_MP_", b"_SM_", b"_SM3_"))


def reader(data: bytes) -> Read:
    """Reads a dump; PlanError beyond its end."""

    def read(address: int, size_bytes: int) -> bytes:
        if address + size_bytes > len(data):
            beyond = Region(address, size_bytes)
            raise PlanError(f"the dump has {len(data):#x} bytes, and something leads to {beyond}; dump more memory")
        return data[address : address + size_bytes]

    return read


def decode_memory(data: bytes) -> tuple[str, FoundInMemory]:
    """All tables that are found where an OS looks for them; what is broken is told by the reason."""
    if len(data) < MIB:
        raise PlanError(f"memory ends at offset {len(data):#x}; at least the first MiB is needed")
    read = reader(data)
    lines: list[str] = []
    found: list[Any] = []
    parts: tuple[tuple[str, Callable[[Read], Any], Callable[[Any], str]], ...] = (
        ("ACPI tables", find_acpi, acpi_text),
        ("MP table", find_mptable, mptable_text),
        ("SMBIOS tables", find_smbios, smbios_text),
    )
    for title, find, words in parts:
        value, text = _attempt(find, words, read)
        found.append(value)
        lines += [title, *(f"  {line}" for line in text.splitlines())]
    return "\n".join(lines), FoundInMemory(*found)


def _attempt(find: Callable[[Read], Any], words: Callable[[Any], str], read: Read) -> tuple[Any, str]:
    try:
        value = find(read)
        return value, "none" if value is None else words(value)
    except READ_ERRORS as error:
        return None, f"cannot be read: {error}"
