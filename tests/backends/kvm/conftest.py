"""The KVM that these tests run on; without one they are skipped, but in CI they fail."""

import pytest
from tiny_guests import Guest

from anyvisor_kvm.hypervisor import open_kvm
from needed_kvm import need_kvm


@pytest.fixture(scope="session")
def usable_kvm():
    need_kvm()


@pytest.fixture
def kvm(usable_kvm):
    with open_kvm() as hypervisor:
        yield hypervisor


@pytest.fixture
def guest(kvm):
    """Makes guests, and closes them after the test: `guest(code)` has one vCPU in real mode, at the code."""
    made = []

    def make(code=b"", **options):
        made.append(Guest(kvm, code, **options))
        return made[-1]

    yield make
    for each in made:
        each.close()
