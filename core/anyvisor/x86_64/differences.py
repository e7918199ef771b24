"""What two x86_64 boot plans have differently, in the manuals' words: tables in memory by entry, states by name.

Tables are found by `read_back`, `handed_over` and `firmware_tables`, as the guest finds them.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator

import attrs

from anyvisor.difference.change import Table
from anyvisor.difference.rows import Row, RowChange, numbered, row_changes, rows_of, word
from anyvisor.memory import PAGE_BYTES, Region, format_size
from anyvisor.plan import BootPlan
from anyvisor.x86_64.bootparams import BootParams
from anyvisor.x86_64.cpuid import Cpuid
from anyvisor.x86_64.describe_tables import describe_acpi
from anyvisor.x86_64.firmware_tables import READ_ERRORS, Firmware
from anyvisor.x86_64.layout import BDA_BASE_MEMORY_KIB, BDA_EBDA_SEGMENT
from anyvisor.x86_64.mptable import POINTER, MpTable
from anyvisor.x86_64.msrs import MsrEntry, Msrs
from anyvisor.x86_64.read_back import find_gdt, find_page_tables, read_gdt, read_page_tables
from anyvisor.x86_64.segments import Segment


def tables(plan: BootPlan) -> Iterator[Table]:
    """Every table of a plan that its registers and pointers lead to; one that cannot be read is left out.

    A GDT is not: it has the reason as its only row.
    """
    firmware = Firmware(plan)
    finders: tuple[Callable[[Firmware], Iterator[Table]], ...] = (
        _bios_data, _gdt, _page_tables, _handed_over, _command_line, _acpi, _mptable, _smbios,
    )  # fmt: skip
    for find in finders:
        with contextlib.suppress(*READ_ERRORS):
            yield from find(firmware)


def state_changes(before: object, after: object) -> list[str | RowChange] | None:
    """What is different about two states of one type, by name; None for a type that is told field by field."""
    if isinstance(before, Cpuid) and isinstance(after, Cpuid):
        return list(before.diff(after))
    if isinstance(before, Msrs) and isinstance(after, Msrs):
        return [*row_changes(_msr_rows(before), _msr_rows(after))]
    return None


def _msr_rows(msrs: Msrs) -> dict[str, Row]:
    return {each.name: _value(each) for each in msrs}


def _value(entry: MsrEntry) -> str:
    """An MSR's value as it prints itself, without its name."""
    return str(entry).partition(" = ")[2]


# -- tables --------------------------------------------------------------------------------------------------


def _bios_data(firmware: Firmware) -> Iterator[Table]:
    read = firmware.plan.read
    ebda = int.from_bytes(read(BDA_EBDA_SEGMENT, 2), "little") << 4
    base_memory = int.from_bytes(read(BDA_BASE_MEMORY_KIB, 2), "little")
    place = Region(BDA_EBDA_SEGMENT, BDA_BASE_MEMORY_KIB + 2 - BDA_EBDA_SEGMENT)
    yield Table("BIOS data area", (place,), {"EBDA at": f"{ebda:#x}", "base memory": f"{base_memory} KiB"})


def _gdt(firmware: Firmware) -> Iterator[Table]:
    place = find_gdt(firmware.plan)
    if place is None:
        return
    rows: dict[str, Row]
    try:
        rows = _segments(list(read_gdt(firmware.plan, place)))
    except READ_ERRORS as error:
        rows = {"the GDT": f"cannot be read: {error}"}
    yield Table("GDT", (place,), rows)


def _segments(segments: list[Segment]) -> dict[str, Row]:
    rows: dict[str, Row] = {}
    selector = 0
    for segment in segments:
        rows[f"{selector:#04x}"] = {
            "": segment.words,
            "base": f"{segment.base:#x}",
            "limit": f"{segment.limit_bytes:#x}",
            "dpl": str(segment.dpl),
            "granularity": "4 KiB pages" if segment.g else "bytes",
            **({"available": "yes"} if segment.avl else {}),
        }
        selector += 8 * segment.slots
    return rows


def _page_tables(firmware: Firmware) -> Iterator[Table]:
    root = find_page_tables(firmware.plan)
    if root is None:
        return
    runs, places = read_page_tables(firmware.plan, root)
    rows: dict[str, Row] = {
        f"linear {run.start:#x}": {
            "to": f"{run.end - 1:#x}",
            "leads to": run.leads_to,
            "in pages of": format_size(run.page_bytes),
            "that are": run.permissions.words() or "read-only",
        }
        for run in runs
    }
    yield Table("page tables", tuple(Region(each, PAGE_BYTES) for each in places), rows)


# -- what the kernel is told ---------------------------------------------------------------------------------


def _handed_over(firmware: Firmware) -> Iterator[Table]:
    told = firmware.handed_over
    if told is None:
        return
    structure = told.structure
    rows = _zero_page(structure) if isinstance(structure, BootParams) else rows_of(structure)
    for entry in told.memory_map:
        rows[f"e820 {entry.start:#x}"] = {"to": f"{entry.end - 1:#x}", "is": entry.type.name}
    yield Table(told.place.name, (told.place,), rows)


def _zero_page(params: BootParams) -> dict[str, Row]:
    rows: dict[str, Row] = {}
    for value in (params.header, params):
        fields = (each.name for each in attrs.fields(type(value)) if each.name not in ("header", "e820"))
        rows |= {name: word(getattr(value, name)) for name in fields}
    rows["header"] = word(params.header.header)
    return rows


def _command_line(firmware: Firmware) -> Iterator[Table]:
    told = firmware.handed_over
    if told and told.command_line_address:
        place = Region(told.command_line_address, len(told.command_line) + 1)
        yield Table("command line", (place,), {"text": repr(told.command_line)})


# -- the tables of firmware ----------------------------------------------------------------------------------


def _acpi(firmware: Firmware) -> Iterator[Table]:
    found = firmware.acpi
    if found is None:
        return
    for address, table in ((found.address, found.rsdp), *((each.address, each.table) for each in found.all_placed)):
        place = Region(address, len(table.to_bytes()))
        title, *lines = describe_acpi(table).splitlines()
        name, words = _split(title)
        header = ", ".join(each for each in words.split(", ") if not each.endswith(" bytes"))  # told of the piece
        yield Table(name, (place,), {"header": header, **_rows(lines)})


def _mptable(firmware: Firmware) -> Iterator[Table]:
    found = firmware.mptable
    if found is None:
        return
    yield Table("MP pointer", (Region(found.pointer, POINTER.size),), {"leads to": f"{found.address:#x}"})
    yield Table("MP table", (Region(found.address, found.table.size_bytes),), _entries(found.table))


def _smbios(firmware: Firmware) -> Iterator[Table]:
    found = firmware.smbios
    if found is None or found.tables.entry is None:
        return
    entry, structures = found.tables.entry, found.tables.structures
    yield Table("SMBIOS entry point", (Region(found.entry_point, len(entry.to_bytes())),), rows_of(entry))
    described = [_structure(each.describe()) for each in structures]
    rows = dict(zip(numbered(name for name, _ in described), (row for _, row in described), strict=True))
    yield Table("SMBIOS tables", (Region(entry.table_address, found.tables.size_bytes),), rows)


def _structure(text: str) -> tuple[str, Row]:
    """An SMBIOS structure's handle, and what it says."""
    title, *lines = text.splitlines()
    handle, _, words = title.partition(", ")
    return handle, {"": words, **_rows(lines)}


def _entries(table: MpTable) -> dict[str, Row]:
    rows: dict[str, Row] = {"made by": f"{table.oem} {table.product}"}
    rows["local APICs at"] = f"{table.lapic_address:#x}"
    rows["revision"] = f"1.{table.revision}"
    return rows | _rows(map(str, table.entries))


def _rows(lines: Iterable[str]) -> dict[str, str]:
    """Lines such as `processor 0: enabled` as rows by name; a second one of the same name is `processor 0 #2`."""
    texts = [_split(line.strip()) for line in lines]
    return {name: text for name, (_, text) in zip(numbered(name for name, _ in texts), texts, strict=True)}


def _split(text: str) -> tuple[str, str]:
    """An entry's name, and what it says: `processor 0` and `enabled, bootstrap...`."""
    name, _, rest = text.partition(" -> " if " -> " in text else ": ")
    return name, rest
