"""Room in guest RAM: is this range free, and where is the highest one that is."""

from __future__ import annotations

from collections.abc import Iterable

from anyvisor.image_file import ImageFile
from anyvisor.memory import GIB, Region, align_down, format_size
from anyvisor.x86_64.layout import Layout


def check_room(image: ImageFile, layout: Layout, region: Region, offset: int) -> None:
    """KernelImageError when `region` is no RAM for a kernel; `offset` is where the image asks for it."""
    if region.start < layout.kernel:
        raise image.error(f"{region} begins below {layout.kernel:#x}, the lowest address for a kernel", offset)
    if region.end > 4 * GIB:
        raise image.error(f"{region} reaches beyond 4 GiB, where the boot protocol has no kernels", offset)
    if not any(ram.contains(region.start, region.size_bytes) for ram in layout.ram):
        have = ", ".join(str(ram) for ram in layout.ram)
        size = format_size(region.size_bytes)
        raise image.error(f"{region} ({size}) is outside RAM ({have}); give the machine more memory", offset)
    for other in layout.reserved:
        if region.overlaps(other):
            raise image.error(f"{region} overlaps {other}; move it in anyvisor_memory_layout", offset)


def highest_room(below: int, size_bytes: int, alignment: int, taken: Iterable[Region]) -> int:
    """The highest aligned address with `size_bytes` free bytes that end by `below`; negative for none."""
    address = align_down(below - size_bytes, alignment)
    for other in sorted(taken, key=lambda region: region.end, reverse=True):
        if other.size_bytes and Region(address, size_bytes).overlaps(other):
            address = align_down(other.start - size_bytes, alignment)
    return address
