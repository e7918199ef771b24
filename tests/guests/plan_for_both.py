"""One boot plan for two hypervisors: made inside the emulated machine, booted there on KVM and outside on Unicorn."""

from __future__ import annotations

from pathlib import Path

import debian
from conversation import INIT

from anyvisor.config import DEFAULT_COMMAND_LINE, MachineConfig
from anyvisor.initramfs import busybox_initramfs

PLAN = "plan-for-both.json"
"""Its name in the directory that the emulated machine shares."""
NO_XSAVE = "noxsave"
"""What both processors have in common is a guest without AVX. QEMU 7.2 runs a guest's guest with the XCR0 of its own
guest, which has AVX, so XSAVE would save more than such a kernel has room for, and no signal handler would return; that
is so for any guest without AVX on this KVM."""


def initrd() -> Path:
    """A file in the cache, which has one path inside and outside."""
    return debian.cache_dir() / "plan-for-both.cpio"


def write_initrd() -> None:
    """Write it; outside, where that can be done."""
    busybox_initramfs(debian.busybox(), INIT).write(initrd())


def config() -> MachineConfig:
    """The machine; its kernel is the file that Debian ships, so that the plan only refers to it."""
    command_line = f"{DEFAULT_COMMAND_LINE} quiet 8250.nr_uarts=1 {NO_XSAVE}"
    kernel = debian.cloud_kernel().vmlinuz
    return MachineConfig(kernel=kernel, initrd=initrd(), memory="256M", unpack=False, command_line=command_line)
