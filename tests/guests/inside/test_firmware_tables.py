"""Debian's kernels and the tables that they find, on real KVM: what comes up, what they say of it, how they leave."""

import re
import subprocess
import sys

from conversation import ask, complaints, converse, greet, part, read_log, switch_off, worries

import anyvisor
from anyvisor.config import MachineConfig, NumaNode, Topology, default_command_line
from anyvisor.initramfs import busybox_initramfs
from anyvisor.x86_64.topology import apic_ids


def boot(kernel, initrd, tables="acpi", **more):
    command_line = f"{default_command_line(tables)} quiet 8250.nr_uarts=1"
    files = {"kernel": kernel.vmlinuz, "initrd": initrd, "unpack": True}
    config = MachineConfig(**files, memory="256M", tables=tables, command_line=command_line, **more)
    return anyvisor.boot(config, backend="kvm")


def check(log):
    """The kernel has believed the ACPI tables, and worries about nothing that a machine is to blame for."""
    assert b"ACPI: RSDP 0x00000000000E0000" in log
    assert b"Using ACPI (MADT) for SMP configuration information" in log
    assert b"IOAPIC[0]: apic_id" in log
    assert not complaints(log)
    assert not worries(log)


def test_the_cloud_kernel_brings_two_processors_up_through_acpi_and_switches_off(cloud_kernel, shell_initrd):
    with boot(cloud_kernel, shell_initrd, vcpus=2) as machine:
        log = converse(machine, cloud_kernel.version, vcpus=2, leave=switch_off)
    assert b"Total of 2 processors activated" in log
    check(log)


def test_the_generic_kernel_brings_two_processors_up_from_the_mp_table_where_there_is_no_acpi(
    generic_kernel, shell_initrd
):
    with boot(generic_kernel, shell_initrd, vcpus=2, tables="mptable") as machine:
        log = converse(machine, generic_kernel.version, vcpus=2)
    assert b"Intel MultiProcessor Specification v1.4" in log
    assert b"Total of 2 processors activated" in log
    assert not complaints(log)


def test_reduced_hardware_divides_processors_and_memory_as_configured(cloud_kernel, shell_initrd):
    topology = Topology(sockets=2, cores=2, threads=2)
    numa = (NumaNode("128M", "0-3", (10, 17)), NumaNode("128M", "4-7", (17, 10)))
    layout = {"vcpus": 8, "topology": topology, "numa": numa}
    with boot(cloud_kernel, shell_initrd, reduced_hardware=True, **layout) as machine:
        greet(machine, cloud_kernel.version, vcpus=8)
        text = ask(machine, r"grep -E '^(physical|siblings|cpu cores|core|apicid|initial)' /proc/cpuinfo")
        nodes = [ask(machine, f"cd /sys/devices/system/node/node{each}; cat cpulist distance") for each in range(2)]
        threads = ask(machine, "cat /sys/devices/system/cpu/cpu5/topology/thread_siblings_list")
        log = read_log(machine)
        part(machine)
    assert b"Total of 8 processors activated" in log
    check(log)

    def column(name: str) -> list[int]:
        return [int(number) for number in re.findall(rf"^{name}\s*: (\d+)$", text, re.MULTILINE)]

    assert column("physical id") == [0] * 4 + [1] * 4
    assert column("siblings") == [4] * 8
    assert column("cpu cores") == [2] * 8
    assert column("core id") == [0, 0, 1, 1, 0, 0, 1, 1]
    assert tuple(column("apicid")) == tuple(column("initial apicid")) == apic_ids(topology)
    assert threads.split() == ["4-5"]
    assert [node.split() for node in nodes] == [["0-3", "10", "17"], ["4-7", "17", "10"]]


def test_the_command_ends_well_when_the_guest_leaves(cloud_kernel, busybox, tmp_path):
    initrd = tmp_path / "initrd.cpio"
    busybox_initramfs(busybox, "#!/bin/sh\npoweroff -f\n").write(initrd)
    options = ["--initrd", str(initrd), "--memory", "256M", "--unpack", "--append", "quiet", "--backend", "kvm"]
    boot_it = [sys.executable, "-m", "anyvisor", "boot", str(cloud_kernel.vmlinuz), *options]
    boot_it += ["--reduced-hardware", "--timeout", "120"]
    done = subprocess.run(boot_it, check=False, timeout=150, stdin=subprocess.DEVNULL, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "machine ended: shutdown" in done.stderr
