"""A kernel with an MP table parser finds the local APIC and the I/O APIC, and lives by them."""

import re

import pytest
from conversation import INIT, complaints, converse

import anyvisor
from anyvisor.config import DEFAULT_COMMAND_LINE, MachineConfig
from anyvisor.initramfs import busybox_initramfs
from anyvisor_unicorn.hypervisor import open_unicorn

pytestmark = pytest.mark.timeout(120)


def test_the_generic_kernel_takes_its_interrupts_through_the_apics(busybox, generic_kernel, tmp_path):
    initrd = tmp_path / "initrd.cpio"
    busybox_initramfs(busybox, INIT.replace("PS1=", "cat /proc/interrupts\nPS1=")).write(initrd)
    command_line = f"{DEFAULT_COMMAND_LINE} quiet 8250.nr_uarts=1 cryptomgr.notests"
    config = MachineConfig(generic_kernel.vmlinuz, initrd, command_line, memory="256M")
    with open_unicorn(apic=True) as hypervisor, anyvisor.boot(config, backend=hypervisor) as machine:
        assert {"pic", "apic", "pit"} <= {device.kind for device in machine.plan.devices}
        log = converse(machine, generic_kernel.version)
    assert b"Intel MultiProcessor Specification v1.4" in log
    assert re.search(rb"IO-APIC +4-edge +ttyS0", log)
    assert not complaints(log)
