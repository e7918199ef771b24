"""A talk with a Linux that has just been booted: wait for its shell, type, read the kernel's log, reboot."""

from __future__ import annotations

import re
import time
from collections.abc import Callable

from anyvisor.machine import Machine

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

FACTS = r"BIOS-e820|ACPI: RSDP|Using ACPI|Total of|IOAPIC\[0\]|MultiProcessor Specification|local APIC"
"""What tests look for besides."""

INIT = rf"""#!/bin/sh
mount -t proc proc /proc
mount -t sysfs sys /sys
cat >/interesting <<'END'
^<[0-4]>
{COMPLAINTS.pattern.decode()}
{FACTS}
END
echo "USERSPACE kernel=$(uname -r) cpus=$(nproc)"
PS1='guest# ' exec sh -i </dev/console >/dev/console 2>&1
"""

NOT_OURS = re.compile(rb"RETBleed|Spectre|Speculative", re.IGNORECASE)
"""Complaints about mitigations that the emulated processor lacks."""

LINE = re.compile(r"^<(?P<level>\d+)>\[[ \d.]+\] (?P<words>.*)$", re.MULTILINE)
"""Levels count down: 4 is a warning, 3 an error, 0 an emergency."""
WARNING = 4

ABOUT_THE_MACHINE = re.compile(
    r"ACPI|APIC|MTRR|SMP|smpboot|e820|E820|DMI|SMBIOS|NUMA|SRAT|SLIT|PM-Timer|TSC|tsc|clocksource|timer|BIOS|irq|IRQ|"
    r"RTC|rtc"
)
"""What a warning mentions that is about what firmware and a machine's chips are to blame for."""
SLOWNESS = re.compile(r"hrtimer: interrupt took|clocksource: .*(watchdog|skew|readout)|perf: interrupt took")
"""What a kernel says where the machine around it is slow."""

EMULATED_XSAVE = re.compile(rb"cut here \]-+[^\n]*\n[^\n]*XSAVE consistency problem.*?end trace", re.DOTALL)
"""QEMU 7.2 forgets XCR0 in a guest's guest; a kernel that QEMU itself starts on this KVM says the same."""

ZEN_1_CACHES = re.compile(rb"cut here \]-+[^\n]*\n[^\n]*llc-sibling.*?end trace", re.DOTALL)
"""On a processor of Zen's first generation, which the emulated one is, Linux believes that eight APIC ids share a last
level cache, whatever CPUID says, and wonders where they are of two nodes."""


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
    machine.console.expect("\nANSWER 2\r\n", timeout=120)
    machine.console.expect("END OF ANSWER 2", timeout=120)  # a plain text is looked for in what is new only
    answer, _, _ = machine.console.text.rpartition("\nANSWER 2\r\n")[2].partition("END OF ANSWER 2")
    return answer.replace("\r", "")


def read_log(machine: Machine) -> bytes:
    """The lines of the kernel's log that tests look at, with levels: every byte that leaves a guest takes an exit."""
    return ask(machine, "dmesg -r | grep -iEf /interesting").encode()


def converse(machine: Machine, version: str, vcpus: int = 1, leave: Callable[[Machine], None] = part) -> bytes:
    """Wait for userspace, type, read the kernel's log, and leave, by a reboot if nothing else is said; `read_log`."""
    stage = greet(machine, version, vcpus)
    log = read_log(machine)
    stage(f"log of {len(log)} bytes")
    leave(machine)
    stage("end")
    print(stage)
    return log


def complaints(log: bytes) -> list[bytes]:
    """The lines of a kernel's log that complain about what is ours."""
    return [line for line in _ours(log).splitlines() if COMPLAINTS.search(line) and not NOT_OURS.search(line)]


def worries(log: bytes) -> list[str]:
    """The warnings and errors in a kernel's log that are about the machine."""
    lines = LINE.finditer(_ours(log).decode(errors="replace"))
    warnings = [each["words"] for each in lines if int(each["level"]) & 7 <= WARNING]
    return [words for words in warnings if ABOUT_THE_MACHINE.search(words) and not SLOWNESS.search(words)]


def _ours(log: bytes) -> bytes:
    """The log without what the emulated processor alone is to blame for."""
    return ZEN_1_CACHES.sub(b"", EMULATED_XSAVE.sub(b"", log))


def shows_memory_map(log: bytes) -> bool:
    """Whether the log has the memory map that the guest was told."""
    return all(f"BIOS-e820: [mem {start:#018x}-{end:#018x}] {kind}".encode() in log for start, end, kind in MEMORY_MAP)
