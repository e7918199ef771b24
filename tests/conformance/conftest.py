"""The KVM that these tests run on; without one they are skipped, but in CI they fail."""

import os

import pytest

from anyvisor.errors import HypervisorUnavailable
from anyvisor_kvm.hypervisor import open_kvm


@pytest.fixture(scope="session")
def usable_kvm():
    try:
        open_kvm().close()
    except HypervisorUnavailable as error:
        if os.environ.get("CI") == "true":
            pytest.fail(f"CI must have KVM: {error}")
        pytest.skip(f"to run this: {error}")
