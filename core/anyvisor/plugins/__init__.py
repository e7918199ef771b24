"""The plugins of a process: anyvisor's own first, then what is installed; what is broken is reported, not fatal.

This is the module to import from. Some facts about the order: pluggy asks the plugin first that was registered last,
so anyvisor's own plugins come first and are asked last.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence

from anyvisor.errors import ConfigError, PluginError
from anyvisor.plugins.choice import PluginChoice, choose_plugins, choosing, chosen, debugging
from anyvisor.plugins.credits import UNSEEN, Credit, blaming, crediting
from anyvisor.plugins.hooks import HookImplementation, HookInfo, hook_names, likely_hook
from anyvisor.plugins.loading import (
    API_VERSION,
    DEFAULTS,
    GROUP,
    OLDEST_API,
    Candidate,
    did_you_mean,
    import_target,
    installed_candidates,
    own_candidates,
)
from anyvisor.plugins.manager import PluginInfo, PluginProblem, Plugins, PluginWarning

__all__ = [
    "API_VERSION",
    "DEFAULTS",
    "GROUP",
    "OLDEST_API",
    "UNSEEN",
    "Credit",
    "HookImplementation",
    "HookInfo",
    "PluginChoice",
    "PluginInfo",
    "PluginProblem",
    "PluginWarning",
    "Plugins",
    "blaming",
    "choose_plugins",
    "choosing",
    "chosen",
    "crediting",
    "debugging",
    "default_plugins",
    "did_you_mean",
    "hook_names",
    "import_first",
    "import_target",
    "likely_hook",
    "load_plugins",
]


def load_plugins(
    extra: Sequence[object] = (), *, installed: bool = True, choice: PluginChoice | None = None
) -> Plugins:
    """A plugin manager with anyvisor's own plugins, those installed (entry points), and `extra` ones on top.

    `choice` says which are left out or come first, and how strict to be: by default what was chosen for this process
    (`choose_plugins`), or the environment. ConfigError when a plugin that is to come first cannot be imported.
    """
    choice = choice or chosen()
    plugins = Plugins(strict=choice.strict, trace=choice.trace)
    found = installed_candidates(plugins.report) if installed else []
    candidates = [*own_candidates(found), *(each for each in found if each.target not in DEFAULTS)]
    if installed:
        _check_blocks(plugins, choice.blocked, [each.name for each in candidates])
    for candidate in candidates:
        if candidate.target in choice.first:
            continue
        if candidate.name in choice.blocked:
            plugins.leave_out(candidate)
        else:
            _load(plugins, candidate)
    known = {each.target: each for each in candidates}
    for target in dict.fromkeys(choice.first):
        _load_first(plugins, known.get(target, Candidate(target, target)))
    for plugin in extra:
        plugins.register(plugin)
    return plugins


def _check_blocks(plugins: Plugins, blocked: Sequence[str], names: Sequence[str]) -> None:
    for name in dict.fromkeys(blocked):
        if name not in names:
            plugins.report(name, f"there is none of that name, so nothing is left out{did_you_mean(name, names)}")


def _load(plugins: Plugins, candidate: Candidate) -> None:
    try:
        plugin, import_ms = candidate.load()
    except PluginError as error:
        plugins.report(candidate.name, str(error), candidate)
        return
    plugins.register(plugin, candidate.name, candidate, import_ms)


def _load_first(plugins: Plugins, candidate: Candidate) -> None:
    """A plugin that somebody named: it comes before all others, and whatever is wrong with it is an error."""
    plugin, import_ms = import_first(candidate.target)
    with plugins.putting_first():
        plugins.register(plugin, candidate.name, candidate, import_ms)


def import_first(target: str) -> tuple[object, float]:
    """A plugin that somebody named, and how many ms its import took; ConfigError when it cannot be imported."""
    try:
        return Candidate(target, target).load()
    except PluginError as error:
        hint = "" if _is_broken(error, target) else f"; {HOW_TO_NAME}"
        raise ConfigError(f"plugin {target} {error}{hint}") from error


HOW_TO_NAME = "name a module on the path (PYTHONPATH adds to it), as module or module:attribute"


def _is_broken(error: PluginError, target: str) -> bool:
    """Whether a module was found and is broken; else it is the name that is wrong."""
    cause = error.__cause__
    if isinstance(cause, ModuleNotFoundError):
        return not target.startswith(str(cause.name))
    return not isinstance(cause, AttributeError | None)


@functools.cache
def _plugins_of(choice: PluginChoice) -> Plugins:
    return load_plugins(choice=choice)


def default_plugins() -> Plugins:
    """The process's own manager, made on first use; another one for another choice (`choose_plugins`)."""
    return _plugins_of(chosen())
