"""The boot steps of a flat binary: bytes that go to an address and are started in a mode, both of the user's choice.

It takes a file only if `protocol` says `raw`: by their looks, such files are nothing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from anyvisor import x86_64
from anyvisor.hookspecs import hookimpl

if TYPE_CHECKING:
    from anyvisor.config import MachineConfig
    from anyvisor.plan import Blob, Kernel
    from anyvisor.states import Change, VcpuState
    from anyvisor.x86_64.gdt import Gdt
    from anyvisor.x86_64.layout import Layout
    from anyvisor.x86_64.paging import PageTables

PROTOCOL = "raw"


@hookimpl(trylast=True)
def anyvisor_load_kernel(config: MachineConfig) -> Kernel | None:
    """All bytes of the file, at the address that `raw` says."""
    if config.protocol != PROTOCOL:
        return None
    x86_64.raw.check_nothing_handed_over(config)
    return x86_64.raw.load_raw(config.kernel_path, config.raw)


@hookimpl(trylast=True)
def anyvisor_boot_params(kernel: Kernel) -> tuple[Blob, ...] | None:
    """Nothing: a flat binary is told nothing."""
    return () if kernel.protocol == PROTOCOL else None


@hookimpl(trylast=True)
def anyvisor_registers(
    layout: Layout, kernel: Kernel, gdt: Gdt | None, page_tables: PageTables | None, vcpu: int
) -> tuple[VcpuState | Change, ...] | None:
    """The entry on the first vCPU, in the mode that `raw` says; the others wait for it."""
    if kernel.protocol != PROTOCOL:
        return None
    root = page_tables.root if page_tables else 0
    return x86_64.raw.raw_registers(kernel, layout, gdt, root, boot_processor=vcpu == 0)
