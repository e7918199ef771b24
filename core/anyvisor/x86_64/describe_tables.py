"""The tables in a plan's memory in words, with the values that they were decoded to."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from anyvisor.memory import Region, format_size
from anyvisor.plan import BootPlan
from anyvisor.x86_64.acpi.aml_outline import aml_outline
from anyvisor.x86_64.acpi.facs import Facs
from anyvisor.x86_64.acpi.read import FoundTables
from anyvisor.x86_64.acpi.rsdp import Rsdp
from anyvisor.x86_64.acpi.table import SystemTable, Table
from anyvisor.x86_64.firmware_tables import Firmware, FoundMpTable, FoundSmbios
from anyvisor.x86_64.handed_over import HandedOver
from anyvisor.x86_64.paging_modes import PageEntry
from anyvisor.x86_64.read_back import (
    PageRun,
    boot_fields,
    find_gdt,
    find_page_tables,
    read_gdt,
    read_page_tables,
)
from anyvisor.x86_64.state import Regs, Sregs

WRITABLE = PageEntry(writable=True)
"""What pages are if nothing is said of them: for the kernel, and writable."""
AML_TABLES = frozenset({"DSDT", "SSDT", "PSDT", "OSDT"})


def gdt(plan: BootPlan) -> tuple[str, Any]:
    """The segments."""
    place = find_gdt(plan)
    if place is None:
        return "none: GDTR keeps its reset value", None
    found = read_gdt(plan, place)
    return f"at {place.start:#x}, limit {place.size_bytes - 1} bytes\n{found.describe()}", found


def page_tables(plan: BootPlan) -> tuple[str, Any]:
    """Which linear addresses lead where."""
    root = find_page_tables(plan)
    if root is None:
        return "none: paging is off at the first instruction", None
    runs = read_page_tables(plan, root)[0]
    return "\n".join([f"root (CR3) {root:#x}", *map(_run, runs)]), runs


def _run(run: PageRun) -> str:
    mode = "" if run.permissions == WRITABLE else f", {run.permissions.words() or 'read-only'}"
    pages = f"{run.pages} pages of {format_size(run.page_bytes)}{mode}"
    return f"{run.start:#014x} - {run.end - 1:#014x}  to {run.leads_to}: {pages}"


def boot_params(firmware: Firmware) -> tuple[str, Any]:
    """Where the kernel is entered, and what it is told."""
    regs = boot_fields(firmware.plan, Regs)
    if not regs:
        return "none: the first vCPU keeps its reset registers", None
    entry = f"entry        {regs.get('rip', 0):#x}, in {_mode(firmware.plan)} mode"
    told = firmware.handed_over
    if told is None:
        registers = f"neither RSI ({regs.get('rsi', 0):#x}) nor EBX ({regs.get('rbx', 0):#x}) leads to any"
        return f"{entry}\nno parameters: {registers}", None
    return "\n".join([entry, *_told(told)]), told


def _told(told: HandedOver) -> Iterator[str]:
    of = "" if told.limit is None else f" of {told.limit}"
    yield f"protocol     {told.protocol}"
    yield f"command line {told.command_line!r} ({len(told.command_line)}{of} bytes)"
    yield f"initrd       {', '.join(map(_initrd, told.initrds)) or 'none'}"
    yield f"{told.place.name:<12} at {told.place.start:#x}"
    yield from (f"  {line}" for line in told.describe().splitlines())


def _initrd(region: Region) -> str:
    return f"{region} ({format_size(region.size_bytes)})"


def _mode(plan: BootPlan) -> str:
    fields = boot_fields(plan, Sregs)
    cr0, efer = fields.get("cr0"), fields.get("efer")
    return "long" if efer and efer.lma else "protected" if cr0 and cr0.pe else "real"


def acpi(firmware: Firmware) -> tuple[str, Any]:
    """Every ACPI table, with what is in the AML of those that have some."""
    found = firmware.acpi
    return ("none", None) if found is None else (acpi_text(found), found)


def acpi_text(found: FoundTables) -> str:
    """The RSDP, and every table that it leads to."""
    title, *rest = found.rsdp.describe().splitlines()
    lines = [f"{title}, at {found.address:#x}", *rest]
    for placed in found.all_placed:
        first, *details = describe_acpi(placed.table).splitlines()
        lines += [f"{first}, at {placed.address:#x}", *details]
    return "\n".join(lines)


def describe_acpi(table: SystemTable | Facs | Rsdp) -> str:
    """A table in words; of one with AML, the objects that it names."""
    if isinstance(table, Table) and table.signature in AML_TABLES:
        outline = aml_outline(table.content).splitlines()
        return "\n".join([*table.describe().splitlines()[:1], *(f"  {line}" for line in outline)])
    return table.describe()


def mptable(firmware: Firmware) -> tuple[str, Any]:
    """The MP table."""
    found = firmware.mptable
    return ("none", None) if found is None else (mptable_text(found), found)


def mptable_text(found: FoundMpTable) -> str:
    """The pointer and the table."""
    return f"pointer at {found.pointer:#x}, table at {found.address:#x}\n{found.table.describe()}"


def smbios(firmware: Firmware) -> tuple[str, Any]:
    """The SMBIOS structures."""
    found = firmware.smbios
    return ("none", None) if found is None else (smbios_text(found), found)


def smbios_text(found: FoundSmbios) -> str:
    """The entry point and the structures."""
    return f"entry point at {found.entry_point:#x}\n{found.tables.describe()}"
