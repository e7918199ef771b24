"""Where a PC's devices answer, and which interrupt lines they have."""

from __future__ import annotations

import attrs

from anyvisor.config import MachineConfig
from anyvisor.facts import Capability, HostFacts
from anyvisor.memory import Region
from anyvisor.plan import DeviceSpec
from anyvisor.x86_64.cpuid import Cpuid
from anyvisor.x86_64.features import Feature

SERIAL = DeviceSpec("serial", "serial0", ports=(Region(0x3F8, 8),), gsi=4, settings={"console": "serial0"})
I8042 = DeviceSpec("i8042", "i8042", ports=(Region(0x60, 1), Region(0x64, 1)), gsi=1)
RTC = DeviceSpec("rtc", "rtc", ports=(Region(0x70, 2),))
PCI = DeviceSpec("pci", "pci", ports=(Region(0xCF8, 8),))
DEBUG = DeviceSpec("debug", "debug", ports=(Region(0x80, 1), Region(0xE9, 1)), settings={"console": "debug"})

PC_DEVICES = (SERIAL, I8042, RTC, PCI, DEBUG)
"""What every PC of ours has, whatever runs it."""

PIC = DeviceSpec("pic", "pic", ports=(Region(0x20, 2), Region(0xA0, 2), Region(0x4D0, 2)))
APIC = DeviceSpec("apic", "apic", mmio=(Region(0xFEC00000, 0x1000), Region(0xFEE00000, 0x1000)))
PIT = DeviceSpec("pit", "pit", ports=(Region(0x40, 4), Region(0x61, 1)), gsi=0)
ACPI_PM = DeviceSpec("acpi-pm", "acpi-pm", ports=(Region(0x600, 0x20),), gsi=9, settings={"reduced": False})


def chips_wanted(facts: HostFacts) -> tuple[DeviceSpec, ...]:
    """The interrupt controllers and the timer that the hypervisor lacks. Each controller finds the one before it."""
    chips: list[DeviceSpec] = []
    if not facts.has(Capability.IRQCHIP):
        chips.append(PIC)
        if facts.supported_state(Cpuid).has(Feature.APIC):
            chips.append(APIC)
    if not facts.has(Capability.PIT):
        chips.append(PIT)
    return tuple(chips)


def power_wanted(config: MachineConfig) -> tuple[DeviceSpec, ...]:
    """The power-management device, in the machine's profile; none for a machine without ACPI tables."""
    return (attrs.evolve(ACPI_PM, settings={"reduced": config.reduced_hardware}),) if config.wants_acpi else ()
