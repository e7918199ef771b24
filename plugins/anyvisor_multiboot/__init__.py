"""Kernels that are booted by multiboot 1, such as Xen: found by their header, loaded, and told what a loader tells.

Every implementation leaves kernels of other protocols to the next plugin.
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

PROTOCOL = "multiboot"


@hookimpl(trylast=True)
def anyvisor_load_kernel(config: MachineConfig, layout: Layout) -> Kernel | None:
    """A file with a multiboot header, unless another protocol is asked for; with gzip around it, what is inside."""
    if config.protocol not in {None, PROTOCOL}:
        return None
    if config.protocol is None and not x86_64.multiboot.speaks_multiboot(config.kernel_path):
        return None
    return x86_64.multiboot.load_kernel(config.kernel_path, layout)


@hookimpl(trylast=True)
def anyvisor_boot_params(
    config: MachineConfig, layout: Layout, kernel: Kernel, initrd: Blob | None
) -> tuple[Blob, ...] | None:
    """The multiboot information, with the initrd for its first module, and the command line."""
    if kernel.protocol != PROTOCOL:
        return None
    return x86_64.multiboot.multiboot_params(config.command_line, layout, kernel, initrd, name=config.kernel_path.name)


@hookimpl(trylast=True)
def anyvisor_registers(layout: Layout, kernel: Kernel, gdt: Gdt, vcpu: int) -> tuple[VcpuState | Change, ...] | None:
    """Protected mode at the kernel's entry on the first vCPU; the others wait for it."""
    if kernel.protocol != PROTOCOL:
        return None
    return x86_64.registers.multiboot_registers(kernel, layout, gdt, boot_processor=vcpu == 0)
