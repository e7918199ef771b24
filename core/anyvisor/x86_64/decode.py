"""Bytes of tables from anywhere, back into words: files of Linux and of QEMU, dumps of other tools, whole memories.

`sniff` says of which kind some bytes are, `decode` reads them. A GDT and a multiboot information structure have no
mark of their own: their kinds must be said.
"""

from __future__ import annotations

import itertools
import re
import struct
from collections.abc import Callable, Iterator, Mapping
from types import MappingProxyType
from typing import Any

import attrs

from anyvisor.errors import AnyvisorError, PlanError
from anyvisor.section import Section
from anyvisor.x86_64 import pvh, setup_header
from anyvisor.x86_64.acpi.facs import Facs
from anyvisor.x86_64.acpi.read import KINDS as ACPI_KINDS
from anyvisor.x86_64.acpi.read import decode_table
from anyvisor.x86_64.acpi.rsdp import SIGNATURE as RSDP_SIGNATURE
from anyvisor.x86_64.acpi.table import HEADER
from anyvisor.x86_64.bootparams import SIZE_BYTES, BootParams
from anyvisor.x86_64.decode_memory import decode_memory, is_memory
from anyvisor.x86_64.decode_text import acpidump_tables, cpuid_tables, is_acpidump, is_cpuid_dump
from anyvisor.x86_64.describe_processors import changes_between, describe_model, describe_topology
from anyvisor.x86_64.describe_tables import AML_TABLES, describe_acpi
from anyvisor.x86_64.e820 import E820Type
from anyvisor.x86_64.firmware_tables import READ_ERRORS
from anyvisor.x86_64.gdt import Gdt
from anyvisor.x86_64.mptable import POINTER, POINTER_SIGNATURE, TABLE_SIGNATURE, MpTable, table_address
from anyvisor.x86_64.multiboot.information import MultibootInfo
from anyvisor.x86_64.smbios import EntryPoint32, EntryPoint64, SmbiosTables, decode_entry
from anyvisor.x86_64.smbios.entry_point import MAX_ENTRY_BYTES

Found = tuple[str, Any]
"""A text, and the value that it tells of."""
ANY_POINTER = MpTable(()).pointer_bytes(0x1000)
"""A sound pointer, for tables that come without theirs."""
END_OF_TABLE = 127
"""The type of the last SMBIOS structure."""


def sniff(data: bytes, file_name: str = "") -> str | None:
    """The kind that the bytes have, by what they begin with; None when they have no mark.

    Where there is none, the name counts that `anyvisor dump` gives such a file.
    """
    marked = (name for name, kind in KINDS.items() if kind.looks_like(data))
    return next(marked, {"gdt.bin": "gdt", "mbi.bin": "mbi"}.get(file_name))


def decode(data: bytes, kind: str) -> Section:
    """The bytes in words and as a value. PlanError, most with the offset, when they are broken.

    `kind` is one of `KINDS`.

    >>> print(decode(bytes(8) + b"\\xff\\xff\\0\\0\\0\\x9b\\xaf\\0", "gdt").text.splitlines()[-1])
    1      0x0008    0x0000000000000000  0xffffffff  0    0xa09b  code64 accessed|readable|executable
    """
    try:
        text, value = KINDS[kind].read(data)
    except AnyvisorError:
        raise
    except READ_ERRORS as error:
        raise PlanError(f"{KINDS[kind].words} cannot be read: {error or type(error).__name__}") from error
    return Section(KINDS[kind].words, text, value)


# -- ACPI ------------------------------------------------------------------------------------------------------


def _looks_like_acpi(data: bytes) -> bool:
    known = {*(each.encode() for each in (*ACPI_KINDS, *AML_TABLES)), Facs.SIGNATURE.encode()}
    return data.startswith(RSDP_SIGNATURE) or data[:4] in known or _has_header(data) or is_acpidump(data)


def _has_header(data: bytes) -> bool:
    """Whether the bytes are one table, whatever its signature."""
    if len(data) < HEADER.size or not re.fullmatch(rb"[A-Z0-9_!]{4}", data[:4]):
        return False
    size_bytes = int.from_bytes(data[4:8], "little")
    return HEADER.size <= size_bytes <= len(data) and sum(data[:size_bytes]) % 256 == 0


def _acpi(data: bytes) -> Found:
    """One table or several, one behind the other."""
    files = acpidump_tables(data) if is_acpidump(data) else [data]
    tables = [table for each in files for table in _tables(each)]
    return "\n".join(describe_acpi(each) for each in tables), tables


def _tables(data: bytes) -> Iterator[Any]:
    start = 0
    while start == 0 or data[start:].strip(b"\0"):
        try:
            table: Any = decode_table(data[start:])
        except PlanError as error:
            raise PlanError(f"table at offset {start:#x}: {error}" if start else str(error)) from error
        yield table
        start += len(table.to_bytes())


# -- MP table and SMBIOS ---------------------------------------------------------------------------------------


@attrs.frozen
class MpPointer:
    """An MP floating pointer that came without its table."""

    table: int


def _mptable(data: bytes) -> Found:
    """A table, or its pointer, or both."""
    if not data.startswith(POINTER_SIGNATURE):
        table = MpTable.decode(ANY_POINTER, data)
        return table.describe(), table
    address = table_address(data)
    words = f"MP pointer: table at {address:#x}"
    start = data.find(TABLE_SIGNATURE, POINTER.size)
    if start < 0:
        return words, MpPointer(address)
    table = MpTable.decode(data, data[start:])
    return f"{words}\n{table.describe()}", table


def _looks_like_smbios(data: bytes) -> bool:
    return data.startswith((EntryPoint64.ANCHOR, EntryPoint32.ANCHOR)) or _is_structures(data)


def _is_structures(data: bytes) -> bool:
    """Whether the bytes are a structure table, which has no mark but that it can be read to its very end."""
    if not 6 <= len(data) < 1 << 20 or data[0] > END_OF_TABLE or data[1] < 4:
        return False
    try:
        tables = SmbiosTables.decode(data)
    except READ_ERRORS:
        return False
    return bool(tables.structures) and tables.structures[-1].to_bytes()[0] == END_OF_TABLE


def _smbios(data: bytes) -> Found:
    """An entry point, or structures, or both as dmidecode writes them."""
    if not data.startswith((EntryPoint64.ANCHOR, EntryPoint32.ANCHOR)):
        tables = SmbiosTables.decode(data)
        if not tables.structures:
            raise PlanError("SMBIOS tables end at offset 0x0; there is no structure")
        return tables.describe(), tables
    entry = decode_entry(data)
    if len(data) <= MAX_ENTRY_BYTES:
        return entry.describe(), entry
    tables = SmbiosTables.from_dump(data)
    return tables.describe(), tables


# -- what kernels are told -------------------------------------------------------------------------------------


def _is_zero_page(data: bytes) -> bool:
    """Whether it is one page, and has a setup header's mark, or at least a memory map that begins with RAM at 0.

    Linux shows one without the mark where it made the page itself, of what PVH told it.
    """
    if len(data) != SIZE_BYTES:
        return False
    mark = int.from_bytes(data[setup_header.JUMP_END : setup_header.JUMP_END + 4], "little")
    try:
        ram = [each.start for each in BootParams.from_bytes(data).e820 if each.type == E820Type.RAM]
    except READ_ERRORS:
        ram = []
    return mark == setup_header.SIGNATURE or ram[:1] == [0]


def _zero_page(data: bytes) -> Found:
    params = BootParams.from_bytes(data)
    lines = [params.describe()]
    if unread := list(_different(data, params.to_bytes())):
        lines.append(f"other bytes that are not 0: {', '.join(unread)}")
    return "\n".join(lines), params


def _different(data: bytes, known: bytes) -> Iterator[str]:
    """Where there is something that was not read, as ranges of offsets."""
    offsets = [offset for offset, (one, other) in enumerate(zip(data, known, strict=True)) if one != other]
    for _, run in itertools.groupby(enumerate(offsets), key=lambda pair: pair[1] - pair[0]):
        members = [offset for _, offset in run]
        yield f"{members[0]:#x}-{members[-1]:#x}" if len(members) > 1 else f"{members[0]:#x}"


def _start_info(data: bytes) -> Found:
    info = pvh.StartInfo.decode(data)
    return info.describe(), info


def _mbi(data: bytes) -> Found:
    info = MultibootInfo.decode(data)
    return info.describe(), info


# -- processors ------------------------------------------------------------------------------------------------


def _cpuid(data: bytes) -> Found:
    """The first processor, what the others have differently, and their topology."""
    tables = cpuid_tables(data)
    first, *others = tables.values()
    words, _ = describe_topology(list(tables.values()))
    lines = [describe_model(first), *words.splitlines(), *changes_between("CPU", first, others)]
    return "\n".join(lines), tables


def _gdt(data: bytes) -> Found:
    table = Gdt.from_bytes(data)
    return table.describe(), table


def _gdt32(data: bytes) -> Found:
    table = Gdt.from_bytes(data, long_mode=False)
    return table.describe(), table


@attrs.frozen
class Kind:
    """A kind of bytes: in words, how to read them, and what they look like."""

    words: str
    read: Callable[[bytes], Found]
    looks_like: Callable[[bytes], bool] = lambda _: False


KINDS: Mapping[str, Kind] = MappingProxyType(
    {
        "acpi": Kind("ACPI tables", _acpi, _looks_like_acpi),
        "mptable": Kind("MP table", _mptable, lambda data: data.startswith((POINTER_SIGNATURE, TABLE_SIGNATURE))),
        "zero-page": Kind("Zero page", _zero_page, _is_zero_page),
        "start-info": Kind("PVH start info", _start_info, lambda data: data.startswith(struct.pack("<I", pvh.MAGIC))),
        "mbi": Kind("Multiboot information", _mbi),
        "cpuid": Kind("CPUID", _cpuid, is_cpuid_dump),
        "smbios": Kind("SMBIOS tables", _smbios, _looks_like_smbios),
        "gdt": Kind("GDT of long mode", _gdt),
        "gdt32": Kind("GDT", _gdt32),
        "memory": Kind("Tables in memory", decode_memory, is_memory),
    }
)
"""What can be decoded. The order is that of sniffing: the surest mark first."""
