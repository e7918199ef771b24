"""pytest's way to `anyvisor.testing`: readable assertions in inherited tests, and the marks they carry.

Loaded in every run of pytest where anyvisor is installed, so it does no more than that.
"""

from __future__ import annotations

import pytest

pytest.register_assert_rewrite(*(f"anyvisor.testing.{name}" for name in ("contracts", "steps", "x86_64")))


def pytest_configure(config: pytest.Config) -> None:
    """Make the suite's marks known (to --strict-markers, and to `pytest --markers`)."""
    config.addinivalue_line("markers", "anyvisor_needs(...): what a conformance test needs of a backend")
    config.addinivalue_line("markers", "anyvisor_since(version): the conformance version that a test came with")
