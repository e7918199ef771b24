"""Which plugins a process has: those that its user leaves out or puts first, and how strict to be with the rest.

A choice comes from the environment, and the options of the command line add to it. It is looked at when plugins are
loaded, so it has to be made before they are wanted first.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable, Iterator

import attrs


def is_on(variable: str) -> bool:
    """Whether an environment variable switches something on: it is set, and to something other than 0."""
    return os.environ.get(variable, "") not in ("", "0")


def debugging() -> bool:
    """Whether ANYVISOR_DEBUG is set: tracebacks are shown where a user would get one line."""
    return is_on("ANYVISOR_DEBUG")


@attrs.frozen
class PluginChoice:
    """Which plugins to load, and how.

    `blocked` are names of plugins whose modules are not even imported; anyvisor's own have names too. `first` are
    modules, as `module` or `module:attribute`, that come before all other plugins. With `strict`, whatever is wrong
    with a plugin is a PluginError, else a PluginWarning. With `trace`, every call of a hook is logged.
    """

    blocked: tuple[str, ...] = ()
    first: tuple[str, ...] = ()
    strict: bool = False
    trace: bool = False

    @classmethod
    def from_environment(cls) -> PluginChoice:
        """What ANYVISOR_BLOCK, ANYVISOR_STRICT and ANYVISOR_TRACE say."""
        names = (name.strip() for name in os.environ.get("ANYVISOR_BLOCK", "").split(","))
        return cls(tuple(filter(None, names)), strict=is_on("ANYVISOR_STRICT"), trace=is_on("ANYVISOR_TRACE"))

    def also(self, *, blocked: Iterable[str] = (), first: Iterable[str] = ()) -> PluginChoice:
        """This choice, with more left out and more put first."""
        return attrs.evolve(self, blocked=(*self.blocked, *blocked), first=(*self.first, *first))


class _Process:
    """What was chosen for this process; None: what the environment says."""

    choice: PluginChoice | None = None


def chosen() -> PluginChoice:
    """The choice that holds now."""
    return PluginChoice.from_environment() if _Process.choice is None else _Process.choice


def choose_plugins(choice: PluginChoice | None) -> None:
    """Let `default_plugins` be those of that choice from now on, in every thread; None: those of the environment."""
    _Process.choice = choice


@contextlib.contextmanager
def choosing(choice: PluginChoice | None) -> Iterator[None]:
    """Let a choice hold inside the block; what is chosen in there is forgotten after it."""
    before = _Process.choice
    choose_plugins(choice)
    try:
        yield
    finally:
        choose_plugins(before)
