"""Debian's kernels on the emulated processor, directly on this host: from file to userspace, again and again."""

import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
from conversation import INIT, complaints, converse, shows_memory_map

import anyvisor
from anyvisor.config import DEFAULT_COMMAND_LINE, MachineConfig
from anyvisor.initramfs import busybox_initramfs

pytestmark = pytest.mark.timeout(240)

TWO_AT_A_TIME = 2
"""The processors of a small CI machine. An engine that runs leaves Python to the others."""
SLOWEST_FIRST = [("generic", False), ("cloud", False), ("generic", True), ("cloud", True)]


@pytest.fixture(scope="module")
def initrd(busybox, tmp_path_factory):
    path = tmp_path_factory.mktemp("initrd") / "initrd.cpio"
    busybox_initramfs(busybox, INIT).write(path)
    return path


def boot(kernel, initrd, append="quiet 8250.nr_uarts=1", **more):
    command_line = f"{DEFAULT_COMMAND_LINE} {append}"
    return anyvisor.boot(
        MachineConfig(kernel=kernel, initrd=initrd, memory="256M", command_line=command_line, **more),
        backend="unicorn",
    )


@pytest.fixture(scope="module")
def logs(initrd, generic_kernel, cloud_kernel):
    """The conversations with every kernel in both shapes, two at a time: futures of their logs."""
    kernels = {"generic": generic_kernel, "cloud": cloud_kernel}

    def log(flavour, unpack):
        with boot(kernels[flavour].vmlinuz, initrd, unpack=unpack) as machine:
            return converse(machine, kernels[flavour].version)

    with ThreadPoolExecutor(TWO_AT_A_TIME) as pool:
        yield {each: pool.submit(log, *each) for each in SLOWEST_FIRST}


@pytest.mark.parametrize("unpack", [True, False], ids=["vmlinux", "bzImage"])
@pytest.mark.parametrize("flavour", ["cloud", "generic"])
def test_a_debian_kernel_boots_to_userspace_and_answers(flavour, unpack, logs):
    log = logs[flavour, unpack].result(timeout=200)
    assert not complaints(log)
    assert shows_memory_map(log)


@pytest.fixture
def busy_core():
    """Another process that keeps a core busy."""
    with subprocess.Popen([sys.executable, "-c", "while True: pass"]) as process:
        yield
        process.kill()


def reach_the_prompt(kernel, initrd):
    with boot(kernel.vmlinuz, initrd, unpack=True) as machine:
        machine.console.expect("guest# ", timeout=60)


def test_one_boot_after_the_other_reaches_the_prompt_and_leaves_no_thread(cloud_kernel, initrd, logs):
    for future in logs.values():
        future.result(timeout=200)  # nobody else makes threads from now on
    before = threading.enumerate()
    for _ in range(2):
        reach_the_prompt(cloud_kernel, initrd)
    assert threading.enumerate() == before


def test_a_boot_beside_a_busy_core_reaches_the_prompt(cloud_kernel, initrd, busy_core):
    reach_the_prompt(cloud_kernel, initrd)
