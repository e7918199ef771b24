"""The boot steps of PVH, Xen's way of starting a kernel directly; also KVM's and QEMU's.

It takes what `protocol` says is `pvh`, and by its looks a 32-bit ELF kernel with a PVH entry. A 64-bit Linux has the
entry as well, but is told more by its own protocol.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from anyvisor import x86_64
from anyvisor.hookspecs import hookimpl

if TYPE_CHECKING:
    from anyvisor.config import MachineConfig
    from anyvisor.facts import HostFacts
    from anyvisor.plan import Blob, FirmwareTables, Kernel
    from anyvisor.states import Change, VcpuState
    from anyvisor.x86_64.gdt import Gdt
    from anyvisor.x86_64.layout import Layout

PROTOCOL = "pvh"


@hookimpl(trylast=True)
def anyvisor_load_kernel(config: MachineConfig, layout: Layout) -> Kernel | None:
    """A kernel with a PVH entry, each segment where the file says; out of a bzImage it is unpacked here."""
    path, images = config.kernel_path, x86_64.pvh_image
    if config.protocol == PROTOCOL or (config.protocol is None and images.speaks_pvh_first(path)):
        return images.load_pvh(path, layout, unpack=config.unpack)
    return None


@hookimpl(trylast=True)
def anyvisor_boot_params(
    config: MachineConfig,
    facts: HostFacts,
    layout: Layout,
    kernel: Kernel,
    initrd: Blob | None,
    acpi: FirmwareTables | None,
) -> tuple[Blob, ...] | None:
    """The start info with memory map, initrd and RSDP, and the command line."""
    if kernel.protocol != PROTOCOL:
        return None
    command_line = x86_64.bootparams.told_command_line(config, facts)
    return x86_64.pvh.pvh_boot_params(command_line, layout, kernel, initrd, acpi)


@hookimpl(trylast=True)
def anyvisor_registers(layout: Layout, kernel: Kernel, gdt: Gdt, vcpu: int) -> tuple[VcpuState | Change, ...] | None:
    """32-bit protected mode at the PVH entry on the first vCPU; the others wait for it."""
    if kernel.protocol != PROTOCOL:
        return None
    return x86_64.registers.pvh_registers(kernel, layout, gdt, boot_processor=vcpu == 0)
