"""What a boot protocol hands the kernel, found by the registers that lead to it: one form for all protocols.

Linux has the zero page's address in RSI, PVH the start info's in EBX, multiboot the information structure's in EBX
and a magic number in EAX. A flat binary is told nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import attrs

from anyvisor.memory import Region
from anyvisor.plan import BootPlan
from anyvisor.x86_64 import multiboot, pvh, setup_header
from anyvisor.x86_64.bootparams import SIZE_BYTES, BootParams
from anyvisor.x86_64.e820 import E820Entry
from anyvisor.x86_64.multiboot.information import SIZE_BYTES as INFORMATION_BYTES
from anyvisor.x86_64.multiboot.information import MultibootInfo
from anyvisor.x86_64.read_back import boot_fields
from anyvisor.x86_64.registers import MULTIBOOT_MAGIC
from anyvisor.x86_64.state import Regs

LOW_HALF = (1 << 32) - 1
START_INFO_BYTES = len(pvh.StartInfo().to_bytes())


@attrs.frozen
class HandedOver:
    """What the kernel is told: `structure` lies at `place` and leads to the rest, which `handover` is where it has one.

    `rsdp` is the address that it is told for ACPI, `command_line_address` that of its command line, each 0 for none.
    `limit` is the longest command line, None for any.
    """

    protocol: str
    place: Region
    structure: BootParams | pvh.StartInfo | MultibootInfo
    handover: pvh.Handover | multiboot.Handover | None
    command_line_address: int
    command_line: str
    initrds: tuple[Region, ...]
    memory_map: tuple[E820Entry, ...]
    rsdp: int = 0
    limit: int | None = None

    def describe(self) -> str:
        """The structure, and what it leads to."""
        words = [self.structure.describe(), *([self.handover.describe()] if self.handover else [])]
        return "\n".join(words)


def find_handed_over(plan: BootPlan) -> HandedOver | None:
    """What the registers of the first vCPU lead a kernel to; None if to nothing. PlanError for what is broken."""
    regs = boot_fields(plan, Regs)
    finders: tuple[Callable[[BootPlan, dict[str, Any]], HandedOver | None], ...] = (_zero_page, _start_info, _multiboot)
    return next(filter(None, (find(plan, regs) for find in finders)), None)


def _zero_page(plan: BootPlan, regs: dict[str, Any]) -> HandedOver | None:
    address = int(regs.get("rsi", 0))
    magic = plan.read(address + setup_header.JUMP_END, 4)
    if not address or int.from_bytes(magic, "little") != setup_header.SIGNATURE:
        return None
    params = BootParams.from_bytes(plan.read(address, SIZE_BYTES))
    return HandedOver(
        protocol="Linux",
        place=Region(address, SIZE_BYTES, "zero page"),
        structure=params,
        handover=None,
        command_line_address=params.command_line_address,
        command_line=params.command_line(plan.read),
        initrds=(params.initrd,) if params.initrd else (),
        memory_map=params.e820,
        rsdp=params.acpi_rsdp_addr,
        limit=params.header.cmdline_size,
    )


def _start_info(plan: BootPlan, regs: dict[str, Any]) -> HandedOver | None:
    address = int(regs.get("rbx", 0)) & LOW_HALF
    if not address or int.from_bytes(plan.read(address, 4), "little") != pvh.MAGIC:
        return None
    handover = pvh.Handover.read(plan.read, address)
    return HandedOver(
        protocol="PVH",
        place=Region(address, START_INFO_BYTES, "PVH start info"),
        structure=pvh.StartInfo.decode(plan.read(address, START_INFO_BYTES)),
        handover=handover,
        command_line_address=handover.cmdline_paddr,
        command_line=handover.command_line(plan.read),
        initrds=tuple(Region(each.paddr, each.size, "module") for each in handover.modules),
        memory_map=handover.memmap,
        rsdp=handover.rsdp_paddr,
    )


def _multiboot(plan: BootPlan, regs: dict[str, Any]) -> HandedOver | None:
    address = int(regs.get("rbx", 0)) & LOW_HALF
    if int(regs.get("rax", 0)) & LOW_HALF != MULTIBOOT_MAGIC:
        return None
    handover = multiboot.Handover.read(plan.read, address)
    return HandedOver(
        protocol="multiboot",
        place=Region(address, INFORMATION_BYTES, "multiboot information"),
        structure=MultibootInfo.decode(plan.read(address, INFORMATION_BYTES)),
        handover=handover,
        command_line_address=handover.cmdline,
        command_line=handover.command_line(plan.read),
        initrds=tuple(Region(each.mod_start, each.mod_end - each.mod_start, "module") for each in handover.modules),
        memory_map=handover.memory_map,
    )
