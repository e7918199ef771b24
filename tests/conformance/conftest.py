"""The KVM that these tests run on; without one they are skipped, but in CI they fail."""

import pytest

from needed_kvm import need_kvm


@pytest.fixture(scope="session")
def usable_kvm():
    need_kvm()
