"""anyvisor's default boot steps: what a Linux kernel expects of an x86_64 machine, a hook a step.

Every implementation only asks the library. To change a step, implement the same hook in a plugin of your own.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from anyvisor import x86_64
from anyvisor.facts import Capability
from anyvisor.hookspecs import hookimpl

if TYPE_CHECKING:
    from anyvisor.config import MachineConfig
    from anyvisor.facts import HostFacts
    from anyvisor.plan import Blob, FirmwareTables, Kernel
    from anyvisor.states import Change, VcpuState
    from anyvisor.x86_64.cpuid import Cpuid
    from anyvisor.x86_64.gdt import Gdt
    from anyvisor.x86_64.layout import Layout
    from anyvisor.x86_64.msrs import Msrs
    from anyvisor.x86_64.paging import PageTables


@hookimpl(trylast=True)
def anyvisor_memory_layout(config: MachineConfig) -> Layout:
    """RAM, the MMIO gap and the first megabyte as on a PC."""
    return x86_64.layout.Layout.for_memory(config.memory)


@hookimpl(trylast=True)
def anyvisor_load_kernel(config: MachineConfig, facts: HostFacts, layout: Layout) -> Kernel | None:
    """A bzImage or an ELF vmlinux, at the address it asks for; unpacked here where the guest's processor is slow."""
    if config.protocol not in {None, "linux64"}:
        return None
    by_default = False if facts.has(Capability.NATIVE) else None
    unpack = by_default if config.unpack is None else config.unpack
    return x86_64.image.load_kernel(config.kernel_path, layout, unpack=unpack)


@hookimpl(trylast=True)
def anyvisor_gdt() -> Gdt:
    """Flat segments at the selectors of the Linux boot protocol."""
    return x86_64.gdt.BOOT_GDT


@hookimpl(trylast=True)
def anyvisor_page_tables(facts: HostFacts, layout: Layout) -> PageTables:
    """An identity map of everything, with the largest pages that the processor has."""
    return x86_64.paging.boot_page_tables(layout, facts.supported_state(x86_64.cpuid.Cpuid))


@hookimpl(trylast=True)
def anyvisor_mptable(config: MachineConfig, layout: Layout) -> FirmwareTables:
    """An MP table that names every vCPU by its APIC id."""
    return x86_64.mptable.MpTable.for_topology(config.topology).at(layout.mptable, pointer=layout.mp_pointer)


@hookimpl(trylast=True)
def anyvisor_boot_params(
    config: MachineConfig,
    facts: HostFacts,
    layout: Layout,
    kernel: Kernel,
    initrd: Blob | None,
    acpi: FirmwareTables | None,
) -> tuple[Blob, ...]:
    """The zero page and the command line, with the speed of a TSC that the guest could not measure."""
    tsc_khz = 0 if config.deterministic else facts.tsc_khz
    command_line = x86_64.bootparams.tell_tsc(config.command_line, tsc_khz)
    return x86_64.bootparams.boot_params(command_line, layout, kernel, initrd, acpi)


@hookimpl(trylast=True)
def anyvisor_cpuid(config: MachineConfig, facts: HostFacts, vcpu: int) -> Cpuid:
    """What the host can give, with this guest's own topology."""
    return x86_64.cpuid_policy.for_vcpu(facts, config.topology, vcpu)


@hookimpl(trylast=True)
def anyvisor_msrs() -> Msrs:
    """The MSRs as firmware leaves them."""
    return x86_64.msrs.boot_msrs()


@hookimpl(trylast=True)
def anyvisor_lapic(vcpu: int) -> Change:
    """External interrupts and NMIs through the local APIC's pins."""
    return x86_64.lapic.boot_lapic(boot_processor=vcpu == 0)


@hookimpl(trylast=True)
def anyvisor_registers(
    layout: Layout, kernel: Kernel, gdt: Gdt, page_tables: PageTables, vcpu: int
) -> tuple[VcpuState | Change, ...]:
    """Long mode at the kernel's entry on the first vCPU; the others wait for it."""
    return x86_64.registers.linux64_registers(kernel, layout, gdt, page_tables.root, boot_processor=vcpu == 0)
