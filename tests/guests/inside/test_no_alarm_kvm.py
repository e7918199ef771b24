"""No false alarm: no check and no look says anything of a healthy Linux with two processors on real KVM."""

import pytest
from conversation import INIT, ask, greet, switch_off

import anyvisor
from anyvisor.config import DEFAULT_COMMAND_LINE, MachineConfig
from anyvisor.initramfs import busybox_initramfs
from no_alarm.census import Census
from no_alarm.looks import check_idle_and_busy, said, spinning_i386

WORK = "for i in 1 2 3 4 5; do sha256sum /bin/busybox; done; /spin && (sleep 9 & kill $!) && echo done"
APART_SECONDS = 0.015
MANY_RIPS = 40
"""Fewer than elsewhere: a look at a guest inside an emulated machine takes long."""
CPUID_EVERY, PLAN_EVERY = 32, 40
COUNT = 80_000_000


@pytest.fixture(scope="module")
def initrd(busybox, tmp_path_factory):
    path = tmp_path_factory.mktemp("initrd") / "initrd.cpio"
    busybox_initramfs(busybox, INIT).file("/spin", spinning_i386(COUNT), mode=0o755).write(path)
    return path


def test_no_check_says_anything_of_a_linux_that_boots_and_works(cloud_kernel, initrd):
    command_line = f"{DEFAULT_COMMAND_LINE} quiet 8250.nr_uarts=1 cryptomgr.notests"
    config = MachineConfig(
        kernel=cloud_kernel.vmlinuz, initrd=initrd, memory="128M", vcpus=2, command_line=command_line, unpack=True
    )
    with anyvisor.boot(config, backend="kvm") as machine:
        with Census(machine, APART_SECONDS, PLAN_EVERY, CPUID_EVERY) as census:
            greet(machine, cloud_kernel.version, vcpus=2)
            assert "done" in ask(machine, WORK)
        check_idle_and_busy(machine)
        switch_off(machine)
        assert (machine.outcome.panic, machine.outcome.note, said(machine)) == (None, "", [])
    census.check(("uninitialized", "real"), ("halted",), many_rips=MANY_RIPS)
