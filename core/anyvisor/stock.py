"""A Linux to boot when nobody named one: a stock kernel for x86_64, and a shell to talk to.

    with Packages(tell=print) as packages:
        config = MachineConfig(
            kernel=stock_kernel(packages), initrd=stock_initramfs(packages), command_line=STOCK_COMMAND_LINE
        )

Some facts about busybox. Its `halt`, `poweroff` and `reboot` are signals to process 1, which its `init` answers by the
shutdown lines of its inittab. A shell would not do as process 1: it runs its traps only between commands, and what it
starts in the background ignores Ctrl-C for good. Job control needs a controlling terminal, which /dev/console cannot
be: `setsid` begins a session, and `cttyhack` gives it the terminal behind the console. This machine has no ACPI to
switch it off, so every end is a reset.
"""

from __future__ import annotations

import hashlib
import os
import platform
import shutil
import struct
from pathlib import Path

from anyvisor.config import DEFAULT_COMMAND_LINE
from anyvisor.debian import Packages
from anyvisor.errors import KernelImageError
from anyvisor.initramfs import busybox_initramfs

STOCK_COMMAND_LINE = f"{DEFAULT_COMMAND_LINE} quiet loglevel=3 cryptomgr.notests"
"""What a stock kernel is told: as any other, and not to dally on the way to the shell.

It prints nothing short of a disaster, and leaves out the self-tests of its ciphers: on an emulated processor, they are
half of all that it does until then.
"""

OWN_KERNELS = ("/boot/vmlinuz-{release}", "/lib/modules/{release}/vmlinuz")
"""Where distributions keep the kernel that is running."""
KERNEL_PACKAGES = ("linux-image-cloud-amd64", "linux-image-virtual", "linux-image-amd64", "linux-image-generic")
"""Kernels for virtual machines first, Debian's and Ubuntu's, then those for any machine."""
KERNEL_FILE = "boot/vmlinuz-*"
BUSYBOX_PACKAGE = "busybox-static"
BUSYBOX_NAMES = ("busybox", "busybox-static", "busybox.static")
BUSYBOX_APPLETS = ("cttyhack", "hostname", "init", "mkdir", "mount", "reboot", "setsid", "sh", "uname")
"""What the scripts below cannot do without."""

INIT = """#!/bin/sh
mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t devtmpfs dev /dev
mkdir /dev/pts
mount -t devpts pts /dev/pts
mount -t tmpfs tmp /tmp
hostname guest
exec busybox init
"""
INITTAB = """::once:/etc/session
::shutdown:reboot -f
"""
SESSION = r"""#!/bin/sh
cd /root
export HOME=/root PS1='guest# '
echo
echo "This is $(uname -sr), booted by anyvisor. \`exit\` or \`poweroff\` ends it."
setsid busybox cttyhack sh
reboot -f
"""

_ELF_X86_64 = b"\x7fELF\x02\x01"
_EM_X86_64, _PT_INTERP = 62, 3


def stock_kernel(packages: Packages) -> Path:
    """A kernel that this host can give: the one it runs, or the one for virtual machines out of its distribution.

    KernelImageError, with the way out, when there is none.
    """
    if not _is_x86_64():
        raise _no_kernel(f"this host's own kernels are for {platform.machine()}")
    own = [Path(pattern.format(release=platform.release())) for pattern in OWN_KERNELS]
    for path in own:
        if os.path.isfile(path) and os.access(path, os.R_OK):  # noqa: PTH113 - it is False where we may not look
            packages.tell(f"kernel {path}, this host's own")
            return path
    try:
        found = _only(packages.files(*KERNEL_PACKAGES, holding=KERNEL_FILE), KERNEL_FILE)
    except KernelImageError as error:
        raise _no_kernel(f"{own[0]} cannot be read, and {error}") from error
    packages.tell(f"kernel {found}")
    return found


def stock_initramfs(packages: Packages) -> Path:
    """A small userland around BusyBox that ends at a shell; when that ends, the machine does. A file in the cache.

    KernelImageError, with the way out, when there is no BusyBox for it.
    """
    archive = busybox_initramfs(static_busybox(packages), INIT)
    archive.file("/etc/inittab", INITTAB.encode()).file("/etc/session", SESSION.encode(), 0o755)
    data = archive.to_bytes()
    return packages.keep(f"shell-{hashlib.sha256(data).hexdigest()[:12]}.cpio", data)


def static_busybox(packages: Packages) -> Path:
    """A statically linked BusyBox for x86_64: the host's own, or its distribution's."""
    for name in BUSYBOX_NAMES:
        found = shutil.which(name)
        if found and is_static_busybox(Path(found)):
            return Path(found)
    try:
        if not _is_x86_64():
            raise KernelImageError(f"this host's own programs are for {platform.machine()}")
        return _only(packages.files(BUSYBOX_PACKAGE, holding="**/busybox"), "bin/busybox", "usr/bin/busybox")
    except KernelImageError as error:
        reason = f"there is no static busybox for x86_64 here to make an initrd of, and {error}; give an --initrd"
        raise KernelImageError(reason) from error


def is_static_busybox(path: Path) -> bool:
    """Whether a file is a program for x86_64 that needs no library, and has the applets that our scripts use."""
    try:
        data = path.read_bytes()
        return _is_static(data) and all(b"\0%s\0" % name.encode() in data for name in BUSYBOX_APPLETS)
    except (OSError, struct.error):
        return False


def _is_static(data: bytes) -> bool:
    """An ELF without PT_INTERP (gABI, "Program Header"): nobody has to load libraries for it."""
    machine = struct.unpack_from("<H", data, 18)[0]
    table = struct.unpack_from("<Q", data, 32)[0]
    entry_bytes, entries = struct.unpack_from("<HH", data, 54)
    kinds = [struct.unpack_from("<I", data, table + each * entry_bytes)[0] for each in range(entries)]
    return data.startswith(_ELF_X86_64) and machine == _EM_X86_64 and _PT_INTERP not in kinds


def _is_x86_64() -> bool:
    return platform.machine().lower() in {"x86_64", "amd64"}


def _only(files: Path, *patterns: str) -> Path:
    found = [path for pattern in patterns for path in files.glob(pattern)]
    if len(found) != 1:
        raise KernelImageError(f"{files} has {len(found)} files like {patterns[0]}, not one; remove it and try again")
    return found[0]


def _no_kernel(reason: str) -> KernelImageError:
    return KernelImageError(f"no KERNEL is given, and there is none to be had: {reason}; name a bzImage or a vmlinux")
