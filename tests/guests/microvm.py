"""QEMU's microvm as a judge: what a kernel says of a machine that others built, and what it worries about."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

from conversation import EMULATED_XSAVE
from debian import DebianKernel
from emulated import find_qemu

from anyvisor.config import DEFAULT_COMMAND_LINE
from anyvisor.initramfs import busybox_initramfs

INIT = "#!/bin/sh\nmount -t proc proc /proc\ndmesg -r\necho END OF LOG $((1 + 1))\nreboot -f\n"
LIMIT_SECONDS = 120
WARNING = 4
"""Kernel log levels count down: 4 is a warning, 3 an error, 0 an emergency."""

LINE = re.compile(r"^<(\d+)>\[\s*[\d.]+\] (.*)$", re.MULTILINE)
FIRMWARE = re.compile(
    r"ACPI|APIC|MTRR|SMP|smpboot|e820|E820|DMI|SMBIOS|NUMA|SRAT|SLIT|PM-Timer|TSC|tsc|clocksource|timer|BIOS|irq|IRQ|RTC|rtc",
)
"""What a warning must mention to be about what firmware and a machine's chips are to blame for."""
NUMBERS = re.compile(r"0x[0-9a-f]+|[0-9a-f]{8,}|\d+")


def microvm_log(kernel: DebianKernel, busybox: Path, folder: Path, vcpus: int, accelerator: str = "kvm") -> str:
    """The kernel's log, with levels, on QEMU's microvm with ACPI; `folder` is for files."""
    initrd = folder / "microvm.cpio"
    busybox_initramfs(busybox, INIT).write(initrd)
    processor = "host" if accelerator == "kvm" else "max"
    command = [
        find_qemu(), "-M", "microvm,acpi=on", "-accel", accelerator, "-cpu", processor,
        "-smp", str(vcpus), "-m", "256M",
        "-nodefaults", "-no-user-config", "-no-reboot", "-display", "none", "-serial", "stdio",
        "-kernel", str(kernel.vmlinuz), "-initrd", str(initrd), "-append", f"{DEFAULT_COMMAND_LINE} quiet",
    ]  # fmt: skip
    done = subprocess.run(command, check=True, timeout=LIMIT_SECONDS, capture_output=True, text=True)
    assert "END OF LOG 2" in done.stdout, f"microvm did not get there:\n{done.stdout[-2000:]}\n{done.stderr}"
    return done.stdout.replace("\r", "")


def worries(log: str | bytes) -> set[str]:
    """The warnings and errors in a kernel's log that are about the machine, without their numbers."""
    data = log if isinstance(log, bytes) else log.encode()
    text = EMULATED_XSAVE.sub(b"", data).decode(errors="replace")
    lines = [words for level, words in LINE.findall(text) if int(level) & 7 <= WARNING]
    return {NUMBERS.sub("#", words) for words in lines if FIRMWARE.search(words)}
