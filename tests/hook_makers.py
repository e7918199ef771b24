"""What tests of hooks share: plugins of one hook that count their calls, and plans made with them."""

import functools

import pytest

from anyvisor import hookimpl
from anyvisor.assemble import assemble
from anyvisor.config import MachineConfig
from anyvisor.plugins import hook_names, load_plugins
from anyvisor.x86_64.generic import FACTS
from elves import tiny_elf


@pytest.fixture
def hook(request):
    """The hook that a test is about."""
    (name,) = [each for each in hook_names() if request.function.__name__.startswith(f"test_{each}_")]
    return name


class Mine:
    """Makes plugins with one implementation of one hook, and counts its calls."""

    def __init__(self, hook):
        self.hook = hook
        self.calls = {}

    def replacing(self, function, name="Mine"):
        """A plugin that answers the hook with `function`."""
        return self._plugin(name, hookimpl(self._counted(name, function)))

    def adjusting(self, change, name="Adjuster"):
        """A plugin that changes what the others answer by `change`."""

        def wrapper():
            return counted((yield))

        counted = self._counted(name, change)
        return self._plugin(name, hookimpl(wrapper=True)(wrapper))

    def _plugin(self, name, implementation):
        return type(name, (), {self.hook: staticmethod(implementation)})()

    def _counted(self, name, function):
        self.calls[name] = 0

        @functools.wraps(function)
        def counted(*inputs):
            self.calls[name] += 1
            return function(*inputs)

        return counted


@pytest.fixture
def maker():
    """Makes implementations of any hook: `maker(hook)`."""
    return Mine


@pytest.fixture
def mine(hook):
    made = Mine(hook)
    yield made
    assert made.calls
    assert all(made.calls.values()), f"never called: {made.calls}"


@pytest.fixture
def config(tmp_path):
    return MachineConfig(kernel=tiny_elf(tmp_path / "vmlinux", code=b"\xf4"), vcpus=2, tables="both")


@pytest.fixture
def planned(config, hook):
    """Plan with some plugins on top of anyvisor's own, and see that the step names who made it."""

    def planned(*extra, by="", facts=FACTS):
        plan = assemble(config, facts, load_plugins(extra, installed=False))
        provider, _, adjuster = by.partition("+")
        (step,) = [step for step in plan.steps if step.hook == hook]
        assert (step.provided_by, step.adjusted_by) == (provider, tuple(filter(None, [adjuster])))
        return plan

    return planned
