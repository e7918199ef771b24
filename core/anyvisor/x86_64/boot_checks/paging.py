"""The page tables themselves: in RAM, and without reserved bits. What they have to map is in `reach`."""

from __future__ import annotations

from collections.abc import Iterator

from anyvisor.finding import Finding
from anyvisor.x86_64.boot_checks.check import broken, check
from anyvisor.x86_64.boot_checks.page_map import PageMap
from anyvisor.x86_64.boot_checks.scene import PROCESSOR, Mode, Scene

TABLES = "page tables"


@check(
    "page-tables-in-ram",
    "CR3, and every entry of a page table, leads to a table that lies in RAM.",
    "SDM Vol. 3, 4.5.2",
    "APM Vol. 2, 5.3",
)
def page_tables_in_ram(scene: Scene) -> Iterator[Finding]:
    """The tables of long mode, and of the older forms of paging the one that CR3 leads to."""
    if scene.pages:
        yield from _faults(scene, scene.pages, in_ram=False)
    elif scene.mode is Mode.PAGED and not scene.in_ram(scene.sregs.cr3 & 0xFFFF_FFE0, 32):
        yield broken(PROCESSOR, f"CR3 ({scene.sregs.cr3:#x}) leads to page tables outside RAM", vcpu=0)


@check(
    "page-tables-reserved",
    "No page-table entry that is present has reserved bits set, nor an address beyond what CPUID says.",
    "SDM Vol. 3, 4.5.4 and 4.7",
    "APM Vol. 2, 5.3",
)
def page_tables_reserved(scene: Scene) -> Iterator[Finding]:
    """A 1 GiB page is one where CPUID has none."""
    if scene.pages:
        yield from _faults(scene, scene.pages, in_ram=True)


def _faults(scene: Scene, pages: PageMap, *, in_ram: bool) -> Iterator[Finding]:
    """The first fault of a kind, and how many more there are."""
    found = [each for each in pages.faults if each.in_ram == in_ram]
    if found:
        more = f" (and {len(found) - 1} more)" if len(found) > 1 else ""
        yield broken(
            TABLES,
            f"{found[0].place} {found[0].problem}{more}",
            found=f"{found[0].entry:#x}",
            wanted="no reserved bit" if in_ram else f"the address of a table in {scene.ram_words}",
            remedy="build them anew in anyvisor_page_tables, and set CR3 to the top one",
        )


CHECKS = (page_tables_in_ram, page_tables_reserved)
