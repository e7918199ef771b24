"""What a test needs, or a skip that says how to get it; where nothing may be skipped (CI=true), a failure."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import TypeVar

import pytest

from anyvisor.errors import HypervisorUnavailable

T = TypeVar("T")


def available(get: Callable[[], T]) -> T:
    """What `get` returns, unless it says HypervisorUnavailable."""
    try:
        return get()
    except HypervisorUnavailable as error:
        reason = str(error)
    if os.environ.get("CI") == "true":
        pytest.fail(reason, pytrace=False)
    pytest.skip(reason)
