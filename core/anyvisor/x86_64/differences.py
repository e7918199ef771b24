"""What two x86_64 boot plans have differently, in the manuals' words: tables in memory by entry, states by name.

Tables are found by `read_back`. One that cannot be read has the reason as its only row.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import attrs

from anyvisor.difference.change import Table
from anyvisor.difference.rows import Row, RowChange, numbered, row_changes, word
from anyvisor.errors import AnyvisorError
from anyvisor.memory import PAGE_BYTES, Region, format_size
from anyvisor.plan import BootPlan
from anyvisor.x86_64.bootparams import BootParams
from anyvisor.x86_64.cpuid import Cpuid
from anyvisor.x86_64.layout import BDA_BASE_MEMORY_KIB, BDA_EBDA_SEGMENT
from anyvisor.x86_64.mptable import MpTable
from anyvisor.x86_64.msrs import MsrEntry, Msrs
from anyvisor.x86_64.read_back import (
    command_line,
    find_boot_params,
    find_gdt,
    find_mptable,
    find_page_tables,
    read_boot_params,
    read_gdt,
    read_mptable,
    read_page_tables,
)
from anyvisor.x86_64.segments import Segment

BYTES_READ_ERRORS = (AnyvisorError, OSError, ArithmeticError, LookupError, ValueError)
"""What reading tables of any content may raise; a difference is told nevertheless."""


def tables(plan: BootPlan) -> Iterator[Table]:
    """Every table of a plan that its registers and pointers lead to."""
    for find in (_bios_data, _gdt, _page_tables, _boot_params, _command_line, _mptable):
        try:
            yield from find(plan)
        except BYTES_READ_ERRORS:  # nothing leads to a table of this kind that could be read
            continue


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


def _readable(title: str, place: Region, rows: Callable[[], dict[str, Row]]) -> Table:
    try:
        return Table(title, (place,), rows())
    except BYTES_READ_ERRORS as error:
        return Table(title, (place,), {f"the {title}": f"cannot be read: {error}"})


def _bios_data(plan: BootPlan) -> Iterator[Table]:
    ebda = int.from_bytes(plan.read(BDA_EBDA_SEGMENT, 2), "little") << 4
    base_memory = int.from_bytes(plan.read(BDA_BASE_MEMORY_KIB, 2), "little")
    place = Region(BDA_EBDA_SEGMENT, BDA_BASE_MEMORY_KIB + 2 - BDA_EBDA_SEGMENT)
    yield Table("BIOS data area", (place,), {"EBDA at": f"{ebda:#x}", "base memory": f"{base_memory} KiB"})


def _gdt(plan: BootPlan) -> Iterator[Table]:
    place = find_gdt(plan)
    if place:
        yield _readable("GDT", place, lambda: _segments(list(read_gdt(plan, place))))


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


def _page_tables(plan: BootPlan) -> Iterator[Table]:
    root = find_page_tables(plan)
    if root is None:
        return
    runs, places = read_page_tables(plan, root)
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


def _boot_params(plan: BootPlan) -> Iterator[Table]:
    place = find_boot_params(plan)
    if place:
        yield _readable("zero page", place, lambda: _zero_page(read_boot_params(plan, place)))


def _zero_page(params: BootParams) -> dict[str, Row]:
    rows: dict[str, Row] = {}
    for value in (params.header, params):
        fields = (each.name for each in attrs.fields(type(value)) if each.name not in ("header", "e820"))
        rows |= {name: word(getattr(value, name)) for name in fields}
    rows["header"] = word(params.header.header)
    for entry in params.e820:
        rows[f"e820 {entry.start:#x}"] = {"to": f"{entry.end - 1:#x}", "is": entry.type.name}
    return rows


def _command_line(plan: BootPlan) -> Iterator[Table]:
    place = find_boot_params(plan)
    if place:
        params = read_boot_params(plan, place)
        text = command_line(plan, params)
        yield Table("command line", (Region(params.command_line_address, len(text) + 1),), {"text": repr(text)})


def _mptable(plan: BootPlan) -> Iterator[Table]:
    pointer = find_mptable(plan)
    if pointer is None:
        return
    yield Table("MP pointer", (pointer,), {"leads to": f"{_target(plan, pointer):#x}"})
    table = read_mptable(plan, pointer)
    yield Table("MP table", (Region(_target(plan, pointer), table.size_bytes),), _entries(table))


def _target(plan: BootPlan, pointer: Region) -> int:
    return int.from_bytes(plan.read(pointer.start + 4, 4), "little")


def _entries(table: MpTable) -> dict[str, Row]:
    rows: dict[str, Row] = {"made by": f"{table.oem} {table.product}"}
    rows["local APICs at"] = f"{table.lapic_address:#x}"
    rows["revision"] = f"1.{table.revision}"
    texts = [_split(str(entry)) for entry in table.entries]
    for name, (_, text) in zip(numbered(name for name, _ in texts), texts, strict=True):
        rows[name] = text
    return rows


def _split(text: str) -> tuple[str, str]:
    """An entry's name, and what it says: `processor 0` and `enabled, bootstrap...`."""
    name, _, rest = text.partition(" -> " if " -> " in text else ": ")
    return name, rest
