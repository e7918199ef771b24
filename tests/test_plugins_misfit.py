"""Plugins whose functions do not fit the hooks that they are called as."""

import pytest

from anyvisor import hookimpl
from anyvisor.plugins import PluginChoice, PluginWarning, load_plugins


class Misfit:
    @hookimpl
    def anyvisor_gdt(self, layuot):
        """An input that the hook does not have."""


class NoYield:
    @hookimpl(wrapper=True)
    def anyvisor_gdt(self):
        """A wrapper that is none."""


class Instance:
    @hookimpl
    def anyvisor_gdt(self, layout):
        """Good, in an instance."""


class Static:
    @staticmethod
    @hookimpl
    def anyvisor_gdt(layout):
        """Good, in a class."""


GDT_HOOK = "anyvisor_gdt(config, layout, kernel) -> Gdt"


@pytest.mark.parametrize(
    ("plugin", "cause"),
    [
        (Misfit(), f"refused: {GDT_HOOK} has no input layuot; did you mean layout?"),
        (NoYield(), "refused: anyvisor_gdt is a wrapper without a yield; `result = yield` gets what the others return"),
        (Instance, f"refused: {GDT_HOOK} has no input self; it is a class: register an instance, Instance()"),
    ],
)
def test_an_implementation_that_does_not_fit_is_refused_in_words_of_ours(plugin, cause):
    with pytest.warns(PluginWarning):
        plugins = load_plugins([plugin], installed=False)
    assert [problem.cause for problem in plugins.problems] == [cause]
    assert plugins.infos[-1].name == "mock"


def test_a_class_may_be_a_plugin_where_its_functions_need_no_instance():
    plugins = load_plugins([Static], installed=False, choice=PluginChoice(strict=True))
    assert (plugins.infos[-1].name, plugins.infos[-1].module) == ("Static", __name__)
