"""Every hook has a test of its own: here those of names and the onlookers, in `test_hooks_steps` the boot steps.

A test is called after its hook; the fixture `mine` implements that hook and no other, and sees to it that every
implementation that the test made was called.
"""

import attrs
import click
import pytest
from click.testing import CliRunner

import test_hooks_steps
from anyvisor import open_hypervisor
from anyvisor.assemble import assemble
from anyvisor.cli import cli
from anyvisor.errors import PluginError
from anyvisor.exits import SystemEvent
from anyvisor.launch import launch
from anyvisor.memory import Region
from anyvisor.outcome import Outcome, Phase
from anyvisor.plan import DeviceSpec
from anyvisor.plugins import PluginWarning, hook_names, load_plugins
from anyvisor.x86_64.gdt import BOOT_GDT
from anyvisor.x86_64.generic import FACTS
from anyvisor_mock import MockHypervisor

pytest_plugins = ["hook_makers"]

NAMES = ["anyvisor_hypervisors", "anyvisor_device_factories", "anyvisor_commands"]


def test_every_hook_has_a_test_of_its_own():
    tests = [*globals(), *vars(test_hooks_steps)]
    assert [each for each in hook_names() if not any(name.startswith(f"test_{each}_") for name in tests)] == []


def test_a_test_that_never_calls_its_hook_fails(maker):
    made = maker("anyvisor_gdt")
    load_plugins([made.replacing(lambda: BOOT_GDT)], installed=False)
    assert not all(made.calls.values())


# -- what there is to choose from --------------------------------------------------------------------------------------


def test_anyvisor_hypervisors_are_opened_by_name(mine):
    plugins = load_plugins([mine.replacing(lambda: {"mine": "anyvisor_mock:MockHypervisor"})], installed=False)
    assert isinstance(open_hypervisor("mine", plugins), MockHypervisor)
    assert plugins.names_from("anyvisor_hypervisors")["mine"] == ("anyvisor_mock:MockHypervisor", "Mine")


class Counter:
    def __init__(self, spec):
        self.reads = spec.settings["first"]

    def read(self, offset, size_bytes):
        self.reads += 1
        return self.reads

    def write(self, offset, size_bytes, value): ...

    def close(self): ...


def open_counter(spec, context):
    return Counter(spec)


def test_anyvisor_device_factories_build_the_devices_of_a_plan(mine, config):
    plugins = load_plugins([mine.replacing(lambda: {"counter": "test_hooks:open_counter"})], installed=False)
    spec = DeviceSpec("counter", "counter0", ports=(Region(0x700, 1),), settings={"first": 40})
    plan = assemble(config, FACTS, plugins)
    with launch(attrs.evolve(plan, devices=(*plan.devices, spec)), MockHypervisor(FACTS), plugins) as machine:
        assert [machine.bus.read_port(0x700, 1) for _ in range(2)] == [41, 42]


@click.command()
def greet():
    """A command."""
    click.echo("good day")


def test_anyvisor_commands_are_on_the_command_line(mine, monkeypatch):
    monkeypatch.setitem(globals(), "greeter", mine.replacing(lambda: {"greet": "test_hooks:greet"}))
    assert CliRunner().invoke(cli, ["--plugin", "test_hooks:greeter", "greet"]).output == "good day\n"


@pytest.mark.parametrize("hook", NAMES)
def test_hooks_of_names_cannot_be_adjusted(hook, maker):
    plugins = load_plugins([maker(hook).adjusting(lambda names: names)], installed=False)
    with pytest.warns(PluginWarning, match=f"plugin Adjuster: {hook} must be no wrapper"):
        plugins.names_from(hook)


# -- onlookers ---------------------------------------------------------------------------------------------------------


def test_anyvisor_plan_ready_is_told_of_every_plan(mine, config):
    seen = []

    def look(plan):
        seen.append(plan)

    plan = assemble(config, FACTS, load_plugins([mine.replacing(look)], installed=False))
    assert seen == [plan]
    with pytest.raises(attrs.exceptions.FrozenInstanceError):
        seen[0].ram = ()


@pytest.fixture
def launched(config):
    def launched(*extra, script=None):
        plugins = load_plugins(extra, installed=False)
        return launch(assemble(config, FACTS, plugins), MockHypervisor(FACTS, script), plugins)

    return launched


def runs(machine):
    """How often a vCPU of it was run."""
    return len(machine.vm.desk.calls.of("run"))


def test_anyvisor_machine_started_is_told_before_the_first_instruction_and_may_refuse(mine, launched):
    seen = []

    def look(machine):
        seen.append((machine, machine.phase, runs(machine)))

    with launched(mine.replacing(look), script=[SystemEvent("reset")]) as machine:
        assert not seen
        machine.start().wait(10)
    assert seen == [(machine, Phase.STARTING, 0)]
    assert runs(machine) >= 1

    def refuse(machine):
        raise ValueError("not today")

    with launched(mine.replacing(refuse)) as machine, pytest.raises(PluginError, match=r"plugin Mine .*not today"):
        machine.start()
    assert runs(machine) == 0


def test_anyvisor_machine_stopped_is_told_how_before_anybody_who_waits(mine, launched):
    seen = []

    def look(machine, outcome):
        seen.append((machine, outcome, machine.phase))

    with launched(mine.replacing(look)) as machine:
        machine.start().request_stop("reset")
        assert machine.wait(10) == Outcome("reset")
        assert seen == [(machine, Outcome("reset"), Phase.STOPPING)]
    assert len(seen) == 1


# -- all of them -------------------------------------------------------------------------------------------------------


def test_every_step_of_a_plan_says_who_provided_it(config):
    plan = assemble(config, FACTS, load_plugins(installed=False))
    steps = {step.hook: step.provided_by for step in plan.steps}
    assert all(provider in ("linux", "pc") for provider in steps.values())
    asked = {"anyvisor_plan_ready", *steps}
    machine = {"anyvisor_machine_started", "anyvisor_machine_stopped"}
    assert asked | machine | {"anyvisor_gic", "anyvisor_fdt"} | set(NAMES) == set(hook_names())


def test_an_implementation_that_returns_none_leaves_the_step_to_the_next(config, maker):
    made = [maker(hook) for hook in hook_names() if hook not in (*NAMES, "anyvisor_devices")]
    declines = [each.replacing(lambda: None, f"No_{each.hook}") for each in made]
    plan = assemble(config, FACTS, load_plugins(declines, installed=False))
    assert sum(sum(each.calls.values()) for each in made) == 8 + 2 * 4 + 1
    assert plan == assemble(config, FACTS, load_plugins(installed=False))
