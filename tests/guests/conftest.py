"""Real kernels for the tests here and inside the emulated machine, whose results are shown in the summary outside."""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path

import debian
import pytest
from availability import available
from conversation import INIT
from inner_results import InnerTest
from interviews import LOADER, MACHINES, Interview, interview
from run import InnerRun

from anyvisor.initramfs import busybox_initramfs

INNER_RESULTS = pytest.StashKey[list[tuple[str, list[InnerTest]]]]()


@pytest.fixture
def show_inner_results(pytestconfig, request):
    """A function that puts a run and its tests into the terminal's summary."""

    def show(run: InnerRun, tests: list[InnerTest]) -> None:
        outcome = run.outcome
        timing = f"tests began after {outcome.boot_seconds:.1f} s, off after {outcome.seconds:.1f} s"
        pytestconfig.stash.setdefault(INNER_RESULTS, []).append((f"{request.node.name}: {timing}", tests))

    return show


def pytest_terminal_summary(terminalreporter, config):
    for title, tests in config.stash.get(INNER_RESULTS, []):
        terminalreporter.section("inside the emulated machine")
        terminalreporter.line(title)
        for test in tests:
            terminalreporter.line(str(test))


@pytest.fixture(scope="session")
def generic_kernel() -> debian.DebianKernel:
    """Debian's kernel for real machines."""
    return available(debian.generic_kernel)


@pytest.fixture(scope="session")
def cloud_kernel() -> debian.DebianKernel:
    """Debian's kernel for virtual machines."""
    return available(debian.cloud_kernel)


@pytest.fixture(scope="session")
def busybox() -> Path:
    """A statically linked BusyBox."""
    return available(debian.busybox)


@pytest.fixture(scope="session")
def xen() -> Path:
    """Debian's Xen hypervisor."""
    return available(debian.xen)


@pytest.fixture(scope="session")
def shell_initrd(busybox, tmp_path_factory) -> Path:
    """An initramfs that ends in a shell on the console; see `conversation`."""
    path = tmp_path_factory.mktemp("initrd") / "initrd.cpio"
    busybox_initramfs(busybox, INIT).write(path)
    return path


@pytest.fixture(scope="session")
def interviewed(busybox, cloud_kernel, generic_kernel, tmp_path_factory) -> Callable[[str], Interview]:
    """A function: what the machine of that name says when it is booted on the emulated processor; see `interviews`."""
    path = tmp_path_factory.mktemp("interviews") / "initrd.cpio"
    archive = busybox_initramfs(busybox, INIT)
    if LOADER.exists():
        archive.file("/loader", LOADER.resolve(), 0o755)
    archive.write(path)
    kernels = {"cloud": cloud_kernel, "generic": generic_kernel}
    return functools.cache(lambda name: interview(name, kernels[MACHINES[name][0]], path))
