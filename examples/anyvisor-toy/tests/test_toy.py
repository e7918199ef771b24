import pytest
from anyvisor_toy import ToyHypervisor

from anyvisor.testing import HypervisorTests


class TestToy(HypervisorTests):
    conformance_version = 1

    @pytest.fixture
    def hypervisor(self):
        with ToyHypervisor() as hypervisor:
            yield hypervisor
