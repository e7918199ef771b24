"""Machines to make ACPI tables of, as the tests of this folder want them."""

from anyvisor.memory import GIB, MIB, Region
from anyvisor.plan import DeviceSpec
from anyvisor.topology import NumaNode, Topology
from anyvisor.x86_64.acpi.machine import acpi_tables

REGION, RSDP = Region(0xA0000, 0x40000, "ACPI tables"), 0xE0000
RAM = (Region(0, 3 * GIB, "RAM"), Region(4 * GIB, 1 * GIB, "high RAM"))

SERIAL = DeviceSpec("serial", "serial0", ports=(Region(0x3F8, 8),), gsi=4)
I8042 = DeviceSpec("i8042", "i8042", ports=(Region(0x60, 1), Region(0x64, 1)), gsi=1)
RTC = DeviceSpec("rtc", "rtc", ports=(Region(0x70, 2),))
HPET = DeviceSpec("hpet", "hpet", mmio=(Region(0xFED00000, 0x400),))
PCIE = DeviceSpec("pcie", "pcie", mmio=(Region(0xE0000000, 256 * MIB),))
PM = DeviceSpec("acpi-pm", "acpi-pm", ports=(Region(0x600, 0x20),), gsi=9, settings={"reduced": False})
REDUCED_PM = DeviceSpec("acpi-pm", "acpi-pm", ports=(Region(0x600, 0x20),), gsi=9, settings={"reduced": True})
PC = (SERIAL, I8042, RTC)


def virtio(count):
    return tuple(
        DeviceSpec("virtio-mmio", f"virtio{i}", mmio=(Region(0xD0000000 + 0x1000 * i, 0x1000),), gsi=16 + i % 8)
        for i in range(count)
    )


def halves(vcpus):
    """Two nodes, the first with the RAM and the vCPUs that a half more would not fit below the MMIO gap."""
    first = (vcpus + 1) // 2
    return (NumaNode("3584M", range(first), (10, 31)), NumaNode("512M", range(first, vcpus), (31, 10)))


def tables(vcpus=2, *, devices=(*PC, PM), **wanted):
    return acpi_tables(topology=Topology(cores=vcpus), ram=RAM, devices=devices, **wanted)


def placed(*args, **wanted):
    return tables(*args, **wanted).at(REGION, RSDP)
