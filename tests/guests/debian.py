"""Kernels and BusyBox for the guest tests, out of Debian's own packages, kept in a cache.

The packages come as those of `anyvisor boot` do (anyvisor.debian), into a cache of their own: they have to be there,
and to stay what they are, on a file system that is read-only and without a network, inside the emulated machine.
"""

from __future__ import annotations

import os
from pathlib import Path

import attrs

from anyvisor.debian import Packages
from anyvisor.errors import HypervisorUnavailable, KernelImageError

CACHE_VARIABLE = "ANYVISOR_TEST_CACHE"
EMULATED_VARIABLE = "ANYVISOR_EMULATED"
"""Set to 1 inside the emulated machine."""
GENERIC, CLOUD, BUSYBOX = "linux-image-amd64", "linux-image-cloud-amd64", "busybox-static"


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


def package(name: str, holding: str = "*") -> Path:
    """The unpacked files of a Debian package; an empty kernel package gives those of its kernel.

    HypervisorUnavailable when it is not in the cache and cannot be fetched.
    """
    if os.environ.get(EMULATED_VARIABLE) and not (cache_dir() / name).exists():
        raise HypervisorUnavailable(f"no {name} in {cache_dir()}: fetch it on the host, there is no network in here")
    try:
        with Packages(cache_dir()) as packages:
            return packages.files(name, holding=holding)
    except KernelImageError as error:
        way_out = f"the guest tests take it from a Debian system's apt; set {CACHE_VARIABLE} to where it may be kept"
        raise HypervisorUnavailable(str(error), way_out) from error


def _kernel(name: str) -> DebianKernel:
    files = package(name, "boot/vmlinuz-*")
    modules = _only(files, "lib/modules/*", "usr/lib/modules/*")
    return DebianKernel(vmlinuz=_only(files, "boot/vmlinuz-*"), modules=modules, version=modules.name)


def _only(files: Path, *patterns: str) -> Path:
    found = [path for pattern in patterns for path in files.glob(pattern)]
    if len(found) != 1:
        raise HypervisorUnavailable(
            f"{files} has {len(found)} files like {patterns[0]}, not one; remove it and try again"
        )
    return found[0]
