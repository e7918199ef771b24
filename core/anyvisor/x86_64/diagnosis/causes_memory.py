"""Causes that memory shows: page tables that are not there, code that is none, bytes that have changed."""

from __future__ import annotations

from collections.abc import Iterator

from anyvisor.diagnosis.report import Cause
from anyvisor.memory import PAGE_BYTES, Region
from anyvisor.x86_64.boot_checks.scene import LINUX
from anyvisor.x86_64.diagnosis.scene import Scene
from anyvisor.x86_64.firmware_tables import READ_ERRORS, Firmware
from anyvisor.x86_64.modes import REAL
from anyvisor.x86_64.page_walk import Walk
from anyvisor.x86_64.paging_modes import paging_of


def page_tables(scene: Scene) -> Iterator[Cause]:
    """A table on the way of RIP or RSP that is not in RAM."""
    if scene.sregs is None or not scene.has_died or paging_of(scene.sregs) is None:
        return
    wanted = {"RIP": scene.rip, "RSP": scene.rsp}
    walks = {name: scene.walk(each) for name, each in wanted.items() if each is not None}
    for name, walk in walks.items():
        if walk.table_outside is not None:
            yield _table_outside(scene, name, walk)
            return


def _table_outside(scene: Scene, name: str, walk: Walk) -> Cause:
    is_root = not walk.steps
    what = f"CR3 ({walk.table_outside:#x})" if is_root else f"a page table ({walk.table_outside:#x})"
    return Cause(
        name="cr3-outside-ram" if is_root else "page-table-outside-ram",
        summary=f"{what} lies outside RAM: the processor finds no page tables there",
        because=(f"the walk of {name} {walk.address:#x}: {walk.problem}", f"RAM is {_ram(scene)}"),
        remedy="put the page tables into RAM and their address into CR3 (anyvisor_page_tables)",
        section="SDM Vol. 3, 4.5; APM Vol. 2, 5.3",
        weight=95,
    )


def outside_ram(scene: Scene) -> Iterator[Cause]:
    """RIP leads to where no RAM is: to a device, or to nothing."""
    if scene.rip is None or not scene.has_died:
        return
    place = scene.walk(scene.rip).guest_address
    if place is None or scene.is_ram(place):
        return
    yield Cause(
        name="executing-outside-ram",
        summary=f"the guest executes at {scene.rip:#x}, which is not RAM",
        because=(f"RIP leads to guest-physical {place:#x}; RAM is {_ram(scene)}",),
        remedy="find out how it got there: the entry address, a bad jump, or code that was never loaded; the stack in "
        "the report may hold the address that it came from",
        weight=93,
    )


def not_code(scene: Scene) -> Iterator[Cause]:
    """RIP is at address 0 or thereabouts, or in a table of the processor's own."""
    if scene.rip is None or scene.sregs is None or scene.mode == REAL or not scene.has_died:
        return
    gdt, tables = scene.sregs.gdt, [each.table_address for each in scene.walk(scene.rip).steps]
    place = scene.walk(scene.rip).guest_address
    if scene.rip < PAGE_BYTES and not (scene.entry is not None and scene.entry < PAGE_BYTES):
        yield Cause(
            name="jump-to-zero",
            summary=f"the guest jumped to address 0: RIP is {scene.place(scene.rip)}",
            because=("no code is loaded in the first page; what lies there was executed as if it were",),
            remedy="look for a call through a null pointer or a return from an empty stack; the stack in the report "
            "may hold the address that it came from",
            weight=93,
        )
    elif gdt.base <= scene.rip <= gdt.base + gdt.limit or (place is not None and place & -PAGE_BYTES in tables):
        yield Cause(
            name="executing-tables",
            summary=f"the guest executes a table of its processor as if it were code, at {scene.place(scene.rip)}",
            remedy="find out how it got there: a bad jump, or a return from a broken stack",
            weight=92,
        )


def handed_over(scene: Scene) -> Iterator[Cause]:
    """RIP is in what the guest was handed over to read, and that is still there."""
    if scene.rip is None or not scene.has_died or scene.evidence.is_lost:
        return
    place = scene.walk(scene.rip).guest_address
    region = None if place is None else next((each for each in _to_read(scene) if each.contains(place)), None)
    if region is None or place is None or scene.guest_memory(place, 1) != scene.evidence.plan.read(place, 1):
        return
    yield Cause(
        name="executing-data",
        summary=f"the guest executes the {region.name} as if it were code, at {scene.place(scene.rip)}",
        because=(f"the {region.name} lies at {region.start:#x}-{region.end - 1:#x}, and is there to be read",),
        remedy="find out how it got there: a bad jump, a return from a broken stack, or a run through memory that is "
        "empty up to here",
        weight=92,
    )


def _to_read(scene: Scene) -> Iterator[Region]:
    """What the guest was given to be read."""
    firmware = Firmware(scene.evidence.plan)
    for find in (_handed_over, _acpi_tables):
        try:
            found = [*find(firmware)]
        except READ_ERRORS:  # too broken to be told from code
            continue
        yield from found


def _handed_over(firmware: Firmware) -> Iterator[Region]:
    """What the boot protocol hands over, with what it leads to."""
    told = firmware.handed_over
    if told:
        yield told.place
        yield Region(told.command_line_address, len(told.command_line), "command line")
        yield from (each for each in told.initrds if told.protocol == LINUX)  # a module may be code


def _acpi_tables(firmware: Firmware) -> Iterator[Region]:
    for each in firmware.acpi.placed if firmware.acpi else ():
        data = each.table.to_bytes()
        yield Region(each.address, len(data), f"ACPI table {data[:4].decode('latin-1')}")


def _ram(scene: Scene) -> str:
    return ", ".join(str(each) for each in scene.evidence.plan.ram)


CAUSES = (page_tables, outside_ram, not_code, handed_over)
