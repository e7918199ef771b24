"""Boot a stock Debian kernel to a BusyBox shell: here on /dev/kvm, or with --emulated inside the emulated machine."""

from __future__ import annotations

import os
import shlex
import sys
import tempfile
from pathlib import Path

import debian
from emulated import EmulatedMachine
from run import REPOSITORY, SOURCE_ROOTS, Tail

from anyvisor.initramfs import busybox_initramfs

WELCOME = """#!/bin/sh
mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t devtmpfs dev /dev
echo
echo "This is $(uname -sr) on $(nproc) processor(s), booted by anyvisor."
"""
SHELL = "echo 'reboot -f ends it.'\nPS1='guest# ' exec setsid cttyhack sh\n"
FAREWELL = "echo 'Nobody can type here, so that is all.'\nreboot -f\n"
LIMIT_SECONDS = 300


def boot_command(kernel: Path, initrd: Path) -> list[str]:
    """What a user would type: `anyvisor boot KERNEL --initrd FILE --append quiet`."""
    return [sys.executable, "-m", "anyvisor", "boot", str(kernel), "--initrd", str(initrd), "--append", "quiet"]


def boot_here() -> None:
    """Become `anyvisor boot`, with the console on this terminal."""
    initrd = debian.cache_dir() / "demo.cpio"
    busybox_initramfs(debian.busybox(), WELCOME + SHELL).write(initrd)
    command = boot_command(debian.cloud_kernel().vmlinuz, initrd)
    print(f"$ anyvisor {shlex.join(command[3:])}", flush=True)
    os.execv(command[0], command)


def boot_emulated() -> int:
    """Run `anyvisor boot` inside the emulated machine and show what it prints."""
    with tempfile.TemporaryDirectory(prefix="anyvisor-demo-") as directory:
        share = Path(directory)
        busybox_initramfs(debian.busybox(), WELCOME + FAREWELL).write(share / "demo.cpio")
        output = share / "output.txt"
        command = boot_command(debian.cloud_kernel().vmlinuz, Path("/share/demo.cpio"))
        environment = f"HOME=/tmp PYTHONPATH={':'.join(map(str, SOURCE_ROOTS))}"
        job = f"{environment} {shlex.join(command)} </dev/null >/share/output.txt 2>&1\n"
        visible = (REPOSITORY, debian.cache_dir(), Path(sys.prefix), Path(sys.base_prefix))
        with EmulatedMachine(share, job, visible=visible) as machine:
            outcome = machine.wait(LIMIT_SECONDS, Tail(output, lambda text: print(text, end="", flush=True)))
        print(f"emulated machine: up after {outcome.boot_seconds:.1f} s, off after {outcome.seconds:.1f} s")
        return outcome.returncode


if __name__ == "__main__":
    sys.exit(boot_emulated() if "--emulated" in sys.argv[1:] else boot_here())
