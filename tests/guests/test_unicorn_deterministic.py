"""Deterministic boots of Linux on the emulated processor: all that two of them do is the same."""

import difflib
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from deterministic_boot import INIT, LIMIT_SECONDS

from anyvisor.initramfs import busybox_initramfs

SCRIPT = Path(__file__).with_name("deterministic_boot.py")


def horner(count):
    """What the guest's shell computes in 64 bits."""
    total = 0
    for each in range(count):
        total = total * 31 + each
    return (total + (1 << 63)) % (1 << 64) - (1 << 63)


@pytest.mark.timeout(LIMIT_SECONDS + 60)
def test_two_boots_print_the_same_bytes_and_leave_the_guest_as_often(cloud_kernel, busybox, tmp_path):
    initrd = tmp_path / "initrd.cpio"
    busybox_initramfs(busybox, INIT).write(initrd)
    command = [sys.executable, str(SCRIPT), str(cloud_kernel.vmlinuz), str(initrd)]
    # At once, on two processors, and in different surroundings.
    surroundings = [{"PYTHONHASHSEED": "1", "TZ": "UTC"}, {"PYTHONHASHSEED": "2", "TZ": "Asia/Tokyo"}]
    boots = [
        subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env={**os.environ, **each})
        for each in surroundings
    ]
    try:
        first, second = (json.loads(boot.communicate(timeout=LIMIT_SECONDS)[0]) for boot in boots)
    finally:
        for boot in boots:
            boot.kill()
    print(*(f"{boot['seconds']:.1f} s" for boot in (first, second)))
    console = first["same"]["console"]
    assert first["same"]["outcome"] == "reset"
    assert "\nHELLO " in console
    assert f"sum {horner(300)}\r" in console
    assert "GOODBYE" in console
    consoles = [boot["same"]["console"].splitlines() for boot in (first, second)]
    assert list(difflib.unified_diff(*consoles, lineterm="")) == []
    assert first["same"] == second["same"]
