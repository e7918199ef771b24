"""A person at a terminal: `anyvisor boot` with a real kernel, keys typed, the escape key, the terminal as it was."""

import sys
import time
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "cli"))

from terminals import Terminal

from anyvisor.initramfs import busybox_initramfs

INIT = "#!/bin/sh\nmount -t proc proc /proc\nmount -t devtmpfs dev /dev\nPS1='guest# ' exec setsid cttyhack sh\n"
BOOT_SECONDS = 120


@pytest.fixture
def terminal():
    made = Terminal()
    yield made
    made.close()


def test_a_debian_kernel_is_used_from_a_terminal_and_left_by_the_escape_key(cloud_kernel, busybox, terminal, tmp_path):
    busybox_initramfs(busybox, INIT).write(tmp_path / "initrd.cpio")
    before = terminal.modes
    options = ["--initrd", str(tmp_path / "initrd.cpio"), "--memory", "256M", "--unpack", "--append", "quiet"]
    terminal.start([sys.executable, "-m", "anyvisor", "boot", str(cloud_kernel.vmlinuz), *options])
    terminal.wait_for(b"guest# ", BOOT_SECONDS)
    assert terminal.is_raw
    terminal.type(b"cat /proc/version\r")
    terminal.wait_for(f"Linux version {cloud_kernel.version}".encode(), BOOT_SECONDS)
    terminal.type(b"sleep 1000\r")
    terminal.wait_for(b"# sleep 1000\r\n", BOOT_SECONDS)
    time.sleep(2)  # until the guest's shell has started it
    terminal.type(b"\x03")  # Ctrl-C is the guest's: it ends the sleep, not us
    terminal.type(b"echo $((6 * 7)) is the answer\r")
    terminal.wait_for(b"\n42 is the answer", BOOT_SECONDS)
    terminal.type(b"\x01x")
    assert terminal.wait() == 130
    assert b"machine ended: stopped" in terminal.shown
    assert terminal.modes == before
