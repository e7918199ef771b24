"""What a kernel reaches for before it has tables of its own: mapped, and in RAM."""

from __future__ import annotations

from collections.abc import Iterator

from anyvisor.finding import Finding
from anyvisor.memory import PAGE_BYTES, Region, format_size
from anyvisor.x86_64.boot_checks.check import broken, check
from anyvisor.x86_64.boot_checks.entry import CODE_BYTES
from anyvisor.x86_64.boot_checks.kernel import kernel_regions
from anyvisor.x86_64.boot_checks.page_map import PageMap
from anyvisor.x86_64.boot_checks.paging import TABLES
from anyvisor.x86_64.boot_checks.scene import LINUX, PROCESSOR, Mode, Scene

STACK_BYTES = 64
"""What an interrupt pushes in 64-bit mode, with some room."""
MOST_PAGES = 1 << 16
"""As many as are looked at, of one region."""


@check(
    "page-tables-identity",
    "For Linux's 64-bit entry, the kernel, the zero page and the command line are mapped to themselves.",
    "Documentation/arch/x86/boot.rst",
)
def page_tables_identity(scene: Scene) -> Iterator[Finding]:
    """The kernel with all its `init_size`, since it unpacks itself there before it has page tables of its own."""
    told, pages = scene.told, scene.pages
    if not told or not pages or told.protocol != LINUX or scene.entry_address is None:
        return
    line = Region(told.command_line_address, len(told.command_line) + 1, "command line")
    for region in [*kernel_regions(scene), told.place, *([line] if line.start else [])]:
        if problem := _not_itself(pages, region):
            yield broken(
                TABLES,
                f"{region.name} {region.start:#x}-{region.end - 1:#x} is not mapped to itself: {problem}",
                wanted="an identity map of it",
                remedy="map all RAM to itself in anyvisor_page_tables, as the default tables do",
            )


@check("gdt-mapped", "With paging on, the page tables map the GDT.", "SDM Vol. 3, 3.5.1", "APM Vol. 2, 4.6")
def gdt_mapped(scene: Scene) -> Iterator[Finding]:
    """GDTR holds a linear address."""
    yield from _mapped(scene, "GDT", scene.sregs.gdt.base)


@check("stack-mapped", "With paging on, the page tables map the stack.", "SDM Vol. 1, 6.2", "APM Vol. 2, 8.9.3")
def stack_mapped(scene: Scene) -> Iterator[Finding]:
    """What lies below RSP; a stack pointer of 0 is none."""
    if scene.regs.rsp:
        yield from _mapped(scene, "stack", scene.linear(scene.sregs.ss, scene.regs.rsp - 1))


def _mapped(scene: Scene, name: str, linear: int) -> Iterator[Finding]:
    walk = scene.pages.walk(linear) if scene.pages else None
    if walk and walk.guest_address is None and not walk.is_broken:
        problem = f"the {name} at {linear:#x} is not mapped: {walk.problem}"
        yield broken(PROCESSOR, problem, remedy="map it in anyvisor_page_tables, or move it", vcpu=0)


@check(
    "stack-in-ram",
    "A stack pointer that is set has RAM below it, and there nothing that the kernel still needs.",
    "SDM Vol. 1, 6.2",
    "APM Vol. 2, 8.9.3",
)
def stack_in_ram(scene: Scene) -> Iterator[Finding]:
    """PVH and multiboot say nothing of the stack, and a kernel may set up its own: 0 is none."""
    if not scene.regs.rsp or not scene.starts or (scene.told and scene.told.protocol != LINUX):
        return
    at = scene.physical(scene.linear(scene.sregs.ss, scene.regs.rsp - STACK_BYTES))
    if at is None:
        return
    below = Region(at, STACK_BYTES, "stack")
    remedy = "move RSP in anyvisor_registers"
    if not scene.in_ram(at, STACK_BYTES):
        found, wanted = f"RSP {scene.regs.rsp:#x}", f"an address in {scene.ram_words}"
        yield broken(PROCESSOR, "the stack is outside RAM", found=found, wanted=wanted, remedy=remedy, vcpu=0)
        return
    for needed in _needed(scene):
        if below.overlaps(needed):
            problem = f"the stack grows into the {needed}: what is pushed first overwrites it"
            yield broken(PROCESSOR, problem, found=f"RSP {scene.regs.rsp:#x}", remedy=remedy, vcpu=0)
            return


def _needed(scene: Scene) -> Iterator[Region]:
    """What must outlive the first instructions: the code, the tables in use, and what is handed over."""
    if scene.entry_address is not None:
        yield Region(scene.entry_address, CODE_BYTES, "code at the entry")
    if scene.mode is not Mode.REAL and (at := scene.physical(scene.sregs.gdt.base)) is not None:
        yield Region(at, scene.sregs.gdt.limit + 1, "GDT")
    if scene.pages:
        yield Region(scene.pages.root, PAGE_BYTES, "top page table")
    if scene.told:
        yield scene.told.place
        yield Region(scene.told.command_line_address, len(scene.told.command_line) + 1, "command line")


def _not_itself(pages: PageMap, region: Region) -> str:
    """Why a region is not mapped to itself; empty if it is. Broken tables are for other checks to name."""
    at = region.start
    for _ in range(MOST_PAGES):
        if at >= region.end:
            break
        walk = pages.walk(at)
        if walk.is_broken:
            break
        if walk.guest_address is None:
            return f"at {at:#x}, {walk.problem}"
        if walk.guest_address != at:
            return f"{at:#x} leads to {walk.guest_address:#x}, in a page of {format_size(walk.page_bytes)}"
        at += walk.page_bytes - at % walk.page_bytes
    return ""


CHECKS = (page_tables_identity, gdt_mapped, stack_mapped, stack_in_ram)
