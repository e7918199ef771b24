"""What a person at a terminal does with `anyvisor boot`: types, interrupts with Ctrl-C, leaves by the escape key."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "cli"))

from terminals import Terminal

from anyvisor.initramfs import busybox_initramfs

INIT = "#!/bin/sh\nmount -t proc proc /proc\nmount -t devtmpfs dev /dev\nPS1='guest# ' exec setsid cttyhack sh\n"


def use_and_leave(backend, kernel, busybox, folder, limit_seconds):
    """Boot, type, Ctrl-C, Ctrl-A x; every step is checked, and that the terminal is as it was."""
    initrd = folder / "initrd.cpio"
    busybox_initramfs(busybox, INIT).write(initrd)
    terminal = Terminal()
    try:
        before = terminal.modes
        options = ["--initrd", str(initrd), "--memory", "256M", "--unpack", "--append", "quiet", "--backend", backend]
        terminal.start([sys.executable, "-m", "anyvisor", "boot", str(kernel.vmlinuz), *options])
        terminal.wait_for(b"guest# ", limit_seconds)
        assert terminal.is_raw
        terminal.type(b"cat /proc/version\r")
        terminal.wait_for(f"Linux version {kernel.version}".encode(), limit_seconds)
        terminal.type(b"sh -c 'echo $((5 * 5)) is reached; exec sleep 1000'\r")
        terminal.wait_for(b"\n25 is reached", limit_seconds)
        terminal.type(b"\x03")  # Ctrl-C is the guest's: it ends the sleep, not us
        terminal.type(b"echo $((6 * 7)) is the answer\r")
        terminal.wait_for(b"\n42 is the answer", limit_seconds)
        terminal.type(b"\x01x")
        assert terminal.wait() == 130
        assert b"machine ended: stopped" in terminal.shown
        assert terminal.modes == before
    finally:
        terminal.close()
