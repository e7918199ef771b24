"""What every contract has: the author's hypervisor, benches of it, and the check of what it needs."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any, ClassVar

import pytest

from anyvisor.hypervisor import Hypervisor
from anyvisor.testing.bench import Bench
from anyvisor.testing.requirements import CONFORMANCE_VERSION, check

MakeBench = Callable[..., Bench]


class Contract:
    """The fixtures of every contract."""

    conformance_version: ClassVar[int] = CONFORMANCE_VERSION
    """The version of the suite that the author has; newer tests are skipped."""

    @pytest.fixture
    def hypervisor(self) -> Iterator[Hypervisor]:
        """The hypervisor under test, open; yours to override."""
        pytest.fail(f"{type(self).__name__} must have a fixture `hypervisor` that yields an open one", pytrace=False)

    @pytest.fixture(autouse=True)
    def _requirements(self, request: pytest.FixtureRequest, hypervisor: Hypervisor) -> None:
        __tracebackhide__ = True
        check(request, hypervisor, self.conformance_version)

    @pytest.fixture
    def bench(self, hypervisor: Hypervisor) -> Iterator[MakeBench]:
        """Makes benches, and closes them after the test: `bench(vcpus=2)`; see `Bench`."""
        with ExitStack() as stack:

            def make(**options: Any) -> Bench:
                return stack.enter_context(Bench(hypervisor, **options))

            yield make
