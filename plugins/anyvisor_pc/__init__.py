"""The devices every PC has had since 1984, as far as an operating system still asks for them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from anyvisor.hookspecs import hookimpl

if TYPE_CHECKING:
    from anyvisor.config import MachineConfig
    from anyvisor.facts import HostFacts
    from anyvisor.plan import DeviceSpec


@hookimpl
def anyvisor_devices(config: MachineConfig, facts: HostFacts) -> tuple[DeviceSpec, ...]:
    """A serial port, keyboard controller, clock, empty PCI bus and debug ports; on x86_64 only.

    Before them, so that they see every line from the start, the interrupt controllers and the timer, where the
    hypervisor has none. After them the power-management device, where there are ACPI tables to tell of it.
    """
    from anyvisor_pc.specs import PC_DEVICES, chips_wanted, power_wanted  # noqa: PLC0415 - entry modules stay light

    if facts.architecture != "x86_64":
        return ()
    return (*chips_wanted(facts), *PC_DEVICES, *power_wanted(config))


@hookimpl
def anyvisor_device_factories() -> dict[str, str]:
    """What builds each of them."""
    return {
        "serial": "anyvisor_pc.serial:open_serial",
        "i8042": "anyvisor_pc.i8042:open_i8042",
        "rtc": "anyvisor_pc.rtc:open_rtc",
        "pci": "anyvisor_pc.pci:open_pci",
        "debug": "anyvisor_pc.debug:open_debug",
        "pic": "anyvisor_pc.pic:open_pic",
        "apic": "anyvisor_pc.apic:open_apic",
        "pit": "anyvisor_pc.pit:open_pit",
        "acpi-pm": "anyvisor_pc.acpi_pm:open_acpi_pm",
    }
