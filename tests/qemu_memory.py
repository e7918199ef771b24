"""The memory of a QEMU machine after its firmware has run: tables that nobody here made."""

import os
import shutil
import subprocess
import time

import pytest

from qmp import ask

SECONDS = 90
"""How long firmware may take, on a busy machine without KVM."""
QEMU = "qemu-system-x86_64"


def memory_of(machine, path, mib, *options, until=(b"RSD PTR ", b"_MP_")):
    """Write the memory of that machine to a file once its firmware has left those marks; gives the file's path."""
    if not shutil.which(QEMU):
        assert os.environ.get("CI") != "true", "no QEMU"
        pytest.skip("apt-get install qemu-system-x86")
    command = ["timeout", str(2 * SECONDS), QEMU, "-M", machine, "-accel", "tcg", "-m", str(mib), *options]
    command += ["-nodefaults", "-display", "none", "-qmp", "stdio"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as qemu:
        try:
            ask(qemu, "qmp_capabilities")
            _wait_for(qemu, path, until)
            time.sleep(1)  # what comes last may be half written
            ask(qemu, "pmemsave", val=0, size=mib << 20, filename=str(path))
        finally:
            qemu.terminate()  # which `timeout` passes on; killed, it would leave QEMU behind
    return path


def _wait_for(qemu, path, marks):
    for _ in range(SECONDS * 2):
        ask(qemu, "pmemsave", val=0, size=1 << 20, filename=str(path))
        low = path.read_bytes()[0x9FC00:]
        if all(mark in low for mark in marks):
            return
        time.sleep(0.5)
    raise AssertionError(f"QEMU's firmware left no {marks} within {SECONDS} s")
