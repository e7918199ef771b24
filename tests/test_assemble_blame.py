"""Which of several plugins is named when a step goes wrong."""

import attrs
import pytest

from anyvisor import hookimpl
from anyvisor.assemble import Steps, assemble
from anyvisor.config import MachineConfig
from anyvisor.errors import PluginError
from anyvisor.plugins import PluginChoice, load_plugins
from anyvisor.x86_64.gdt import Gdt
from anyvisor.x86_64.generic import FACTS
from elves import tiny_elf


@pytest.fixture
def kernel(tmp_path):
    return tiny_elf(tmp_path / "vmlinux", code=b"\xf4")


def loaded(hook="anyvisor_gdt", choice=None, **functions):
    """A plugin manager with the defaults and plugins of those names, each with one function."""
    plugins = [type(name, (), {hook: staticmethod(function)})() for name, function in functions.items()]
    return load_plugins(plugins, installed=False, choice=choice)


@hookimpl(wrapper=True)
def forgets():
    yield


@hookimpl(wrapper=True)
def lists():
    return list((yield))


@hookimpl(wrapper=True)
def passes_on():
    return (yield)


@hookimpl(wrapper=True)
def needs_a_gdt():
    return attrs.evolve((yield))


NOTHING = "plugin Inner adjusts anyvisor_gdt and returned nothing; return the result"
LIST = "plugin Inner returned a list from anyvisor_gdt, which wants a Gdt"


@pytest.mark.parametrize(
    ("inner", "outer", "message"),
    [
        (forgets, passes_on, NOTHING),
        (forgets, needs_a_gdt, NOTHING),
        (lists, passes_on, LIST),
        (lists, needs_a_gdt, LIST),
        (passes_on, forgets, "plugin Outer adjusts anyvisor_gdt and returned nothing; return the result"),
        (passes_on, lists, "plugin Outer returned a list from anyvisor_gdt, which wants a Gdt"),
    ],
)
def test_of_several_plugins_in_a_step_the_one_at_fault_is_named(kernel, inner, outer, message):
    with pytest.raises(PluginError) as caught:
        assemble(MachineConfig(kernel=kernel), FACTS, loaded(Inner=inner, Outer=outer))
    assert str(caught.value) == message


def test_a_wrapper_is_not_to_blame_where_nobody_provides_the_step(kernel):
    plugins = loaded(Mine=passes_on, choice=PluginChoice(blocked=("linux",)))
    with pytest.raises(PluginError, match="no plugin provides anyvisor_gdt; left out are linux"):
        Steps(plugins).one("anyvisor_gdt", Gdt, config=None, layout=None, kernel=None)


def test_of_several_plugins_that_collect_the_one_at_fault_is_named(kernel):
    @hookimpl
    def anyvisor_devices():
        return ("serial",)

    with pytest.raises(
        PluginError, match=r"^plugin Mine returned a str from anyvisor_devices, which wants a DeviceSpec"
    ):
        assemble(MachineConfig(kernel=kernel), FACTS, loaded(hook="anyvisor_devices", Mine=anyvisor_devices))


def test_the_last_to_adjust_is_told_last(kernel):
    plan = assemble(MachineConfig(kernel=kernel), FACTS, loaded(Inner=passes_on, Outer=passes_on))
    (step,) = (step for step in plan.steps if step.hook == "anyvisor_gdt")
    assert step.adjusted_by == ("Inner", "Outer")
