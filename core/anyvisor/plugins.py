"""The plugin manager: anyvisor's own plugins first, then what is installed; what is broken is reported, not fatal.

Some facts about pluggy. The plugin registered last is asked first, so defaults are registered first. A hook whose name
no specification has is silently never called, so every plugin is checked for such names. pluggy does not say which
implementation answered a first-result hook, so each is wrapped on registration to sign what it returns.
"""

from __future__ import annotations

import contextlib
import contextvars
import difflib
import functools
import importlib
import os
import warnings
from collections.abc import Callable, Iterator, Sequence
from types import ModuleType
from typing import TYPE_CHECKING, Any

import attrs
import pluggy

from anyvisor import hookspecs
from anyvisor.errors import AnyvisorError, PluginError

if TYPE_CHECKING:
    from importlib.metadata import EntryPoint

GROUP = "anyvisor"
"""The entry-point group of plugins, backends included."""

DEFAULTS = ("anyvisor_linux", "anyvisor_pc", "anyvisor_kvm", "anyvisor_unicorn")
"""anyvisor's own plugins, by module name; core never imports them by anything but these strings."""


class PluginWarning(UserWarning):
    """A plugin is broken or partly ignored; anyvisor goes on without it."""


@attrs.frozen
class PluginInfo:
    """A plugin that was found: its name, where it comes from, the hooks it implements."""

    name: str
    module: str
    distribution: str = ""
    version: str = ""
    hooks: tuple[str, ...] = ()


@attrs.frozen
class PluginProblem:
    """What is wrong with a plugin; `cause` is a sentence."""

    name: str
    cause: str
    distribution: str = ""
    version: str = ""

    def __str__(self) -> str:
        origin = f" (of {self.distribution} {self.version})" if self.distribution else ""
        return f"plugin {self.name}{origin}: {self.cause}"


@attrs.frozen
class Credit:
    """A signature under a hook's result."""

    hook: str
    plugin: str
    adjusted: bool


_credits: contextvars.ContextVar[list[Credit] | None] = contextvars.ContextVar("anyvisor_credits", default=None)


@contextlib.contextmanager
def crediting() -> Iterator[list[Credit]]:
    """Collect who answers the hooks called inside the block, in the order in which they answer."""
    collected: list[Credit] = []
    token = _credits.set(collected)
    try:
        yield collected
    finally:
        _credits.reset(token)


class Plugins:
    """The plugins of this process: `hook` to call them, `infos` and `problems` to tell about them."""

    def __init__(self) -> None:
        self.manager = pluggy.PluginManager(hookspecs.PROJECT)
        self.manager.add_hookspecs(hookspecs)
        self.infos: list[PluginInfo] = []
        self.problems: list[PluginProblem] = []

    @property
    def hook(self) -> pluggy.HookRelay:
        """pluggy's relay: `plugins.hook.anyvisor_gdt(config=..., layout=...)`."""
        return self.manager.hook

    def register(self, plugin: object, name: str | None = None, entry: EntryPoint | None = None) -> None:
        """Add a plugin: a module, class instance or any namespace with hook implementations."""
        title = name or str(getattr(plugin, "__name__", type(plugin).__name__))
        distribution = entry.dist.name if entry and entry.dist else ""
        version = entry.dist.version if entry and entry.dist else ""
        report = functools.partial(self._report, title, distribution=distribution, version=version)
        try:
            registered = self.manager.register(plugin, title)
        except (pluggy.PluginValidationError, ValueError) as error:
            if isinstance(error, pluggy.PluginValidationError) and self.manager.is_registered(plugin):
                self.manager.unregister(plugin)  # pluggy 1.6 keeps the hooks before the wrong one
            report(f"refused: {' '.join(str(error).split())}")
            return
        hooks = self._check_hooks(plugin, report)
        module = plugin.__name__ if isinstance(plugin, ModuleType) else type(plugin).__module__
        self.infos.append(PluginInfo(registered or title, module, distribution, version, tuple(sorted(hooks))))

    def names_from(self, hook: str) -> dict[str, tuple[str, str]]:
        """The union of a hook that collects `name -> module:callable`: name -> (that string, the plugin's name).

        A plugin that fails here is reported and left out. PluginError when two plugins claim one name.
        """
        found: dict[str, tuple[str, str]] = {}
        for implementation in getattr(self.hook, hook).get_hookimpls():
            plugin = implementation.plugin_name
            for name, target in self._names(hook, implementation).items():
                if name in found and found[name][0] != target:
                    raise PluginError(
                        f"{hook}: both {found[name][1]} and {plugin} offer {name!r}; uninstall one of them"
                    )
                found[name] = (target, plugin)
        return found

    def _names(self, hook: str, implementation: pluggy.HookImpl) -> dict[str, str]:
        try:
            names = implementation.function() or {}
        except AnyvisorError as error:
            plugin = implementation.plugin_name
            self._report(plugin, str(error).removeprefix(f"plugin {plugin} "))
            return {}
        if not isinstance(names, dict) or not all(isinstance(each, str) for pair in names.items() for each in pair):
            cause = f"{hook} must be no wrapper and return a dict of text to text, not a {type(names).__name__}"
            self._report(implementation.plugin_name, cause)
            return {}
        return names

    def _check_hooks(self, plugin: object, report: Callable[[str], None]) -> list[str]:
        hooks = []
        known = [name for name in vars(hookspecs) if name.startswith("anyvisor_")]
        for caller in self.manager.get_hookcallers(plugin) or []:
            if not caller.has_spec():
                close = difflib.get_close_matches(caller.name, known, n=1)
                hint = f"; did you mean {close[0]}?" if close else "; `anyvisor plugins` lists those there are"
                report(f"there is no hook {caller.name}, so it is never called{hint}")
                continue
            hooks.append(caller.name)
            for implementation in caller.get_hookimpls():
                if implementation.plugin is plugin:
                    _sign(implementation, caller.name)
        return hooks

    def _report(self, name: str, cause: str, *, distribution: str = "", version: str = "") -> None:
        problem = PluginProblem(name, cause, distribution, version)
        if problem in self.problems:
            return
        self.problems.append(problem)
        warnings.warn(str(problem), PluginWarning, stacklevel=4)


@contextlib.contextmanager
def blaming(failed: str) -> Iterator[None]:
    """Make whatever a plugin's code raises a PluginError that begins with `failed`; anyvisor's own errors pass."""
    try:
        yield
    except AnyvisorError:
        raise
    except Exception as error:
        raise PluginError(f"{failed}: {type(error).__name__}: {error}") from error


def _sign(implementation: pluggy.HookImpl, hook: str) -> None:
    """Make an implementation sign its results, and name itself when it raises."""
    function, plugin = implementation.function, implementation.plugin_name
    generator: Any = function
    failed = f"plugin {plugin} failed in {hook}"

    @functools.wraps(function)
    def provides(*inputs: Any) -> Any:
        with blaming(failed):
            result = function(*inputs)
        if result is not None:
            _credit(Credit(hook, plugin, False))
        return result

    @functools.wraps(function)
    def adjusts(*inputs: Any) -> Any:
        _credit(Credit(hook, plugin, True))
        with blaming(failed):
            return (yield from generator(*inputs))

    signed = adjusts if implementation.wrapper or implementation.hookwrapper else provides
    implementation.function = signed  # type: ignore[misc]  # final for pluggy's own sake; it reads it at each call


def _credit(credit: Credit) -> None:
    collected = _credits.get()
    if collected is not None:
        collected.append(credit)


def load_plugins(extra: Sequence[object] = (), *, installed: bool = True) -> Plugins:
    """A plugin manager with anyvisor's own plugins, those installed (entry points), and `extra` ones on top."""
    from importlib.metadata import entry_points  # noqa: PLC0415 - 30 ms that a program without plugins need not pay

    plugins = Plugins()
    found = list(entry_points(group=GROUP)) if installed else []
    own = {entry.value: entry for entry in found}
    for module in DEFAULTS:
        _load(
            plugins,
            module.removeprefix("anyvisor_"),
            functools.partial(importlib.import_module, module),
            own.get(module),
        )
    for entry in found:
        if entry.value not in DEFAULTS:
            _load(plugins, entry.name, entry.load, entry)
    for plugin in extra:
        plugins.register(plugin)
    return plugins


def _load(plugins: Plugins, name: str, load: Callable[[], Any], entry: EntryPoint | None) -> None:
    try:
        plugin = load()
    except Exception as error:  # noqa: BLE001 - a stranger's module may raise anything, and must not stop us
        distribution = entry.dist if entry else None
        cause = f"cannot be imported: {type(error).__name__}: {error}"
        plugins._report(
            name,
            cause,
            distribution=distribution.name if distribution else "",
            version=distribution.version if distribution else "",
        )
        return
    plugins.register(plugin, name, entry)


@functools.cache
def default_plugins() -> Plugins:
    """The process's own manager, made on first use."""
    return load_plugins()


def import_target(target: str, what: str) -> Any:
    """The object that `module:attribute` names; PluginError saying `what` it was for when there is none."""
    module, _, attribute = target.partition(":")
    try:
        return functools.reduce(getattr, attribute.split("."), importlib.import_module(module))
    except Exception as error:
        raise PluginError(f"{what}: cannot import {target}: {type(error).__name__}: {error}") from error


def debugging() -> bool:
    """Whether ANYVISOR_DEBUG is set: tracebacks are shown where a user would get one line."""
    return bool(os.environ.get("ANYVISOR_DEBUG"))
