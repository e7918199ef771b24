"""The main job: kernels that nobody here built, from file to userspace, by anyvisor on real KVM."""

import re
import time

import pytest

import anyvisor
from anyvisor.config import DEFAULT_COMMAND_LINE, MachineConfig
from anyvisor.initramfs import busybox_initramfs

INIT = """#!/bin/sh
mount -t proc proc /proc
mount -t sysfs sys /sys
echo "USERSPACE kernel=$(uname -r) cpus=$(nproc)"
PS1='guest# ' exec sh -i </dev/console >/dev/console 2>&1
"""

COMPLAINTS = re.compile(
    rb"firmware bug|firmware warn|bios bug|bios error|mptable:.*(bad|invalid|unknown|not)|bad checksum|"
    rb"mtrr.*(inconsistent|your bios|not set|no mtrr|disabled by)|e820.*(overlap|invalid|bad)|\bWARNING:|\bBUG:|Oops|"
    rb"invalid (topology|apic)|apic id.*mismatch|unknown apic|call trace|general protection|unable to handle",
    re.IGNORECASE,
)
"""What a kernel says of tables it does not believe, and of worse."""

NOT_OURS = re.compile(rb"RETBleed|Spectre|Speculative|SRSO|WARNING: .*mitigation|x86/fpu", re.IGNORECASE)
"""Complaints about the emulated processor's missing mitigations; no table of ours can help there."""


@pytest.fixture(scope="module")
def initrd(busybox, tmp_path_factory):
    path = tmp_path_factory.mktemp("initrd") / "initrd.cpio"
    busybox_initramfs(busybox, INIT).write(path)
    return path


def boot(kernel, initrd, **more):
    command_line = f"{DEFAULT_COMMAND_LINE} 8250.nr_uarts=1"
    return anyvisor.boot(
        MachineConfig(kernel=kernel, initrd=initrd, memory="256M", command_line=command_line, **more),
        backend="kvm",
    )


def converse(machine, version, vcpus=1):
    """Wait for userspace, type, read the kernel's log, and reboot; returns the log."""
    found = machine.console.expect(re.compile(r"USERSPACE kernel=(\S+) cpus=(\d+)"), timeout=180)
    assert (found[1], int(found[2])) == (version, vcpus)
    machine.console.expect("guest# ", timeout=30)
    machine.console.write("echo $((6 * 7)) is the answer\n")
    machine.console.expect("\n42 is the answer", timeout=30)
    machine.console.write("dmesg; echo END OF LOG $((1 + 1))\n")
    log = machine.console.expect(re.compile(r"(?s)\[ +0\.0.*END OF LOG 2"), timeout=120)[0].encode()
    machine.console.write("reboot -f\n")
    assert machine.wait(60).reason == "reset"
    return log


def complaints(log):
    return [line for line in log.splitlines() if COMPLAINTS.search(line) and not NOT_OURS.search(line)]


@pytest.mark.parametrize("unpack", [False, True], ids=["bzImage", "vmlinux"])
@pytest.mark.parametrize("flavour", ["generic", "cloud"])
def test_a_debian_kernel_boots_to_userspace_and_answers(flavour, unpack, initrd, request):
    kernel = request.getfixturevalue(f"{flavour}_kernel")
    began = time.monotonic()
    with boot(kernel.vmlinuz, initrd, unpack=unpack) as machine:
        log = converse(machine, kernel.version)
    print(f"{flavour} {'vmlinux' if unpack else 'bzImage'}: {time.monotonic() - began:.1f} s")
    assert not complaints(log)


def test_the_generic_kernel_brings_two_processors_up_from_the_mp_table(generic_kernel, initrd):
    with boot(generic_kernel.vmlinuz, initrd, unpack=True, vcpus=2) as machine:
        log = converse(machine, generic_kernel.version, vcpus=2)
    assert b"Total of 2 processors activated" in log
    assert b"Intel MultiProcessor Specification v1.4" in log
    assert not complaints(log)


def test_the_kernel_sees_the_memory_map_and_processors_it_was_given(generic_kernel, initrd):
    with boot(generic_kernel.vmlinuz, initrd, unpack=True) as machine:
        log = converse(machine, generic_kernel.version)
    assert re.search(rb"BIOS-e820: \[mem 0x0000000000100000-0x000000000fffffff\] usable", log)
    assert re.search(rb"BIOS-e820: \[mem 0x000000000009e000-0x00000000000?f?9?f+\] reserved", log)
