"""A kernel finds the local APIC and the I/O APIC by either table, and lives by them."""

import re

import pytest
from conversation import INIT, ask, complaints, greet, part

import anyvisor
from anyvisor.config import MachineConfig, default_command_line
from anyvisor.initramfs import busybox_initramfs
from anyvisor_unicorn.hypervisor import open_unicorn

pytestmark = pytest.mark.timeout(120)


@pytest.mark.parametrize(
    ("tables", "words"), [("acpi", b"Using ACPI (MADT)"), ("mptable", b"Intel MultiProcessor Specification v1.4")]
)
def test_the_generic_kernel_takes_its_interrupts_through_the_apics(tables, words, busybox, generic_kernel, tmp_path):
    initrd = tmp_path / "initrd.cpio"
    busybox_initramfs(busybox, INIT).write(initrd)
    command_line = f"{default_command_line(tables)} quiet 8250.nr_uarts=1 cryptomgr.notests"
    config = MachineConfig(generic_kernel.vmlinuz, initrd, command_line, memory="256M", tables=tables)
    with open_unicorn(apic=True) as hypervisor, anyvisor.boot(config, backend=hypervisor) as machine:
        assert {"pic", "apic", "pit"} <= {device.kind for device in machine.plan.devices}
        greet(machine, generic_kernel.version)
        log, interrupts = ask(machine, "dmesg -r").encode(), ask(machine, "cat /proc/interrupts")
        part(machine)
    assert words in log
    assert re.search(r"IO-APIC +4-edge +ttyS0", interrupts)
    assert not complaints(log)
