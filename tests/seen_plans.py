"""Plans to be looked at: machines by every boot protocol, and changes to what lies in their memory."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import attrs

import multiboot_kernels
import pvh_kernels
from anyvisor import MachineConfig, assemble, generic_facts
from anyvisor.plan import Blob, BootPlan
from anyvisor.testing.kernels import tiny_kernel

PROTOCOLS = ("linux64", "linux32", "pvh", "multiboot", "raw")


def kernel_for(protocol: str, folder: Path) -> Path:
    """A kernel that can be entered so."""
    if protocol == "pvh":
        return pvh_kernels.assemble(folder, "elf64")
    path = folder / f"{protocol}.kernel"
    if protocol == "linux64":
        return tiny_kernel(path)
    if protocol == "linux32":
        path.write_bytes(multiboot_kernels.elf32([(0x1000000, b"\xf4", 0x1000)], entry=0x1000000))
    else:
        path.write_bytes(multiboot_kernels.elf32() if protocol == "multiboot" else b"\xf4" * 64)
    return path


def made(folder: Path, protocol: str = "linux64", **config: Any) -> BootPlan:
    """The plan of a machine; everything but its kernel as asked for, or by default."""
    return assemble(MachineConfig(kernel=kernel_for(protocol, folder), protocol=protocol, **config), generic_facts())


def with_content(plan: BootPlan, name: str, content: bytes) -> BootPlan:
    """The plan with other bytes in a piece."""
    return attrs.evolve(
        plan, blobs=tuple(attrs.evolve(each, content=content) if each.name == name else each for each in plan.blobs)
    )


def without(plan: BootPlan, *names: str) -> BootPlan:
    """The plan without some pieces."""
    return attrs.evolve(plan, blobs=tuple(each for each in plan.blobs if each.name not in names))


def with_piece(plan: BootPlan, name: str, address: int, content: bytes) -> BootPlan:
    """The plan with one more piece."""
    return attrs.evolve(plan, blobs=(*plan.blobs, Blob(name, address, content)))
