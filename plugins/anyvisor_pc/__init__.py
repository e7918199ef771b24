"""The devices every PC has had since 1984, as far as an operating system still asks for them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from anyvisor.hookspecs import hookimpl

if TYPE_CHECKING:
    from anyvisor.config import MachineConfig
    from anyvisor.facts import HostFacts
    from anyvisor.plan import DeviceSpec


@hookimpl
def anyvisor_devices(config: MachineConfig, facts: HostFacts) -> tuple[DeviceSpec, ...]:  # noqa: ARG001
    """A serial port, keyboard controller, clock, empty PCI bus and debug ports; on x86_64 only.

    Before them, so that they see every line from the start, the interrupt controllers and the timer, where the
    hypervisor has none.
    """
    from anyvisor_pc.specs import PC_DEVICES, chips_wanted  # noqa: PLC0415 - entry modules stay light

    return (*chips_wanted(facts), *PC_DEVICES) if facts.architecture == "x86_64" else ()


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
    }
