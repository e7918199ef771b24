"""A talk with a Linux that has just been booted: wait for its shell, type, read the kernel's log, reboot."""

from __future__ import annotations

import re
import time
from collections.abc import Callable

from anyvisor.machine import Machine

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
"""What a guest with 256 MiB is told."""

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


class Stopwatch:
    """Prints how long each stage of a boot took."""

    def __init__(self) -> None:
        self.began = time.monotonic()
        self.stages: list[str] = []

    def __call__(self, stage: str) -> None:
        now = time.monotonic()
        self.stages.append(f"{stage} {now - self.began:.1f} s")
        self.began = now

    def __str__(self) -> str:
        return ", ".join(self.stages)


def greet(machine: Machine, version: str, vcpus: int = 1) -> Stopwatch:
    """Wait for userspace, type, and read the answer; how long that took."""
    stage = Stopwatch()
    found = machine.console.expect(re.compile(r"USERSPACE kernel=(\S+) cpus=(\d+)"), timeout=180)
    assert (found[1], int(found[2])) == (version, vcpus)
    stage("userspace")
    machine.console.expect("guest# ", timeout=30)
    machine.console.write("echo $((6 * 7)) is the answer\n")
    machine.console.expect("\n42 is the answer", timeout=30)
    stage("answer")
    return stage


def part(machine: Machine) -> None:
    """Reboot, which ends the machine."""
    machine.console.write("reboot -f\n")
    assert machine.wait(60).reason == "reset"


def switch_off(machine: Machine) -> None:
    """Power off, which ends the machine through ACPI."""
    machine.console.write("poweroff -f\n")
    assert machine.wait(60).reason == "shutdown"


def ask(machine: Machine, command: str) -> str:
    """What a command of the guest's shell prints."""
    machine.console.write(f"echo ANSWER $((1 + 1)); {command}; echo END OF ANSWER $((1 + 1))\n")
    found = machine.console.expect(re.compile(r"\nANSWER 2\r?\n(.*?)END OF ANSWER 2", re.DOTALL), timeout=120)
    return str(found[1]).replace("\r", "")


def converse(machine: Machine, version: str, vcpus: int = 1, leave: Callable[[Machine], None] = part) -> bytes:
    """Wait for userspace, type, read the kernel's log, and leave, by a reboot if nothing else is said; the log."""
    stage = greet(machine, version, vcpus)
    log = ask(machine, "dmesg -r").encode()
    stage(f"log of {len(log)} bytes")
    leave(machine)
    stage("end")
    print(stage)
    return log


def complaints(log: bytes) -> list[bytes]:
    """The lines of a kernel's log that complain about what is ours."""
    believed = EMULATED_XSAVE.sub(b"", log)
    return [line for line in believed.splitlines() if COMPLAINTS.search(line) and not NOT_OURS.search(line)]


def shows_memory_map(log: bytes) -> bool:
    """Whether the log has the memory map that the guest was told."""
    return all(f"BIOS-e820: [mem {start:#018x}-{end:#018x}] {kind}".encode() in log for start, end, kind in MEMORY_MAP)
