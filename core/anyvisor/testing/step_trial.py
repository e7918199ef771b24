"""Boot plans with a plugin and without it, and what each step was given and gave back on the way."""

from __future__ import annotations

import contextlib
import copy
import warnings
from collections.abc import Iterator
from typing import Any, NoReturn

import attrs
import pytest

from anyvisor.assemble import assemble
from anyvisor.config import MachineConfig
from anyvisor.errors import AnyvisorError, PluginError
from anyvisor.facts import HostFacts
from anyvisor.plan import BootPlan
from anyvisor.plugins import PluginChoice, Plugins, PluginWarning, load_plugins
from anyvisor.plugins.manager import title_of


def fail(message: str) -> NoReturn:
    """Fail the test with the message alone: whose fault it is stands in it, and no line of ours."""
    pytest.fail(message, pytrace=False)


@attrs.frozen
class Setting:
    """A machine on a host: what a plan is made for. `host` is the name of the host's facts."""

    host: str
    facts: HostFacts
    config: MachineConfig

    def __str__(self) -> str:
        count = self.config.vcpus
        return f"{count} vCPU{'s' if count > 1 else ''}, host {self.host}"


@attrs.frozen
class Call:
    """A step that was taken: its hook, what it was given before and after, and what came back."""

    hook: str
    given: dict[str, Any]
    given_after: dict[str, Any]
    result: Any

    @property
    def title(self) -> str:
        """The hook, with the vCPU that it was asked about."""
        return f"{self.hook} for vCPU {self.given['vcpu']}" if "vcpu" in self.given else self.hook


class Trial:
    """A plugin on top of anyvisor's own, and those alone; other plugins that are installed here have no part in it."""

    def __init__(self, plugin: object):
        self.name = title_of(plugin)
        """The plugin's name in plans."""
        self.defaults = load_plugins(installed=False, choice=PluginChoice())
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", PluginWarning)  # a test looks at `problems`
            self.plugins = load_plugins([plugin], installed=False, choice=PluginChoice())

    def plan(self, setting: Setting) -> BootPlan:
        """The plan with the plugin; fails the test, naming the step, when there is none."""
        return self.watched(setting)[0]

    def default_plan(self, setting: Setting) -> BootPlan:
        """The plan without the plugin."""
        return assemble(setting.config, setting.facts, self.defaults)

    def watched(self, setting: Setting, *, copying: bool = False) -> tuple[BootPlan, list[Call]]:
        """The plan with the plugin, and every step in its order; `copying` what each was given before and after it."""
        with _watching(self.plugins, copying=copying) as (calls, asked):
            try:
                return assemble(setting.config, setting.facts, self.plugins), calls
            except AnyvisorError as error:
                refused = error
        in_it = asked and (len(asked) > len(calls) or isinstance(refused, PluginError))
        where = f"in {asked[-1]}" if in_it else "after the last step"
        fail(f"no plan with {self.name} ({setting}), {where}: {type(refused).__name__}: {refused}")

    def without(self, call: Call) -> Any:
        """What the step gives without the plugin when it is given the same."""
        try:
            return getattr(self.defaults.hook, call.hook)(**call.given)
        except AnyvisorError as error:
            return error


@contextlib.contextmanager
def _watching(plugins: Plugins, *, copying: bool) -> Iterator[tuple[list[Call], list[str]]]:
    """The calls of hooks in the block, and the names of those that were asked, answered or not."""
    calls: list[Call] = []
    asked: list[str] = []
    given: list[dict[str, Any]] = []

    kept = copy.deepcopy if copying else dict

    def before(hook: str, _: Any, inputs: Any) -> None:
        asked.append(hook)
        given.append(kept(inputs))

    def after(outcome: Any, hook: str, _: Any, inputs: Any) -> None:
        earlier = given.pop()
        if outcome.exception is None:
            calls.append(Call(hook, earlier, kept(inputs), outcome.get_result()))

    undo = plugins.manager.add_hookcall_monitoring(before, after)
    try:
        yield calls, asked
    finally:
        undo()
