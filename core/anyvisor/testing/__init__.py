"""Tests that authors inherit: the conformance suite for backends, and the tests of a boot step.

    class TestMyBackend(HypervisorTests):
        @pytest.fixture
        def hypervisor(self):
            with MyHypervisor() as hypervisor:
                yield hypervisor

Needs the extra `testing` (pytest and hypothesis). The names are imported when they are asked for: pytest loads this
package in every run, and must be ready to rewrite the assertions of the contracts before they are.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from anyvisor.testing.bench import Bench
    from anyvisor.testing.conformance import HypervisorTests
    from anyvisor.testing.guest import Scriptable, TinyGuest
    from anyvisor.testing.kernels import tiny_kernel
    from anyvisor.testing.listener import Listener, Vectors
    from anyvisor.testing.report import Report, Result
    from anyvisor.testing.requirements import CONFORMANCE_VERSION, needs, since
    from anyvisor.testing.run import run_conformance
    from anyvisor.testing.steps import StepTests

__all__ = [
    "CONFORMANCE_VERSION",
    "Bench",
    "HypervisorTests",
    "Listener",
    "Report",
    "Result",
    "Scriptable",
    "StepTests",
    "TinyGuest",
    "Vectors",
    "needs",
    "run_conformance",
    "since",
    "tiny_kernel",
]

_HOMES = {
    "CONFORMANCE_VERSION": "requirements",
    "Bench": "bench",
    "HypervisorTests": "conformance",
    "Listener": "listener",
    "Report": "report",
    "Result": "report",
    "Scriptable": "guest",
    "StepTests": "steps",
    "TinyGuest": "guest",
    "Vectors": "listener",
    "needs": "requirements",
    "run_conformance": "run",
    "since": "requirements",
    "tiny_kernel": "kernels",
}
"""The module that each name comes from."""


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
