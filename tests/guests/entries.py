"""Real kernels by every entry that they have, from file to userspace, for the tests on each backend."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import attrs
import debian
from availability import available
from conversation import INIT, ask, complaints, greet, part, read_log, shows_memory_map

import anyvisor
from anyvisor.config import MachineConfig
from anyvisor.image_file import ImageFile
from anyvisor.initramfs import busybox_initramfs
from anyvisor.memory import MIB
from anyvisor.x86_64.bzimage import BzImage
from anyvisor.x86_64.layout import Layout

APPEND = "quiet 8250.nr_uarts=1"
BY_PVH, BY_LINUX = "176", "255"
"""What a kernel calls its boot loader: Linux writes 0xB0 when it was entered by PVH and is not Xen's guest, and the
zero page has the number of loaders that have none."""


@attrs.frozen
class Entry:
    """A kernel, whether as its vmlinux, and the protocol that is ordered, if one is."""

    kernel: Callable[[], debian.DebianKernel]
    vmlinux: bool
    protocol: str | None
    loader: str
    machine: str = "x86_64"

    def __str__(self) -> str:
        name = self.kernel.__name__.removesuffix("_kernel")
        return f"{name} {'vmlinux' if self.vmlinux else 'bzImage'} by {self.protocol or 'its looks'}"


ENTRIES = (  # but for the 64-bit one of Linux, by which all other tests boot
    Entry(debian.cloud_kernel, True, "pvh", BY_PVH),
    Entry(debian.cloud_kernel, False, "linux32", BY_LINUX),
    Entry(debian.pae_kernel, False, None, BY_LINUX, "i686"),
    Entry(debian.pae_kernel, True, None, BY_PVH, "i686"),
)


def boot(entry: Entry, folder: Path, backend: object, append: str = APPEND) -> None:
    """Boot to userspace, ask the kernel who it is and who booted it, read its log, and reboot."""
    kernel = available(entry.kernel)
    busybox = available(debian.busybox if entry.machine == "x86_64" else debian.busybox_i386)
    initrd, image = folder / "initrd.cpio", kernel.vmlinuz
    busybox_initramfs(busybox, INIT).write(initrd)
    if entry.vmlinux:
        image = folder / "vmlinux"
        image.write_bytes(
            BzImage.read(ImageFile.open(kernel.vmlinuz)).vmlinux(Layout.for_memory(256 * MIB)).start(1 << 30)
        )
    config = MachineConfig(kernel=image, initrd=initrd, memory="256M", protocol=entry.protocol)
    config = config.replace(command_line=f"{config.command_line} {append}")
    with anyvisor.boot(config, backend=backend) as machine:
        print(greet(machine, kernel.version))
        found = ask(machine, "uname -m; cat /proc/sys/kernel/bootloader_type").split()
        log = read_log(machine)
        part(machine)
    assert found == [entry.machine, entry.loader]
    assert not complaints(log)
    assert shows_memory_map(log)
