"""Every hook on one page.

Two verbs. A plain `@hookimpl` *replaces* a step: the first implementation that returns something other than None wins,
and plugins come before anyvisor's own defaults. A `@hookimpl(wrapper=True)` *adjusts* a step: it gets the result of the
others from `yield` and returns what it should be instead.

A hook's parameters are all it may depend on; an implementation names only those it wants. Hooks that collect (they say
so) join what every implementation returns.
"""

# A specification has no body: its signature and its docstring are all of it.
# mypy: disable-error-code="empty-body"
# pyright: reportReturnType=false

from __future__ import annotations

from typing import TYPE_CHECKING

import pluggy

if TYPE_CHECKING:
    from anyvisor.config import MachineConfig
    from anyvisor.facts import HostFacts
    from anyvisor.machine import Machine
    from anyvisor.outcome import Outcome
    from anyvisor.plan import Blob, BootPlan, DeviceSpec, FirmwareTables, Kernel
    from anyvisor.states import Change, VcpuState, VmState
    from anyvisor.x86_64.cpuid import Cpuid
    from anyvisor.x86_64.gdt import Gdt
    from anyvisor.x86_64.layout import Layout
    from anyvisor.x86_64.msrs import Msrs
    from anyvisor.x86_64.paging import PageTables

PROJECT = "anyvisor"
hookspec = pluggy.HookspecMarker(PROJECT)
hookimpl = pluggy.HookimplMarker(PROJECT)
"""Decorator for hook implementations; `hookimpl(wrapper=True)` for one that adjusts."""


# -- what there is to choose from (these collect) ----------------------------------------------------------------------


@hookspec
def anyvisor_hypervisors() -> dict[str, str]:
    """Hypervisors by name, each a `module:callable` that is imported when it is opened. Two of one name are refused."""


@hookspec
def anyvisor_device_factories() -> dict[str, str]:
    """Device kinds by name, each a `module:callable` taking `(spec, context)` and returning the live device."""


@hookspec
def anyvisor_commands() -> dict[str, str]:
    """Command-line commands by name, each a `module:command` (a click command), imported when it is called."""


# -- boot steps, in boot order -----------------------------------------------------------------------------------------


@hookspec(firstresult=True)
def anyvisor_memory_layout(config: MachineConfig, facts: HostFacts) -> Layout:
    """Where RAM lies, and where each boot structure goes in it."""


@hookspec(firstresult=True)
def anyvisor_load_kernel(config: MachineConfig, facts: HostFacts, layout: Layout) -> Kernel:
    """Read the kernel image and give it a place.

    One that is not of the implementation's protocol (`config.protocol`, or by its look) is left to the next: None.
    """


@hookspec(firstresult=True)
def anyvisor_cpuid(config: MachineConfig, facts: HostFacts, vcpu: int) -> Cpuid:
    """x86_64: the CPUID table of vCPU number `vcpu`."""


@hookspec
def anyvisor_devices(config: MachineConfig, facts: HostFacts) -> tuple[DeviceSpec, ...]:
    """Devices of the machine. Collects; a wrapper sees the list of every plugin's tuple and may drop or add some."""


@hookspec(firstresult=True)
def anyvisor_gdt(config: MachineConfig, layout: Layout, kernel: Kernel) -> Gdt:
    """x86_64: the global descriptor table. Asked only where the first instruction is not in real mode."""


@hookspec(firstresult=True)
def anyvisor_page_tables(config: MachineConfig, facts: HostFacts, layout: Layout, kernel: Kernel) -> PageTables:
    """x86_64: the page tables that are active at the first instruction. Asked only where that is in long mode."""


@hookspec(firstresult=True)
def anyvisor_mptable(config: MachineConfig, layout: Layout) -> FirmwareTables:
    """x86_64: the MP configuration table."""


@hookspec(firstresult=True)
def anyvisor_acpi(
    config: MachineConfig, facts: HostFacts, layout: Layout, devices: tuple[DeviceSpec, ...]
) -> FirmwareTables:
    """The ACPI tables; `pointer` is where the RSDP lies. No implementation, no ACPI."""


@hookspec(firstresult=True)
def anyvisor_smbios(config: MachineConfig, facts: HostFacts, layout: Layout) -> FirmwareTables:
    """The SMBIOS tables; `pointer` is where the entry point lies. No implementation, no SMBIOS."""


@hookspec(firstresult=True)
def anyvisor_boot_params(
    config: MachineConfig,
    facts: HostFacts,
    layout: Layout,
    kernel: Kernel,
    initrd: Blob | None,
    acpi: FirmwareTables | None,
) -> tuple[Blob, ...]:
    """What the boot protocol hands the kernel. Linux on x86_64: the zero page and the command line."""


@hookspec(firstresult=True)
def anyvisor_msrs(config: MachineConfig, facts: HostFacts, vcpu: int) -> Msrs:
    """x86_64: the MSRs of vCPU number `vcpu`."""


@hookspec(firstresult=True)
def anyvisor_lapic(config: MachineConfig, vcpu: int) -> Change:
    """x86_64: what to change in the local APIC of vCPU number `vcpu`. Asked only where the hypervisor has the APICs."""


@hookspec(firstresult=True)
def anyvisor_registers(
    config: MachineConfig, layout: Layout, kernel: Kernel, gdt: Gdt | None, page_tables: PageTables | None, vcpu: int
) -> tuple[VcpuState | Change, ...]:
    """The registers of vCPU number `vcpu` at its first instruction; empty for one that waits to be woken.

    There is a `gdt` unless that is in real mode, and there are `page_tables` if it is in long mode.
    """


@hookspec(firstresult=True)
def anyvisor_gic(config: MachineConfig, facts: HostFacts, layout: object) -> VmState:
    """aarch64: the interrupt controller."""


@hookspec(firstresult=True)
def anyvisor_fdt(config: MachineConfig, facts: HostFacts, layout: object, devices: tuple[DeviceSpec, ...]) -> Blob:
    """aarch64: the flattened device tree."""


# -- onlookers ---------------------------------------------------------------------------------------------------------


@hookspec
def anyvisor_plan_ready(plan: BootPlan) -> None:
    """A plan is complete."""


@hookspec
def anyvisor_machine_started(machine: Machine) -> None:
    """A machine is about to run its first instruction."""


@hookspec
def anyvisor_machine_stopped(machine: Machine, outcome: Outcome) -> None:
    """A machine has ended; `outcome` says why."""
