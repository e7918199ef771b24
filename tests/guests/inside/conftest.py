"""Tests in this folder run only inside the emulated machine; its inputs are there as fixtures."""

from __future__ import annotations

import os
from pathlib import Path

import debian
import pytest
from availability import available

HERE = Path(__file__).parent
INSIDE = os.environ.get(debian.EMULATED_VARIABLE) == "1"


def pytest_collection_modifyitems(items):
    if INSIDE:
        return
    reason = "runs inside the emulated machine, by `python tests/guests/run.py` or test_emulated_machine.py"
    for item in items:
        if HERE in item.path.parents:
            item.add_marker(pytest.mark.skip(reason=reason))


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
