"""The conformance suite as a module that pytest collects, for a run without a test file of the author's."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from anyvisor.hypervisor import Hypervisor
from anyvisor.testing.conformance import HypervisorTests
from anyvisor.testing.reporter import Reporter


class TestConformance(HypervisorTests):
    """Every contract, on what `run_conformance` was given."""

    @pytest.fixture
    def hypervisor(self, conformance_run: Reporter) -> Iterator[Hypervisor]:
        """Opened anew for each test."""
        type(self).conformance_version = conformance_run.version
        with conformance_run.factory() as hypervisor:
            yield hypervisor
