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

MEMORY_MAP = [
    (0, 0x9DFFF, "usable"),
    (0x9E000, 0xFFFFF, "reserved"),
    (0x100000, 0xFFFFFFF, "usable"),
]

COMPLAINTS = re.compile(
    rb"firmware bug|firmware warn|bios bug|bios error|mptable:.*(bad|invalid|unknown|not)|bad checksum|"
    rb"mtrr.*(inconsistent|your bios|not set|no mtrr|disabled by)|e820.*(overlap|invalid|bad)|\bWARNING:|\bBUG:|Oops|"
    rb"invalid (topology|apic)|apic id.*mismatch|unknown apic|call trace|general protection|unable to handle",
    re.IGNORECASE,
)
"""What a kernel says of tables it does not believe, and of worse."""

NOT_OURS = re.compile(rb"RETBleed|Spectre|Speculative", re.IGNORECASE)
"""Complaints about mitigations that the emulated processor lacks."""

EMULATED_XSAVE = re.compile(rb"cut here \]-+[^\n]*\n[^\n]*XSAVE consistency problem.*?end trace", re.DOTALL)
"""QEMU 7.2 forgets XCR0 in a guest's guest; a kernel that QEMU itself starts on this KVM says the same."""


@pytest.fixture(scope="module")
def initrd(busybox, tmp_path_factory):
    path = tmp_path_factory.mktemp("initrd") / "initrd.cpio"
    busybox_initramfs(busybox, INIT).write(path)
    return path


def boot(kernel, initrd, **more):
    command_line = f"{DEFAULT_COMMAND_LINE} quiet 8250.nr_uarts=1"
    return anyvisor.boot(
        MachineConfig(kernel=kernel, initrd=initrd, memory="256M", command_line=command_line, **more),
        backend="kvm",
    )


class Stopwatch:
    """Prints how long each stage of a boot took."""

    def __init__(self):
        self.began = time.monotonic()
        self.stages = []

    def __call__(self, stage):
        now = time.monotonic()
        self.stages.append(f"{stage} {now - self.began:.1f} s")
        self.began = now

    def __str__(self):
        return ", ".join(self.stages)


def converse(machine, version, vcpus=1):
    """Wait for userspace, type, read the kernel's log, and reboot; returns the log."""
    stage = Stopwatch()
    found = machine.console.expect(re.compile(r"USERSPACE kernel=(\S+) cpus=(\d+)"), timeout=180)
    assert (found[1], int(found[2])) == (version, vcpus)
    stage("userspace")
    machine.console.expect("guest# ", timeout=30)
    machine.console.write("echo $((6 * 7)) is the answer\n")
    machine.console.expect("\n42 is the answer", timeout=30)
    stage("answer")
    machine.console.write("dmesg; echo END OF LOG $((1 + 1))\n")
    machine.console.expect("END OF LOG 2", timeout=120)
    log = machine.console.text.encode()
    stage(f"log of {len(log)} bytes")
    machine.console.write("reboot -f\n")
    assert machine.wait(60).reason == "reset"
    stage("reset")
    print(stage)
    return log


def complaints(log):
    believed = EMULATED_XSAVE.sub(b"", log)
    return [line for line in believed.splitlines() if COMPLAINTS.search(line) and not NOT_OURS.search(line)]


@pytest.mark.parametrize("unpack", [False, True], ids=["bzImage", "vmlinux"])
@pytest.mark.parametrize("flavour", ["generic", "cloud"])
def test_a_debian_kernel_boots_to_userspace_and_answers(flavour, unpack, initrd, request):
    kernel = request.getfixturevalue(f"{flavour}_kernel")
    with boot(kernel.vmlinuz, initrd, unpack=unpack) as machine:
        log = converse(machine, kernel.version)
    assert not complaints(log)
    for start, end, kind in MEMORY_MAP:
        assert f"BIOS-e820: [mem {start:#018x}-{end:#018x}] {kind}".encode() in log


def test_the_generic_kernel_brings_two_processors_up_from_the_mp_table(generic_kernel, initrd):
    with boot(generic_kernel.vmlinuz, initrd, unpack=True, vcpus=2) as machine:
        log = converse(machine, generic_kernel.version, vcpus=2)
    assert b"Total of 2 processors activated" in log
    assert b"Intel MultiProcessor Specification v1.4" in log
    assert not complaints(log)
