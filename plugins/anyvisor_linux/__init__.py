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
    from anyvisor.plan import Blob, DeviceSpec, FirmwareTables, Kernel
    from anyvisor.states import Change, VcpuState
    from anyvisor.x86_64.cpuid import Cpuid
    from anyvisor.x86_64.gdt import Gdt
    from anyvisor.x86_64.layout import Layout
    from anyvisor.x86_64.msrs import Msrs
    from anyvisor.x86_64.paging import PageTables

PROTOCOLS = ("linux64", "linux32")
"""The boot protocols that this plugin enters kernels by."""


@hookimpl(trylast=True)
def anyvisor_memory_layout(config: MachineConfig) -> Layout:
    """RAM, the MMIO gap and the first megabyte as on a PC."""
    return x86_64.layout.Layout.for_memory(config.memory)


@hookimpl(trylast=True)
def anyvisor_load_kernel(config: MachineConfig, facts: HostFacts, layout: Layout) -> Kernel | None:
    """A bzImage or an ELF vmlinux, at the address it asks for; unpacked here where the guest's processor is slow.

    Of other protocols than Linux's own it knows nothing, and it is asked last: what nobody else took is its to refuse.
    """
    if config.protocol not in {None, *PROTOCOLS}:
        return None
    by_default = False if facts.has(Capability.NATIVE) else None
    unpack = by_default if config.unpack is None else config.unpack
    return x86_64.image.load_kernel(config.kernel_path, layout, unpack=unpack, protocol=config.protocol)


@hookimpl(trylast=True)
def anyvisor_gdt(kernel: Kernel) -> Gdt:
    """Flat segments at the selectors of the Linux boot protocol, of 64 bits or of 32."""
    return x86_64.gdt.BOOT_GDT if kernel.mode == "long" else x86_64.gdt.FLAT32_GDT


@hookimpl(trylast=True)
def anyvisor_page_tables(config: MachineConfig, facts: HostFacts, layout: Layout) -> PageTables:
    """An identity map of everything, with the largest pages that the guest's processor has."""
    return x86_64.paging.boot_page_tables(layout, _processor(config, facts))


@hookimpl(trylast=True)
def anyvisor_mptable(config: MachineConfig, layout: Layout) -> FirmwareTables:
    """An MP table that names every vCPU by its APIC id."""
    return x86_64.mptable.MpTable.for_topology(config.topology).at(layout.mptable, pointer=layout.mp_pointer)


@hookimpl(trylast=True)
def anyvisor_acpi(
    config: MachineConfig, facts: HostFacts, layout: Layout, devices: tuple[DeviceSpec, ...]
) -> FirmwareTables:
    """ACPI tables that tell of the vCPUs, the NUMA nodes and the devices."""
    tables = x86_64.acpi.machine.acpi_tables(
        topology=config.topology,
        ram=layout.ram,
        devices=devices,
        numa=config.numa,
        apics=_processor(config, facts).has(x86_64.features.Feature.APIC),
        reduced_hardware=config.reduced_hardware,
    )
    return tables.at(layout.acpi, rsdp=layout.rsdp)


@hookimpl(trylast=True)
def anyvisor_smbios(config: MachineConfig, facts: HostFacts, layout: Layout) -> FirmwareTables:
    """Who the machine says it is, its sockets and its memory, where an OS looks for them without UEFI."""
    cpuid = _processor(config, facts)
    return x86_64.smbios.smbios_tables(config.identity, config.topology, layout.ram, cpuid).at(layout.smbios)


@hookimpl(trylast=True)
def anyvisor_boot_params(
    config: MachineConfig,
    facts: HostFacts,
    layout: Layout,
    kernel: Kernel,
    initrd: Blob | None,
    acpi: FirmwareTables | None,
) -> tuple[Blob, ...] | None:
    """The zero page and the command line, with the speed of a TSC that the guest could not measure."""
    if kernel.protocol not in PROTOCOLS:
        return None
    command_line = x86_64.bootparams.told_command_line(config, facts)
    return x86_64.bootparams.boot_params(command_line, layout, kernel, initrd, acpi)


@hookimpl(trylast=True)
def anyvisor_cpuid(config: MachineConfig, facts: HostFacts, vcpu: int) -> Cpuid:
    """The configured CPU model, with this guest's own topology."""
    return x86_64.cpuid_policy.for_vcpu(facts, config.topology, vcpu, _processor(config, facts))


@hookimpl(trylast=True)
def anyvisor_msrs(config: MachineConfig, facts: HostFacts) -> Msrs:
    """The MSRs as firmware leaves them, and what the CPU model says over them."""
    return x86_64.cpu_models.cpu_model(config.cpu).msrs(facts)


@hookimpl(trylast=True)
def anyvisor_lapic(vcpu: int) -> Change:
    """External interrupts and NMIs through the local APIC's pins."""
    return x86_64.lapic.boot_lapic(boot_processor=vcpu == 0)


@hookimpl(trylast=True)
def anyvisor_registers(
    layout: Layout, kernel: Kernel, gdt: Gdt, page_tables: PageTables | None, vcpu: int
) -> tuple[VcpuState | Change, ...] | None:
    """The kernel's entry on the first vCPU, in long mode or in protected mode; the others wait for it."""
    boots = vcpu == 0
    if kernel.protocol == "linux64" and page_tables:
        return x86_64.registers.linux64_registers(kernel, layout, gdt, page_tables.root, boot_processor=boots)
    if kernel.protocol == "linux32":
        return x86_64.registers.linux32_registers(kernel, layout, gdt, boot_processor=boots)
    return None


def _processor(config: MachineConfig, facts: HostFacts) -> Cpuid:
    """The processor that the configured CPU model makes of this host's, the same for all vCPUs."""
    return x86_64.cpu_models.cpu_model(config.cpu).cpuid(facts)
