import pytest

from anyvisor import hookimpl
from anyvisor.backends import hypervisors, open_hypervisor
from anyvisor.errors import HypervisorUnavailable, PluginError
from anyvisor.plugins import Plugins
from fakes import FakeHypervisor


def unavailable():
    raise HypervisorUnavailable("no such processor", "buy another")


def broken():
    raise ZeroDivisionError("bug")


def no_hypervisor():
    return {}


@pytest.fixture
def plugins():
    """Backends of a stranger, in the order in which auto tries them."""
    targets = {"absent": "unavailable", "broken": "broken", "odd": "no_hypervisor", "fake": "FakeHypervisor"}

    class Stranger:
        @hookimpl
        def anyvisor_hypervisors(self):
            return {name: f"{__name__}:{target}" for name, target in targets.items()} | {"typo": "no_such_module:x"}

    made = Plugins()
    made.register(Stranger(), "stranger")
    return made


def test_auto_goes_on_to_the_first_backend_that_works(plugins):
    with open_hypervisor("auto", plugins) as hypervisor:
        assert isinstance(hypervisor, FakeHypervisor)


def test_a_named_backend_says_why_it_cannot_be_used(plugins):
    with pytest.raises(HypervisorUnavailable, match="no such processor; buy another"):
        open_hypervisor("absent", plugins)
    with pytest.raises(PluginError, match="backend broken of plugin stranger cannot be opened: ZeroDivisionError: bug"):
        open_hypervisor("broken", plugins)
    with pytest.raises(PluginError, match="backend odd of plugin stranger is no hypervisor: dict has no HostFacts"):
        open_hypervisor("odd", plugins)


def test_an_unknown_backend_is_told_with_those_there_are(plugins):
    with pytest.raises(HypervisorUnavailable, match="no backend 'xen'; installed are absent, broken, fake, odd, typo"):
        open_hypervisor("xen", plugins)


def test_every_backend_is_listed_with_reason_and_remedy(plugins):
    found = {status.name: status for status in hypervisors(plugins)}
    assert [name for name, status in found.items() if status.available] == ["fake"]
    assert (found["absent"].reason, found["absent"].remedy) == ("no such processor", "buy another")
    assert "ZeroDivisionError" in found["broken"].reason
    assert "no_such_module" in found["typo"].reason


def test_without_any_backend_auto_says_so():
    with pytest.raises(HypervisorUnavailable, match="no backend can be used here: none is installed"):
        open_hypervisor("auto", Plugins())
