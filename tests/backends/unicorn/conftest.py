"""The emulated processor in each of its modes. There is no skipping: the tests' extra brings it along."""

import pytest
from emulated_guests import Guest

from anyvisor_unicorn.hypervisor import open_unicorn


def _guests(hypervisor, **fixed):
    made = []

    def make(source="", **options):
        made.append(Guest(hypervisor, source, **fixed, **options))
        return made[-1]

    yield make
    for each in made:
        each.close()


@pytest.fixture(params=["fast", "counted"])
def unicorn(request):
    """The emulated processor, in the mode that the test is run for."""
    with open_unicorn(request.param) as hypervisor:
        yield hypervisor


@pytest.fixture
def guest(unicorn):
    """Makes guests in the host's time, and closes them after the test: `guest(source)`."""
    yield from _guests(unicorn)


@pytest.fixture
def deterministic():
    """Makes deterministic guests."""
    with open_unicorn() as hypervisor:
        yield from _guests(hypervisor, deterministic=True)


@pytest.fixture(params=["fast", "counted", "deterministic"])
def any_guest(request):
    """Makes guests of each kind."""
    counted_time = request.param == "deterministic"
    with open_unicorn(None if counted_time else request.param) as hypervisor:
        yield from _guests(hypervisor, deterministic=counted_time)


@pytest.fixture(scope="session")
def fast():
    """The emulated processor, running freely."""
    with open_unicorn("fast") as hypervisor:
        yield hypervisor
