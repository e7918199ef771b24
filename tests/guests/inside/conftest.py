"""Tests in this folder run only inside the emulated machine."""

from __future__ import annotations

import os
from pathlib import Path

import debian

HERE = Path(__file__).parent
INSIDE = os.environ.get(debian.EMULATED_VARIABLE) == "1"


def pytest_collection_modifyitems(config, items):
    """Outside, leave these tests to `test_emulated_machine.py`, which runs them all."""
    ours = [item for item in items if HERE in item.path.parents]
    if not INSIDE and ours:
        config.hook.pytest_deselected(items=ours)
        items[:] = [item for item in items if HERE not in item.path.parents]


def pytest_report_collectionfinish():
    if INSIDE:
        return []
    return [
        "tests/guests/inside runs inside the emulated machine: by test_emulated_machine.py, "
        "or by hand with python tests/guests/run.py"
    ]
