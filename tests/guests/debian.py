"""Kernels and BusyBox for the guest tests, out of Debian's own packages, kept in a cache.

Some facts about Debian's kernels. `linux-image-amd64` is an empty package that depends on the kernel of the
day, such as linux-image-6.1.0-56-amd64; the cloud kernel has a second such name. A package is unpacked, never
installed, so nothing needs root and nothing changes on the host. What is in the cache is used for good: the
second call asks neither apt nor the network, and works from a read-only file system. Remove the cache to get
newer packages.
"""

from __future__ import annotations

import os
import re
import subprocess
import tempfile
from pathlib import Path

import attrs

from anyvisor.errors import HypervisorUnavailable

CACHE_VARIABLE = "ANYVISOR_TEST_CACHE"
EMULATED_VARIABLE = "ANYVISOR_EMULATED"
"""Set to 1 inside the emulated machine."""
GENERIC, CLOUD, BUSYBOX = "linux-image-amd64", "linux-image-cloud-amd64", "busybox-static"
DOWNLOAD_LIMIT_SECONDS = 600


@attrs.frozen
class DebianKernel:
    """A kernel as Debian ships it.

    `vmlinuz` is the bzImage, `modules` its modules, `version` what `uname -r` says, such as 6.1.0-56-amd64.
    """

    vmlinuz: Path
    modules: Path
    version: str


def cache_dir() -> Path:
    """Where packages are kept: `$ANYVISOR_TEST_CACHE`, or ~/.cache/anyvisor-tests."""
    return Path(os.environ.get(CACHE_VARIABLE) or Path.home() / ".cache" / "anyvisor-tests").absolute()


def generic_kernel() -> DebianKernel:
    """The kernel for real machines: it has KVM and 9p as modules, and XZ packs it."""
    return _kernel(GENERIC)


def cloud_kernel() -> DebianKernel:
    """The kernel for virtual machines: smaller, without 9p, and LZ4 packs it."""
    return _kernel(CLOUD)


def busybox() -> Path:
    """A statically linked BusyBox."""
    return _only(package(BUSYBOX), "bin/busybox", "usr/bin/busybox")


def package(name: str) -> Path:
    """The unpacked files of a Debian package; an empty kernel package gives those of its kernel.

    HypervisorUnavailable when it is not in the cache and cannot be fetched.
    """
    link = cache_dir() / name
    if not link.exists():
        if os.environ.get(EMULATED_VARIABLE):
            raise HypervisorUnavailable(
                f"no {name} in {cache_dir()}: fetch it on the host, there is no network in here"
            )
        _fetch(name, link)
    return link.resolve()


def _kernel(name: str) -> DebianKernel:
    files = package(name)
    modules = _only(files, "lib/modules/*", "usr/lib/modules/*")
    return DebianKernel(vmlinuz=_only(files, "boot/vmlinuz-*"), modules=modules, version=modules.name)


def _only(files: Path, *patterns: str) -> Path:
    found = [path for pattern in patterns for path in files.glob(pattern)]
    if len(found) != 1:
        raise HypervisorUnavailable(
            f"{files} has {len(found)} files like {patterns[0]}, not one; remove it and try again"
        )
    return found[0]


def _fetch(name: str, link: Path) -> None:
    """Download and unpack beside the cache's entries, then move into place: two runs at once do no harm."""
    cache = link.parent
    try:
        cache.mkdir(parents=True, exist_ok=True)
        scratch = tempfile.TemporaryDirectory(dir=cache, prefix=".new-")
    except OSError as error:
        way_out = f"set {CACHE_VARIABLE} to a directory that can be written"
        raise HypervisorUnavailable(f"cannot keep {name} in {cache}: {error.strerror}; {way_out}") from error
    with scratch as folder:
        deb = _download(_real_name(name), Path(folder))
        _run("dpkg-deb", "--extract", deb.name, "files", folder=deb.parent)
        _move(deb.with_name("files"), cache / deb.stem)
        new_link = deb.with_name("link")
        new_link.symlink_to(deb.stem)
        new_link.replace(link)


def _move(files: Path, finished: Path) -> None:
    try:
        files.rename(finished)
    except OSError:
        if not finished.is_dir():  # else somebody was faster, with the same files
            raise


def _real_name(name: str) -> str:
    """The kernel that an empty package depends on; any other package is itself."""
    if name == BUSYBOX:
        return name
    depends = _run("apt-cache", "depends", name)
    found = re.search(r"Depends: (linux-image-\S+)", depends)
    if not found:
        raise HypervisorUnavailable(
            f"{name} depends on no kernel here: {depends!r}; is this a Debian system for amd64?"
        )
    return found[1]


def _download(name: str, folder: Path) -> Path:
    _run("apt-get", "-o", "APT::Sandbox::User=root", "--quiet", "download", name, folder=folder)
    return _only(folder, "*.deb")


def _run(*command: str, folder: Path | None = None) -> str:
    """What a command of Debian's printed."""
    english = {**os.environ, "LC_ALL": "C"}
    try:
        done = subprocess.run(
            command,
            check=False,
            cwd=folder,
            env=english,
            capture_output=True,
            text=True,
            timeout=DOWNLOAD_LIMIT_SECONDS,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        way_out = "the guest tests take their kernels from a Debian system's apt"
        raise HypervisorUnavailable(f"cannot run {' '.join(command)}: {error}; {way_out}") from error
    if done.returncode:
        way_out = "run `apt-get update` as root, and see that the network and the disk are there"
        raise HypervisorUnavailable(f"{' '.join(command)} failed: {done.stderr.strip()}; {way_out}")
    return done.stdout
