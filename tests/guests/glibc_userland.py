"""Debian's own programs in an initramfs: bash, perl, coreutils and gzip with the C library that they are linked with.

The host's own files are taken, so what the guest computes with them can be compared with what the host does.
"""

from __future__ import annotations

import platform
import re
import shutil
import subprocess
from pathlib import Path

from anyvisor.errors import HypervisorUnavailable
from anyvisor.initramfs import Initramfs, busybox_initramfs

PROGRAMS = (
    *("bash", "perl", "sort", "sha256sum", "md5sum", "gzip", "sleep", "cat", "seq", "wc", "tr", "head", "cut"),
    *("uniq", "date", "kill", "tee", "dd", "cmp", "grep", "sed", "mkfifo"),
)
PERL_MODULES = ("strict", "warnings", "POSIX", "List::Util")
ENVIRONMENT = {"PATH": "/usr/local/bin:/usr/bin:/bin", "LC_ALL": "C", "HOME": "/tmp", "TZ": "UTC", "TERM": "dumb"}
"""What programs are told here and there."""

# The shell is not process 1 itself: the kernel lets nobody stop a job whose parent is that.
INIT = """#!/bin/sh
mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t devtmpfs dev /dev
ln -s /proc/self/fd /dev/fd
cd /tmp
export {environment}
echo "USERSPACE is up"
PS1='guest# ' setsid busybox cttyhack bash --norc --noediting -i </dev/console >/dev/console 2>&1
"""


def debian_initramfs(busybox: Path) -> Initramfs:
    """BusyBox to mount things, and over it the host's programs with all that they load.

    HypervisorUnavailable on a host that is no Debian for x86_64, or that lacks a program.
    """
    if not Path("/etc/debian_version").exists() or platform.machine() != "x86_64":
        raise HypervisorUnavailable("the guest's programs are the host's own, and this is no Debian for x86_64")
    environment = " ".join(f"{name}={value}" for name, value in ENVIRONMENT.items())
    archive = busybox_initramfs(busybox, INIT.format(environment=environment))
    programs = [_program(name) for name in PROGRAMS]
    modules = _perl_files()
    for name, path in zip(PROGRAMS, programs, strict=True):
        archive.file(f"/bin/{name}", path, 0o755)
    for path in modules:
        archive.file(str(path), path)
    for library in sorted({each for path in [*programs, *modules] for each in _libraries(path)}):
        archive.file(str(library), library, 0o755)
    return archive


def on_host(script: str, directory: Path) -> str:
    """What bash prints on this host for `script`, run in `directory`."""
    done = subprocess.run(
        ["bash", "--norc", "-c", script],
        capture_output=True, text=True, cwd=directory, env=ENVIRONMENT, timeout=60, check=True,
    )  # fmt: skip
    return done.stdout


def _program(name: str) -> Path:
    found = shutil.which(name, path=ENVIRONMENT["PATH"])
    if found is None:
        raise HypervisorUnavailable(f"this host has no {name}", f"install it: {', '.join(PROGRAMS)} are needed")
    return Path(found).resolve()


def _libraries(path: Path) -> list[Path]:
    """The dynamic loader and the libraries that the host's own loader finds for an ELF file."""
    with path.open("rb") as file:
        if file.read(4) != b"\x7fELF":
            return []
    listed = subprocess.run(["ldd", path], capture_output=True, text=True, check=True, timeout=20).stdout
    return [Path(each) for each in re.findall(r"(/\S+) \(0x", listed)]


def _perl_files() -> list[Path]:
    """The Perl modules that are used, with those that they use, and their shared objects."""
    script = "print join qq(\\n), values %INC, @DynaLoader::dl_shared_objects"
    uses = [f"-M{module}" for module in PERL_MODULES]
    done = subprocess.run(
        ["perl", *uses, "-e", script], capture_output=True, text=True, check=True, timeout=20, env=ENVIRONMENT
    )
    return [Path(each) for each in done.stdout.split()]
