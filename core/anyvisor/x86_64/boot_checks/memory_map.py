"""The memory map that the kernel is told, against the RAM that there is and the pieces that lie in it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from anyvisor.finding import Finding
from anyvisor.memory import Region, format_size
from anyvisor.x86_64.boot_checks.check import broken, check, hint
from anyvisor.x86_64.boot_checks.kernel import kernel_regions
from anyvisor.x86_64.boot_checks.modes import MULTIBOOT_DOC, PVH_DOC
from anyvisor.x86_64.boot_checks.scene import LINUX, Scene
from anyvisor.x86_64.e820 import E820Entry, E820Type

E820_DOC, INIT_SIZE_DOC = "ACPI 6.5, 15", "Documentation/arch/x86/boot.rst"
MAP = "memory map"


@check("memory-map-ram", "What the memory map calls RAM is RAM, and there is some.", E820_DOC, PVH_DOC, MULTIBOOT_DOC)
def memory_map_ram(scene: Scene) -> Iterator[Finding]:
    """A kernel uses all of it without looking."""
    told = scene.told
    usable = list(_of_type(scene.memory_map))
    if told and told.protocol == LINUX and not usable:
        yield broken(
            MAP,
            "the zero page names no RAM: the kernel has no memory to run in",
            found=f"{len(scene.memory_map)} entries, none of them RAM",
            wanted=f"entries for {scene.ram_words}",
            remedy="fill in e820_table and e820_entries in anyvisor_boot_params",
        )
    for region in usable:
        if left := _uncovered(region, scene.plan.ram):
            yield broken(
                MAP,
                f"says that there is RAM where there is none: {left[0]}",
                found=f"RAM {region}",
                wanted=f"RAM within {scene.ram_words}",
                remedy="make the map from the layout (e820(layout)), or give the machine that memory",
            )


@check("memory-map-overlaps", "No two entries of the memory map of different types share an address.", E820_DOC)
def memory_map_overlaps(scene: Scene) -> Iterator[Finding]:
    """Kernels decide for the stricter one, each in its own way."""
    entries = sorted(each for each in scene.memory_map if each.size_bytes)
    reach: E820Entry | None = None
    for each in entries:
        if reach and each.start < reach.end and each.type != reach.type:
            found = f"{each} over {reach}"
            yield hint(MAP, "entries overlap", found=found, wanted="each address once", remedy="cut one off the other")
        reach = each if reach is None or each.end > reach.end else reach


@check(
    "kernel-memory",
    "The kernel, with all `init_size` bytes that it needs to unpack itself, is in what the memory map calls RAM.",
    INIT_SIZE_DOC,
)
def kernel_memory(scene: Scene) -> Iterator[Finding]:
    """And that is RAM, of which there must be enough."""
    if not any(_of_type(scene.memory_map)):
        return
    for region in kernel_regions(scene):
        if left := _uncovered(region, scene.plan.ram):
            yield broken(
                "kernel",
                f"needs memory that the machine has not: {left[0]}",
                found=scene.ram_words,
                wanted=f"{region} ({format_size(region.size_bytes)}) in RAM",
                remedy="give the machine more memory (--memory)",
            )
            return
        if left := _uncovered(region, _of_type(scene.memory_map)):
            yield _outside("kernel", region, left[0])
            return


@check("initrd-memory", "An initrd is in what the memory map calls RAM.", INIT_SIZE_DOC)
def initrd_memory(scene: Scene) -> Iterator[Finding]:
    """A kernel looks for it in no other memory."""
    for region in scene.initrds if any(_of_type(scene.memory_map)) else ():
        left = _uncovered(region, _of_type(scene.memory_map))
        if left and scene.in_ram(region.start, region.size_bytes):
            yield _outside(str(region), region, left[0])


def _outside(subject: str, region: Region, left: Region) -> Finding:
    return broken(
        subject,
        f"lies in a hole of the memory map: {left} is not called RAM there",
        found=f"{region}",
        wanted="an entry of RAM over all of it",
        remedy="correct the map in anyvisor_boot_params, or what anyvisor_memory_layout reserves",
    )


@check("memory-map-holes", "Every loaded piece is in the memory map, as RAM or as reserved.", E820_DOC)
def memory_map_holes(scene: Scene) -> Iterator[Finding]:
    """A kernel may put devices where the map says nothing."""
    told = {each.start for each in (*scene.initrds, *kernel_regions(scene))}
    for piece in scene.plan.blobs if scene.memory_map else ():
        region = piece.region
        if piece.size_bytes and region.start not in told and (left := _uncovered(region, _of_type(scene.memory_map, *E820Type))):  # fmt: skip  # noqa: E501
            yield hint(
                str(region),
                "lies in a hole of the memory map, where a kernel may put a device",
                found=f"no entry for {left[0]}",
                wanted="an entry, of RAM or reserved",
                remedy="reserve it in anyvisor_memory_layout",
            )


@check("firmware-reserved", "The tables of firmware do not lie in memory that the kernel may use.", "ACPI 6.5, 15.1")
def firmware_reserved(scene: Scene) -> Iterator[Finding]:
    """Those of ACPI, which a kernel reads again later."""
    found = scene.acpi
    if not found:
        return
    places = [Region(each.address, len(each.table.to_bytes()), each.table.name) for each in found.all_placed]
    for place in places:
        if any(place.overlaps(each) for each in _of_type(scene.memory_map)):
            yield hint(
                str(place),
                "is in what the memory map calls RAM: a kernel may overwrite it",
                wanted="an entry that is reserved, ACPI or NVS",
                remedy="reserve it in anyvisor_memory_layout",
            )


def _of_type(entries: Iterable[E820Entry], *types: E820Type) -> Iterator[Region]:
    """The ranges of those types, RAM if none is named; of neighbours, one."""
    merged: list[Region] = []
    for each in sorted(entries):
        if each.type not in (types or (E820Type.RAM,)) or not each.size_bytes:
            continue
        if merged and each.start <= merged[-1].end:
            merged[-1] = Region(merged[-1].start, max(merged[-1].end, each.end) - merged[-1].start)
        else:
            merged.append(Region(each.start, each.size_bytes))
    yield from merged


def _uncovered(region: Region, by: Iterable[Region]) -> list[Region]:
    """What is left of a region without those ranges."""
    left, at = [], region.start
    for each in sorted(by):
        if each.end <= at or each.start >= region.end:
            continue
        if each.start > at:
            left.append(Region(at, each.start - at))
        at = max(at, each.end)
    return [*left, *([Region(at, region.end - at)] if at < region.end else [])]


CHECKS = (memory_map_ram, memory_map_overlaps, kernel_memory, initrd_memory, memory_map_holes, firmware_reserved)
