"""Kernels, Xen and BusyBox for the guest tests, out of Debian's own packages, kept in a cache.

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
PAE, BUSYBOX_I386 = "linux-image-686-pae:i386", "busybox-static:i386"
"""For i386, in Debian up to 12."""
XEN, NEWER_XEN = "xen-hypervisor-4.17-amd64", "xen-hypervisor-4.20-amd64"
"""Those of Debian 12 and 13."""


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


def pae_kernel() -> DebianKernel:
    """The kernel for i386 with PAE."""
    return _kernel(PAE)


def busybox() -> Path:
    """A statically linked BusyBox."""
    return _busybox(BUSYBOX)


def busybox_i386() -> Path:
    """A statically linked BusyBox for i386."""
    return _busybox(BUSYBOX_I386)


def xen() -> Path:
    """The Xen hypervisor, a multiboot kernel, packed by gzip."""
    return _only(package(XEN, "boot/xen-*.gz", NEWER_XEN), "boot/xen-*-amd64.gz")


def package(name: str, holding: str = "*", *others: str) -> Path:
    """The unpacked files of a Debian package, or of another where there is none of that name.

    An empty kernel package gives those of its kernel.

    HypervisorUnavailable when it is not in the cache and cannot be fetched.
    """
    names = (name, *others)
    if os.environ.get(EMULATED_VARIABLE) and not any((cache_dir() / each).exists() for each in names):
        raise HypervisorUnavailable(f"no {name} in {cache_dir()}: fetch it on the host, there is no network in here")
    try:
        with Packages(cache_dir(), architectures=_architectures(names)) as packages:
            return packages.files(*names, holding=holding)
    except KernelImageError as error:
        way_out = f"the guest tests take it from a Debian system's apt; set {CACHE_VARIABLE} to where it may be kept"
        raise HypervisorUnavailable(str(error), way_out) from error


def _architectures(names: tuple[str, ...]) -> list[str]:
    """The architectures that are in names such as `busybox-static:i386`."""
    return sorted({name.partition(":")[2] for name in names} - {""})


def _busybox(name: str) -> Path:
    return _only(package(name), "bin/busybox", "usr/bin/busybox")


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
