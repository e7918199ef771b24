"""How an x86_64 machine starts: the boot steps in their order. Reading it is reading how a PC comes up.

What the firmware of a PC would do, a plan does beforehand: it lays out memory, loads the kernel, builds the tables
the kernel expects, and gives each vCPU the registers that the boot protocol asks for. Only the boot processor gets
registers; the others keep their reset state and wait for the kernel's INIT and SIPI. Only where APIC ids need more
than eight bits do all of them get one thing more, x2APIC mode (`anyvisor.x86_64.x2apic`).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import attrs

from anyvisor.assemble import Steps, check_ram
from anyvisor.config import MachineConfig
from anyvisor.errors import ConfigError, UnsupportedConfig
from anyvisor.facts import Capability, HostFacts
from anyvisor.plan import Blob, BootPlan, DeviceSpec, FirmwareTables, Kernel, VcpuPlan
from anyvisor.states import Change, VcpuState, VmState
from anyvisor.x86_64.bootparams import place_initrd
from anyvisor.x86_64.chips import Irqchip, Pit
from anyvisor.x86_64.cpuid import Cpuid
from anyvisor.x86_64.features import Feature
from anyvisor.x86_64.gdt import Gdt
from anyvisor.x86_64.layout import Layout, bios_data
from anyvisor.x86_64.msrs import Msrs
from anyvisor.x86_64.paging import PageTables
from anyvisor.x86_64.registers import IDT_BYTES
from anyvisor.x86_64.reset_vector import reset_vector
from anyvisor.x86_64.topology import apic_id, needs_x2apic
from anyvisor.x86_64.x2apic import check_cpuid, check_ids, in_x2apic_mode, without_apic


def assemble(config: MachineConfig, facts: HostFacts, steps: Steps) -> BootPlan:
    """The boot plan of an x86_64 machine; called by `anyvisor.assemble`."""
    inputs = {"config": config, "facts": facts}
    check_ids(config.topology, facts)

    layout = steps.one("anyvisor_memory_layout", Layout, **inputs)
    check_ram(layout.ram, facts)
    kernel = _load_kernel(config, steps, {"layout": layout, **inputs})
    _check_mode(kernel, facts)
    cpuids = [steps.one("anyvisor_cpuid", Cpuid, vcpu=index, **inputs) for index in range(config.vcpus)]
    _check_long_mode(kernel, cpuids[0])
    devices = steps.all("anyvisor_devices", DeviceSpec, **inputs)
    gdt = page_tables = None
    if kernel.mode != "real":
        gdt = steps.one("anyvisor_gdt", Gdt, config=config, layout=layout, kernel=kernel)
    if kernel.mode == "long":
        page_tables = steps.one("anyvisor_page_tables", PageTables, layout=layout, kernel=kernel, **inputs)
    firmware = _firmware_tables(config, facts, steps, layout, devices, cpuids[0])
    taken = [page_tables.region] if page_tables else []
    initrd = place_initrd(config.initrd, layout, kernel, *taken) if config.initrd else None
    acpi = firmware.get("anyvisor_acpi")
    params = {"layout": layout, "kernel": kernel, "initrd": initrd, "acpi": acpi, **inputs}
    boot_params = steps.some("anyvisor_boot_params", Blob, **params)

    blobs = [
        *_by(steps.provider("anyvisor_memory_layout"), *bios_data(layout), *reset_vector(layout, devices)),
        *_by(steps.provider("anyvisor_gdt"), *_descriptor_tables(layout, gdt)),
        *_by(steps.provider("anyvisor_page_tables"), *([page_tables.blob()] if page_tables else [])),
        *(each for hook, tables in firmware.items() for each in _by(steps.provider(hook), *tables.blobs)),
        *_by(steps.provider("anyvisor_boot_params"), *boot_params),
        *_by(steps.provider("anyvisor_load_kernel"), *kernel.blobs, *([initrd] if initrd else [])),
    ]
    registers = {"config": config, "layout": layout, "kernel": kernel, "gdt": gdt, "page_tables": page_tables}
    return BootPlan(
        architecture=facts.architecture,
        ram=layout.ram,
        reserved=(layout.mmio_gap,),
        blobs=tuple(sorted(blobs, key=lambda blob: blob.guest_address)),
        vm_states_before=_interrupt_chips(facts),
        vcpus=tuple(_vcpu(index, cpuid, config, facts, steps, registers) for index, cpuid in enumerate(cpuids)),
        devices=devices,
        steps=steps.taken,
        deterministic=config.deterministic,
    )


def _load_kernel(config: MachineConfig, steps: Steps, inputs: dict[str, Any]) -> Kernel:
    """The kernel, by the protocol that was asked for or that its image speaks."""
    if config.protocol is None:
        return steps.one("anyvisor_load_kernel", Kernel, **inputs)
    kernel = steps.maybe("anyvisor_load_kernel", Kernel, **inputs)
    if kernel is None:
        raise ConfigError(
            f"protocol: no plugin boots a kernel by {config.protocol!r}; "
            "anyvisor's own are linux64, linux32, pvh, multiboot and raw"
        )
    return kernel


def _check_mode(kernel: Kernel, facts: HostFacts) -> None:
    """UnsupportedConfig when the host executes guest code, but not in the mode that the kernel starts in."""
    if facts.modes and kernel.mode not in facts.modes:
        have = ", ".join(facts.modes)
        words = f"{kernel.protocol} starts a kernel in {kernel.mode} mode, and the {facts.backend} backend has {have}"
        raise UnsupportedConfig(f"protocol: {words}; choose another protocol, or another backend")


def _check_long_mode(kernel: Kernel, boot_processor: Cpuid) -> None:
    """ConfigError when the processor that the guest is shown has not the mode that its kernel starts in."""
    if kernel.mode == "long" and not boot_processor.has(Feature.LM):
        words = f"{kernel.protocol} starts a kernel in long mode, and the processor that the guest is shown has none"
        raise ConfigError(f"cpu: {words}; take a CPU model with the feature lm, such as minimal, or extend one")


def _descriptor_tables(layout: Layout, gdt: Gdt | None) -> tuple[Blob, ...]:
    """The GDT and an empty IDT; none in real mode, which does without."""
    if gdt is None:
        return ()
    return (Blob("GDT", layout.gdt, gdt.to_bytes()), Blob("IDT", layout.idt, bytes(IDT_BYTES)))


def _firmware_tables(
    config: MachineConfig,
    facts: HostFacts,
    steps: Steps,
    layout: Layout,
    devices: tuple[DeviceSpec, ...],
    boot_processor: Cpuid,
) -> dict[str, FirmwareTables]:
    """The tables that the configuration wants of firmware, by the hook that makes them."""
    inputs: dict[str, Any] = {"config": config, "layout": layout}
    found: dict[str, FirmwareTables | None] = {}
    if config.wants_mptable and boot_processor.has(Feature.APIC):
        found["anyvisor_mptable"] = steps.maybe("anyvisor_mptable", FirmwareTables, **inputs)
    if config.wants_acpi:
        found["anyvisor_acpi"] = steps.maybe("anyvisor_acpi", FirmwareTables, facts=facts, devices=devices, **inputs)
    if config.wants_smbios:
        found["anyvisor_smbios"] = steps.maybe("anyvisor_smbios", FirmwareTables, facts=facts, **inputs)
    return {hook: tables for hook, tables in found.items() if tables}


def _interrupt_chips(facts: HostFacts) -> tuple[VmState, ...]:
    """The chips that the hypervisor has for us, as far as it has them; vCPUs come after them."""
    chips: list[tuple[Capability, VmState]] = [(Capability.IRQCHIP, Irqchip()), (Capability.PIT, Pit())]
    return tuple(chip for capability, chip in chips if facts.has(capability))


def _vcpu(
    index: int, cpuid: Cpuid, config: MachineConfig, facts: HostFacts, steps: Steps, registers: dict[str, Any]
) -> VcpuPlan:
    """One vCPU's states, CPUID first: which MSRs and control bits exist depends on it."""
    check_cpuid(config.topology, cpuid)
    check_ram(registers["layout"].ram, facts, cpuid.physical_address_bits)
    given = steps.some("anyvisor_registers", (VcpuState, Change), vcpu=index, **registers)
    if needs_x2apic(config.topology):
        given = in_x2apic_mode(given, boot_processor=index == 0)
    elif not cpuid.has(Feature.APIC):
        given = without_apic(given, boot_processor=index == 0)
    states: list[VcpuState | Change] = [cpuid, *given]
    if facts.has(Capability.IRQCHIP):
        states.append(steps.one("anyvisor_lapic", Change, config=config, vcpu=index))
    states.append(steps.one("anyvisor_msrs", Msrs, config=config, facts=facts, vcpu=index))
    return VcpuPlan(index, tuple(states), hardware_id=apic_id(config.topology, index))


def _by(provider: str, *blobs: Blob) -> Iterator[Blob]:
    return (attrs.evolve(blob, provided_by=provider) for blob in blobs)
