"""Debian's kernels and the tables that they find, on real KVM: what comes up, what they say of it, how they leave."""

import re
import subprocess
import sys

import pytest
from conversation import ask, complaints, converse, greet, part, switch_off
from microvm import microvm_log, worries

import anyvisor
from anyvisor.config import MachineConfig, NumaNode, Topology, default_command_line
from anyvisor.initramfs import busybox_initramfs
from anyvisor.x86_64.topology import apic_ids

BY_ITSELF = "#!/bin/sh\nmount -t proc proc /proc\n{command}\n"


def boot(kernel, initrd, tables="acpi", **more):
    command_line = f"{default_command_line(tables)} quiet 8250.nr_uarts=1"
    files = {"kernel": kernel.vmlinuz, "initrd": initrd, "unpack": True}
    config = MachineConfig(**files, memory="256M", tables=tables, command_line=command_line, **more)
    return anyvisor.boot(config, backend="kvm")


@pytest.fixture(scope="module")
def cloud_logs(cloud_kernel, shell_initrd):
    """The logs of Debian's cloud kernel on two processors, by the ACPI profile of its machine: one is switched off in
    the end, the other rebooted."""
    logs = {}
    for profile, leave in (("fixed", switch_off), ("reduced", part)):
        with boot(cloud_kernel, shell_initrd, vcpus=2, reduced_hardware=profile == "reduced") as machine:
            logs[profile] = converse(machine, cloud_kernel.version, vcpus=2, leave=leave)
    return logs


@pytest.fixture(scope="module")
def microvm_worries(cloud_kernel, busybox, tmp_path_factory):
    return worries(microvm_log(cloud_kernel, busybox, tmp_path_factory.mktemp("microvm"), vcpus=2))


@pytest.mark.parametrize("profile", ["fixed", "reduced"])
def test_the_cloud_kernel_brings_two_processors_up_through_acpi_and_leaves_by_it(profile, cloud_logs):
    log = cloud_logs[profile]
    assert b"ACPI: RSDP 0x00000000000E0000" in log
    assert b"Using ACPI (MADT) for SMP configuration information" in log
    assert b"Total of 2 processors activated" in log
    assert b"IOAPIC[0]: apic_id" in log
    assert not complaints(log)


@pytest.mark.parametrize("profile", ["fixed", "reduced"])
def test_a_kernel_worries_about_nothing_that_it_would_not_on_microvm(profile, cloud_logs, microvm_worries):
    """The kernel's own warnings about firmware, processors and time are among those it has on QEMU's machine."""
    assert not worries(cloud_logs[profile]) - microvm_worries


def test_the_generic_kernel_brings_two_processors_up_through_acpi_and_switches_off(generic_kernel, shell_initrd):
    with boot(generic_kernel, shell_initrd, vcpus=2) as machine:
        log = converse(machine, generic_kernel.version, vcpus=2, leave=switch_off)
    assert b"Using ACPI (MADT) for SMP configuration information" in log
    assert b"Total of 2 processors activated" in log
    assert not complaints(log)


def test_the_generic_kernel_brings_two_processors_up_from_the_mp_table_where_there_is_no_acpi(
    generic_kernel, shell_initrd
):
    with boot(generic_kernel, shell_initrd, vcpus=2, tables="mptable") as machine:
        log = converse(machine, generic_kernel.version, vcpus=2)
    assert b"Intel MultiProcessor Specification v1.4" in log
    assert b"Total of 2 processors activated" in log
    assert not complaints(log)


def test_processors_and_memory_are_divided_as_configured(cloud_kernel, shell_initrd):
    topology = Topology(sockets=2, cores=2, threads=2)
    numa = (NumaNode("128M", "0-3", (10, 17)), NumaNode("128M", "4-7", (17, 10)))
    with boot(cloud_kernel, shell_initrd, vcpus=8, topology=topology, numa=numa) as machine:
        greet(machine, cloud_kernel.version, vcpus=8)
        text = ask(machine, "cat /proc/cpuinfo")
        nodes = [
            ask(
                machine,
                f"cat /sys/devices/system/node/node{number}/cpulist /sys/devices/system/node/node{number}/distance",
            )
            for number in range(2)
        ]
        threads = ask(machine, "cat /sys/devices/system/cpu/cpu5/topology/thread_siblings_list")
        part(machine)

    def column(name: str) -> list[int]:
        return [int(number) for number in re.findall(rf"^{name}\s*: (\d+)$", text, re.MULTILINE)]

    assert column("physical id") == [0] * 4 + [1] * 4
    assert column("siblings") == [4] * 8
    assert column("cpu cores") == [2] * 8
    assert column("core id") == [0, 0, 1, 1, 0, 0, 1, 1]
    assert tuple(column("apicid")) == tuple(column("initial apicid")) == apic_ids(topology)
    assert threads.split() == ["4-5"]
    assert [node.split() for node in nodes] == [["0-3", "10", "17"], ["4-7", "17", "10"]]


@pytest.mark.parametrize(
    ("command", "profile", "reason"), [("poweroff -f", "reduced", "shutdown"), ("reboot -f", "fixed", "reset")]
)
def test_the_command_ends_well_when_the_guest_leaves(command, profile, reason, cloud_kernel, busybox, tmp_path):
    initrd = tmp_path / "initrd.cpio"
    busybox_initramfs(busybox, BY_ITSELF.format(command=command)).write(initrd)
    options = ["--initrd", str(initrd), "--memory", "256M", "--unpack", "--append", "quiet", "--backend", "kvm"]
    options += ["--timeout", "120", *(["--reduced-hardware"] if profile == "reduced" else [])]
    boot_it = [sys.executable, "-m", "anyvisor", "boot", str(cloud_kernel.vmlinuz), *options]
    done = subprocess.run(boot_it, check=False, timeout=150, stdin=subprocess.DEVNULL, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert f"machine ended: {reason}" in done.stderr
