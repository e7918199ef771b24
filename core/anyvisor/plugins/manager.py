"""Registering plugins: who implements which hook, and what is wrong with whom.

Some facts about pluggy. A hook whose name no specification has is silently never called, so every plugin is checked
for such names. It names the implementations of a hook in the order in which they were registered, and asks the last
one first.
"""

from __future__ import annotations

import contextlib
import functools
import warnings
from collections.abc import Callable, Iterator
from types import ModuleType
from typing import TYPE_CHECKING, Any

import attrs
import pluggy

from anyvisor import hookspecs
from anyvisor.errors import AnyvisorError, PluginError
from anyvisor.plugins.credits import sign
from anyvisor.plugins.hooks import HookInfo, hook_info, hook_names, likely_hook, misfit
from anyvisor.plugins.loading import Candidate, api_problem

if TYPE_CHECKING:
    from anyvisor.plugins.trace import Tracer


class PluginWarning(UserWarning):
    """A plugin is broken or partly ignored; anyvisor goes on without it."""


NAME_HOOKS = ("anyvisor_hypervisors", "anyvisor_device_factories", "anyvisor_commands")
"""The hooks that collect `name -> module:callable`."""


@attrs.frozen
class PluginInfo:
    """A plugin that was found: its name, where it comes from, the hooks it implements, how long its import took."""

    name: str
    module: str
    distribution: str = ""
    version: str = ""
    hooks: tuple[str, ...] = ()
    import_ms: float = 0.0


@attrs.frozen
class PluginProblem:
    """What is wrong with a plugin; `cause` is a sentence. `name` is that of its entry point, if it has one."""

    name: str
    cause: str
    distribution: str = ""
    version: str = ""

    def __str__(self) -> str:
        origin = f" (of {self.distribution} {self.version})" if self.distribution else ""
        return f"plugin {self.name}{origin}: {self.cause}"


class _Manager(pluggy.PluginManager):
    """pluggy's manager, which can also register a plugin to come before all others, whatever those say."""

    first = False

    def parse_hookimpl_opts(self, plugin: Any, name: str) -> Any:
        """How a hook is implemented, as pluggy reads it."""
        options = super().parse_hookimpl_opts(plugin, name)
        return {**options, "tryfirst": True, "trylast": False} if options and self.first else options


class Plugins:
    """The plugins of this process: `hook` to call them, `infos`, `blocked` and `problems` to tell about them.

    With `strict`, whatever is wrong with a plugin is a PluginError. With `trace`, every call of a hook is logged.
    """

    def __init__(self, *, strict: bool = False, trace: bool = False) -> None:
        self.manager = _Manager(hookspecs.PROJECT)
        self.manager.add_hookspecs(hookspecs)
        self.infos: list[PluginInfo] = []
        self.blocked: list[PluginInfo] = []
        self.problems: list[PluginProblem] = []
        self.strict = strict
        self._tracer = _tracer(self.manager) if trace else None

    @property
    def hook(self) -> pluggy.HookRelay:
        """pluggy's relay: `plugins.hook.anyvisor_gdt(config=..., layout=...)`."""
        return self.manager.hook

    @property
    def hooks(self) -> tuple[HookInfo, ...]:
        """All hooks there are, in the order of `hookspecs`, with who implements them."""
        return tuple(hook_info(self.manager, name) for name in hook_names())

    def register(
        self, plugin: object, name: str | None = None, source: Candidate | None = None, import_ms: float = 0.0
    ) -> None:
        """Add a plugin: a module, class instance or any namespace with hook implementations.

        `source` says where it comes from. A plugin that cannot be added is a problem (see `report`).
        """
        title = name or title_of(plugin)
        source = source or Candidate(title, "")
        report = functools.partial(self.report, title, source=source)
        if refusal := api_problem(plugin) or self._clash(plugin, title):
            report(refusal)
            return
        try:
            self.manager.register(plugin, title)
        except pluggy.PluginValidationError as error:
            if self.manager.is_registered(plugin):
                self.manager.unregister(plugin)  # pluggy 1.6 keeps the hooks before the wrong one
            report(f"refused: {self._misfit(plugin) or ' '.join(str(error).split())}")
            return
        hooks = tuple(sorted(self._check_hooks(plugin, report)))
        module = plugin.__name__ if isinstance(plugin, ModuleType) else str(getattr(plugin, "__module__", ""))
        self.infos.append(attrs.evolve(_info(source, title, module), hooks=hooks, import_ms=import_ms))

    def leave_out(self, candidate: Candidate) -> None:
        """Remember a plugin that is not wanted."""
        self.blocked.append(_info(candidate, candidate.name, candidate.target))

    @contextlib.contextmanager
    def putting_first(self) -> Iterator[None]:
        """What is registered in the block comes before all others, and whatever is wrong with it is a PluginError."""
        strict, self.strict, self.manager.first = self.strict, True, True
        try:
            yield
        finally:
            self.strict, self.manager.first = strict, False

    def report(self, name: str, cause: str, source: Candidate | None = None) -> None:
        """Add to `problems`, and warn of it, once; PluginError with `strict`."""
        source = source or self._source(name)
        problem = PluginProblem(name, cause, source.distribution, source.version)
        if problem in self.problems:
            return
        self.problems.append(problem)
        if self.strict:
            raise PluginError(str(problem))
        warnings.warn(str(problem), PluginWarning, stacklevel=4)

    def names_from(self, hook: str) -> dict[str, tuple[str, str]]:
        """The union of a hook that collects `name -> module:callable`: name -> (that string, the plugin's name).

        A plugin that fails here is reported and left out. PluginError when two plugins claim one name.
        """

        def refuse(_: str, cause: str) -> None:
            raise PluginError(cause)

        if self._tracer:
            return self._tracer.traced(hook, lambda: self._union(hook, refuse))
        return self._union(hook, refuse)

    def check_names(self) -> None:
        """Ask every hook of names, so that `problems` has what is wrong there, too."""
        for hook in NAME_HOOKS:
            self._union(hook, self.report)

    def _union(self, hook: str, claimed_twice: Callable[[str, str], None]) -> dict[str, tuple[str, str]]:
        found: dict[str, tuple[str, str]] = {}
        for implementation in getattr(self.hook, hook).get_hookimpls():
            plugin = implementation.plugin_name
            for name, target in self._names(hook, implementation).items():
                if name in found and found[name][0] != target:
                    cause = f"{hook}: both {found[name][1]} and {plugin} offer {name!r}"
                    claimed_twice(plugin, f"{cause}; uninstall one of them, or leave one out: ANYVISOR_BLOCK={plugin}")
                found[name] = (target, plugin)
        return found

    def _names(self, hook: str, implementation: pluggy.HookImpl) -> dict[str, str]:
        plugin = implementation.plugin_name
        try:
            names = implementation.function() or {}
        except AnyvisorError as error:
            self.report(plugin, str(error).removeprefix(f"plugin {plugin} "))
            return {}
        if not isinstance(names, dict) or not all(isinstance(each, str) for pair in names.items() for each in pair):
            cause = f"{hook} must be no wrapper and return a dict of text to text, not a {type(names).__name__}"
            self.report(plugin, cause)
            return {}
        return names

    def _source(self, name: str) -> Candidate:
        """Where a registered plugin comes from; nowhere if there is none of that name."""
        found = [
            Candidate(name, info.module, info.distribution, info.version) for info in self.infos if info.name == name
        ]
        return found[0] if found else Candidate(name, "")

    def _misfit(self, plugin: object) -> str:
        """Why a plugin's functions do not fit its hooks; empty if they do."""
        for attribute in dir(plugin):
            if options := self.manager.parse_hookimpl_opts(plugin, attribute):
                name = options["specname"] or attribute
                wrapper = options["wrapper"] or options["hookwrapper"]
                if name in hook_names() and (why := misfit(getattr(plugin, attribute), name, wrapper=wrapper)):
                    return why
        return ""

    def _clash(self, plugin: object, title: str) -> str:
        """Why it cannot be a plugin of that name beside those there are; empty if it can."""
        if isinstance(plugin, type) and (problem := self._misfit(plugin)):
            return f"refused: {problem}; it is a class: register an instance, {plugin.__name__}()"
        if (taken := self.manager.get_plugin(title)) is not None:
            whose = self._source(title)
            origin = f" of {whose.distribution} {whose.version}" if whose.distribution else ""
            other = f"{title_of(taken)}{origin}"
            return f"refused: there is a plugin of that name already, {other}; rename one, or leave one out"
        if self.manager.is_registered(plugin):
            return f"refused: it is there already, as {self.manager.get_name(plugin)}"
        return ""

    def _check_hooks(self, plugin: object, report: Callable[[str], None]) -> list[str]:
        """The hooks that a plugin implements, each made to sign; what it seems to implement and does not is reported.

        As pluggy's `check_pending`, but for one plugin: a hook that nobody specified is an error unless it is marked
        `optionalhook`.
        """
        hooks = []
        for caller in self.manager.get_hookcallers(plugin) or []:
            for implementation in caller.get_hookimpls():
                if implementation.plugin is not plugin:
                    continue
                if caller.has_spec():
                    hooks.append(caller.name)
                    sign(implementation, caller.name)
                elif not implementation.optionalhook:
                    hint = likely_hook(caller.name) or "; `anyvisor hooks` lists those there are"
                    report(f"there is no hook {caller.name}, so it is never called{hint}")
        for name in hook_names():
            if name not in hooks and _is_own_function(getattr(plugin, name, None)):
                report(f"{name} has no @hookimpl before it, so it is never called")
        if self.manager.first and not self.manager.get_hookcallers(plugin):
            report("it implements no hook, so it does nothing; `anyvisor hooks` lists those there are")
        return hooks


def title_of(plugin: object) -> str:
    """What a plugin without an entry point is called: as its module or class is."""
    return str(getattr(plugin, "__name__", type(plugin).__name__))


def _info(source: Candidate, name: str, module: str) -> PluginInfo:
    return PluginInfo(name, module, source.distribution, source.version)


def _is_own_function(value: object) -> bool:
    """Whether it is a function that could implement a hook, and no specification that somebody imported."""
    return callable(value) and not hasattr(value, f"{hookspecs.PROJECT}_spec")


def _tracer(manager: pluggy.PluginManager) -> Tracer:
    from anyvisor.plugins.trace import Tracer  # noqa: PLC0415 - nothing of it is there when nobody traces

    return Tracer(manager)
