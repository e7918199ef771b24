"""Linux and our DSDT on the emulated processor: what it finds by it, and that it ends the machine by it."""

import re

import pytest
from conversation import ask, complaints, part, switch_off

import anyvisor
from anyvisor.config import MachineConfig
from anyvisor.hookspecs import hookimpl
from anyvisor.memory import Region
from anyvisor.plan import DeviceSpec
from anyvisor.plugins import load_plugins

pytestmark = [pytest.mark.guest, pytest.mark.timeout(240)]

MAGIC, VERSION, ABSENT = 0x74726976, 2, 0
"""The first registers of a virtio-mmio slot that nothing is plugged into."""
SLOTS = tuple(
    DeviceSpec("virtio-mmio", f"slot{i}", mmio=(Region(0xD0000000 + 0x1000 * i, 0x1000),), gsi=10 + i) for i in range(2)
)


class EmptySlot:
    def read(self, offset, size_bytes):
        return {0: MAGIC, 4: VERSION, 8: ABSENT}.get(offset, 0)

    def write(self, offset, size_bytes, value):
        pass

    def close(self):
        pass


def open_empty_slot(spec, context):
    return EmptySlot()


class OnlyAcpi:
    """A PC with two empty virtio-mmio slots, and without the chips that could reset it in ACPI's place."""

    @hookimpl(wrapper=True)
    def anyvisor_devices(self):
        given = yield
        rest = [tuple(spec for spec in specs if spec.kind not in {"i8042", "pci"}) for specs in given]
        return [*rest, SLOTS]

    @hookimpl
    def anyvisor_device_factories(self):
        return {"virtio-mmio": f"{__name__}:open_empty_slot"}


def boot(kernel, initrd, plugins=None):
    config = MachineConfig(kernel=kernel.vmlinuz, initrd=initrd, memory="256M")
    return anyvisor.boot(config, backend="unicorn", plugins=plugins)


def test_poweroff_ends_the_machine_with_reason_shutdown(cloud_kernel, shell_initrd):
    with boot(cloud_kernel, shell_initrd) as machine:
        machine.console.expect("guest# ", timeout=180)
        pnp = ask(machine, "cat /sys/bus/pnp/devices/*/id /sys/bus/pnp/devices/*/resources")
        switch_off(machine)
        log = machine.console.text.encode()
    assert pnp.split("state = active\n") == [
        "PNP0501\nPNP0303\nPNP0b00\nPNP0c02\n",
        "io 0x3f8-0x3ff\nirq 4\n",
        "io 0x60-0x60\nio 0x64-0x64\nirq 1\n",
        "io 0x70-0x71\n",
        "io 0x600-0x61f\n",
    ]
    assert b"ACPI: PM: (supports S0 S5)" in log
    assert not re.findall(rb"ACPI (?:Error|Warning|BIOS|Exception)[^\n]*|could not be reserved", log)
    assert not complaints(log)


def test_reboot_ends_the_machine_with_reason_reset_by_acpi_alone(cloud_kernel, shell_initrd):
    with boot(cloud_kernel, shell_initrd, load_plugins([OnlyAcpi()])) as machine:
        machine.console.expect("guest# ", timeout=180)
        paths = ask(machine, "cat /sys/bus/acpi/devices/*/path").split()
        memory = ask(machine, "grep LNRO /proc/iomem")
        part(machine)
    assert {r"\_SB_.C000", r"\_SB_.COM1", r"\_SB_.VIO0", r"\_SB_.VIO1"} < set(paths)
    assert memory.splitlines() == ["d0000000-d0000fff : LNRO0005:00", "d0001000-d0001fff : LNRO0005:01"]
