"""A KVM that tests can use; without one they are skipped, but in CI they fail."""

import os

import pytest

from anyvisor.errors import HypervisorUnavailable
from anyvisor_kvm.hypervisor import open_kvm


def need_kvm():
    """Skip the test that calls this where there is none."""
    try:
        open_kvm().close()
    except HypervisorUnavailable as error:
        if os.environ.get("CI") == "true":
            pytest.fail(f"CI must have KVM: {error}")
        pytest.skip(f"to run this: {error}")
