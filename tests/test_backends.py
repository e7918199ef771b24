import attrs
import pytest

from anyvisor import Capability, MachineConfig, hookimpl
from anyvisor.backends import hypervisors, open_hypervisor
from anyvisor.errors import HypervisorError, HypervisorUnavailable, PluginError
from anyvisor.plugins import Plugins
from anyvisor.x86_64.cpu_models import cpu_model, host_for
from anyvisor.x86_64.generic import FACTS
from anyvisor_mock import MockHypervisor


def unavailable():
    raise HypervisorUnavailable("no such processor", "buy another")


def broken():
    raise ZeroDivisionError("bug")


def no_hypervisor():
    return {}


def usable():
    return MockHypervisor(FACTS)


@pytest.fixture
def plugins():
    """Backends of a stranger, in the order in which auto tries them."""
    targets = {"absent": "unavailable", "broken": "broken", "odd": "no_hypervisor", "fake": "usable"}

    class Stranger:
        @hookimpl
        def anyvisor_hypervisors(self):
            return {name: f"{__name__}:{target}" for name, target in targets.items()} | {"typo": "no_such_module:x"}

    made = Plugins()
    made.register(Stranger(), "stranger")
    return made


def test_auto_goes_on_to_the_first_backend_that_works(plugins):
    with open_hypervisor("auto", plugins) as hypervisor:
        assert isinstance(hypervisor, MockHypervisor)


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
    with pytest.raises(
        HypervisorUnavailable, match="no backend can be used here: none that executes guest code is installed"
    ):
        open_hypervisor("auto", Plugins())


# -- what auto takes ---------------------------------------------------------------------------------------------------

KINDS = {
    "native": {Capability.FULL_SYSTEM, Capability.NATIVE},
    "foreign": {Capability.FULL_SYSTEM, Capability.NATIVE},
    "emulated": {Capability.FULL_SYSTEM, Capability.DETERMINISTIC},
    "second": {Capability.FULL_SYSTEM, Capability.DETERMINISTIC},
    "small": {Capability.NATIVE},
    "toy": set(),
    "mock": {Capability.FULL_SYSTEM, Capability.NATIVE},
}
VCPUS = {"emulated": 1, "second": 1}
TABLES = {}
"""What the processors of those can do that are not plain ones."""


class Opened(MockHypervisor):
    """A backend that counts how often it is closed."""

    made = []

    def __init__(self, name):
        facts = attrs.evolve(FACTS, backend=name, capabilities=frozenset(KINDS[name]), max_vcpus=VCPUS.get(name, 8))
        modes = () if name == "mock" else facts.modes
        facts = attrs.evolve(facts, supported=TABLES.get(name, facts.supported))
        super().__init__(attrs.evolve(facts, notes=(f"the {name} note",), modes=modes))
        self.made.append(self)

    @property
    def closings(self):
        return len(self.calls.of("close"))


for kind in KINDS:
    globals()[f"open_{kind}"] = lambda kind=kind: Opened(kind)


class Stubborn(Opened):
    def close(self):
        raise HypervisorError("CLOSE", 5)


def open_stubborn():
    KINDS["stubborn"] = KINDS["small"]
    return Stubborn("stubborn")


@pytest.fixture
def choose(monkeypatch):
    """Open `auto` with these backends, in this order: the name of the one that was taken, and what was told."""
    monkeypatch.setattr(Opened, "made", [])

    def choose(*names, **wanted):
        class Stranger:
            @hookimpl
            def anyvisor_hypervisors(self):
                return {name: f"{__name__}:{name if name in globals() else f'open_{name}'}" for name in names}

        plugins, told = Plugins(), []
        plugins.register(Stranger(), "stranger")
        with open_hypervisor("auto", plugins, MachineConfig(**wanted) if wanted else None, told.append) as taken:
            assert taken.closings == 0
            assert all(each.closings == 1 for each in Opened.made if each is not taken)
        assert taken.closings == 1
        (line,) = told
        return taken.facts.backend, line

    return choose


def test_the_hosts_own_processor_is_best_and_nothing_after_it_is_opened(choose):
    assert choose("native", "emulated") == ("native", "backend native, on this host's own processor")
    assert [each.facts.backend for each in Opened.made] == ["native"]


def test_a_strangers_native_backend_comes_before_an_emulator_of_ours(choose):
    assert choose("unavailable", "emulated", "foreign") == ("foreign", "backend foreign, on this host's own processor")


def test_an_emulator_that_boots_everything_comes_before_what_boots_small_guests_only(choose):
    reason = "small boots no whole operating system here (`anyvisor doctor` says why)"
    wanted = f"backend emulated, an emulated processor; {reason}"
    for order in [("small", "emulated"), ("emulated", "small")]:
        assert choose(*order) == ("emulated", wanted)


def test_an_emulator_is_told_with_the_reason_why_it_is_no_other(choose):
    wanted = "backend emulated, an emulated processor; unavailable: no such processor"
    assert choose("unavailable", "emulated") == ("emulated", wanted)


def test_of_two_alike_the_first_is_taken_and_the_other_is_no_reason(choose):
    assert choose("emulated", "second") == ("emulated", "backend emulated, an emulated processor")
    assert choose("second", "emulated") == ("second", "backend second, an emulated processor")


def test_where_only_small_guests_run_it_says_so_and_how_to_get_more(choose):
    wanted = "backend small, for small guests only: the small note; unavailable (no such processor; buy another)"
    assert choose("toy", "small", "unavailable") == ("small", wanted)


def test_a_backend_that_cannot_have_so_many_vcpus_is_passed_over(choose):
    wanted = "backend small, for small guests only: the small note; emulated (2 vCPUs are more than the 1 it runs; "
    taken, line = choose("emulated", "small", vcpus=2)
    assert taken == "small" and line.startswith(wanted)
    assert choose("emulated", "small", vcpus=1)[0] == "emulated"


def test_a_deterministic_machine_gets_a_backend_that_can_count_time(choose):
    wanted = "backend emulated, an emulated processor; native: it cannot run a deterministic machine"
    assert choose("native", "emulated", deterministic=True) == ("emulated", wanted)
    assert choose("native", "emulated", deterministic=False)[0] == "native"


def test_a_backend_that_cannot_give_the_cpu_model_is_passed_over_if_another_can(choose, monkeypatch):
    wanted = "backend emulated, an emulated processor; native: it lacks 7 of the things that the CPU model x86-64-v2"
    monkeypatch.setitem(TABLES, "emulated", host_for(cpu_model("x86-64-v2").template).supported)
    taken, line = choose("native", "emulated", cpu="x86-64-v2")
    assert taken == "emulated" and line.startswith(wanted)
    assert choose("native", "emulated", cpu="x86-64-v1")[0] == "native"
    assert choose("native", "second", cpu="x86-64-v2")[0] == "native"  # none can: the plan says what is missing
    assert choose("native", "emulated", cpu="no-such-model")[0] == "native"


def test_where_nothing_can_be_used_each_backend_is_named_with_its_remedy_and_closed(choose):
    with pytest.raises(HypervisorUnavailable) as caught:
        choose("unavailable", "native", "broken", deterministic=True)
    text = str(caught.value)
    assert "unavailable (no such processor; buy another)" in text
    assert "native (it cannot run a deterministic machine; " in text
    assert "broken (backend broken of plugin stranger cannot be opened: ZeroDivisionError: bug)" in text
    assert [each.closings for each in Opened.made] == [1]


def test_a_loser_that_cannot_be_closed_leaves_nothing_open(choose):
    with pytest.raises(HypervisorError, match="CLOSE"):
        choose("emulated", "stubborn")
    assert [each.closings for each in Opened.made if each.facts.backend == "emulated"] == [1]


def test_a_backend_that_is_named_is_taken_as_it_is_and_nothing_is_told(monkeypatch):
    class Stranger:
        @hookimpl
        def anyvisor_hypervisors(self):
            return {name: f"{__name__}:open_{name}" for name in ("small", "emulated")}

    plugins, told = Plugins(), []
    plugins.register(Stranger(), "stranger")
    config = MachineConfig(vcpus=2, deterministic=True)
    with open_hypervisor("small", plugins, config, told.append) as hypervisor:
        assert hypervisor.facts.backend == "small"
    assert told == []


def test_auto_never_takes_a_backend_that_executes_nothing_whatever_it_claims(choose):
    taken, line = choose("mock", "toy", "mock")
    assert taken == "toy"
    assert "mock" not in line
    with pytest.raises(HypervisorUnavailable, match="none that executes guest code"):
        choose("mock")
    assert all(each.closed for each in Opened.made)
