"""The tables that the processor itself uses, GDT and page tables, found in a boot plan as the processor finds them.

Nothing here knows who made a plan or what its pieces are called: tables are found through the registers that lead to
them. So what is found is what counts, also when a plugin has replaced a step. Where nothing leads to a table, there is
none: each `find` function then gives None. What the kernel is told is in `handed_over`, the tables of firmware are in
`firmware_tables`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from typing import Any, TypeAlias, TypeVar

import attrs

from anyvisor.errors import PlanError
from anyvisor.memory import PAGE_BYTES, Region
from anyvisor.plan import BootPlan, VcpuPlan
from anyvisor.states import Change, VcpuState
from anyvisor.x86_64.gdt import Gdt
from anyvisor.x86_64.paging_modes import (
    ADDRESS_MASK,
    LONG_4,
    LONG_5,
    NO_EXECUTE,
    PRESENT,
    PageEntry,
    Paging,
)
from anyvisor.x86_64.state import Sregs

S = TypeVar("S", bound=VcpuState)

MAX_USES = 16
"""How often a page table may be used, to map the same memory at several addresses: a loop has no end."""
BOTH = int(PageEntry(writable=True, user=True))
"""What a page has only if every entry on the way to it has it."""
KIND = int(PageEntry(write_through=True, cache_disabled=True, global_page=True))
"""What a page has if its own entry has it."""


def planned(vcpu: VcpuPlan, kind: type[S]) -> dict[str, Any]:
    """The fields of a planned state or change; empty when the vCPU keeps its reset value."""
    state = vcpu.state(kind)
    if isinstance(state, Change):
        return state.fields
    return attrs.asdict(state, recurse=False) if state else {}  # type: ignore[arg-type]


def boot_fields(plan: BootPlan, kind: type[S]) -> dict[str, Any]:
    """What is planned of a state of the first vCPU."""
    return planned(plan.vcpus[0], kind) if plan.vcpus else {}


# -- the GDT -------------------------------------------------------------------------------------------------


def find_gdt(plan: BootPlan) -> Region | None:
    """Where GDTR leads."""
    register = boot_fields(plan, Sregs).get("gdt")
    return Region(register.base, register.limit + 1, "GDT") if register else None


def read_gdt(plan: BootPlan, place: Region) -> Gdt:
    """The GDT there."""
    efer = boot_fields(plan, Sregs).get("efer")
    return Gdt.from_bytes(plan.read(place.start, place.size_bytes), long_mode=bool(efer and efer.lma))


# -- page tables ---------------------------------------------------------------------------------------------


Page: TypeAlias = tuple[int, int, int, int]
"""A page as numbers, for there are many: linear address, guest-physical address, size in bytes, permissions."""


@attrs.frozen
class PageRun:
    """Neighbouring pages of one size and one permission: linear addresses, and where the first of them leads."""

    start: int
    end: int
    target: int
    page_bytes: int
    permissions: PageEntry

    @property
    def pages(self) -> int:
        """How many pages there are."""
        return (self.end - self.start) // self.page_bytes

    @property
    def leads_to(self) -> str:
        """The guest-physical address, in words."""
        return "itself" if self.start == self.target else f"{self.target:#x}"


def find_page_tables(plan: BootPlan) -> int | None:
    """Where CR3 leads, if paging is on."""
    fields = boot_fields(plan, Sregs)
    return int(fields["cr3"]) if fields.get("cr0") and fields["cr0"].pg and "cr3" in fields else None


def read_page_tables(plan: BootPlan, root: int) -> tuple[list[PageRun], list[int]]:
    """What the page tables at `root` map, and where each table lies."""
    tables: Counter[int] = Counter()
    cr4 = boot_fields(plan, Sregs).get("cr4")
    paging = LONG_5 if cr4 and cr4.la57 else LONG_4
    return list(_runs(_pages(plan, paging, root & ADDRESS_MASK, paging.levels, tables))), list(tables)


def _runs(pages: Iterable[Page]) -> Iterator[PageRun]:
    """Pages, in the order of their linear addresses, as runs of those that go on as they began."""
    first = following = None
    end = 0
    for page in pages:
        if page != following:
            if first:
                yield _run(first, end)
            first = page
        start, target, size, permissions = page
        end = start + size
        following = end, target + size, size, permissions
    if first:
        yield _run(first, end)


def _run(first: Page, end: int) -> PageRun:
    start, target, size, permissions = first
    return PageRun(start, end, target, size, PageEntry(permissions))


def _pages(
    plan: BootPlan, paging: Paging, table: int, level: int, tables: Counter[int], linear: int = 0, above: int = BOTH
) -> Iterator[Page]:
    """Every page that the table leads to; counts in `tables` how often each table was read.

    A page allows what every entry on the way to it does, `above` those before this table.
    """
    tables[table] += 1
    if tables[table] > MAX_USES:
        raise PlanError(f"page table at {table:#x}: more than {MAX_USES} entries lead to it; does its own lead back?")
    size = paging.covers_bytes(level)
    for index, entry in enumerate(paging.entries(plan.read(table, PAGE_BYTES), level)):
        if not entry & PRESENT:
            continue
        start = linear + index * size
        allowed = entry & KIND | entry & above & BOTH | (entry | above) & NO_EXECUTE
        if paging.is_page(level, entry):
            yield start, paging.page_address(level, entry), size, allowed
        else:
            yield from _pages(plan, paging, entry & ADDRESS_MASK, level - 1, tables, start, allowed)
