"""Finding plugins and importing them: anyvisor's own by name, others by their entry points.

Nothing of a plugin is imported before it is known whether it is wanted, and whatever its import raises is a
PluginError.
"""

from __future__ import annotations

import functools
import importlib
import time
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

import attrs

from anyvisor.errors import PluginError

if TYPE_CHECKING:
    from importlib.metadata import Distribution, EntryPoint

GROUP = "anyvisor"
"""The entry-point group of plugins, backends included."""

DEFAULTS = (
    "anyvisor_multiboot",
    "anyvisor_pvh",
    "anyvisor_raw",
    "anyvisor_linux",
    "anyvisor_pc",
    "anyvisor_kvm",
    "anyvisor_unicorn",
    "anyvisor_mock",
)
"""anyvisor's own plugins, by module name; core never imports them by anything but these strings.

Of those that take kernel images, the earlier ones are asked first: `anyvisor_linux` refuses what nobody took.
"""

API_VERSION = 1
"""What plugins are written for: raised when a hook or protocol gains something that a plugin may want to rely on."""

OLDEST_API = 1
"""The oldest version whose plugins still work; raised when they break."""


@attrs.frozen
class Candidate:
    """A plugin that could be loaded: `target` is `module` or `module:attribute`."""

    name: str
    target: str
    distribution: str = ""
    version: str = ""

    def load(self) -> tuple[Any, float]:
        """The plugin itself, and how many ms its first import took. PluginError with the cause when it cannot be."""
        began = time.perf_counter()
        module, _, attribute = self.target.partition(":")
        if not all(map(str.isidentifier, module.split("."))):
            raise PluginError(f"cannot be imported: {module!r} is not the name of a module")
        try:
            plugin: Any = importlib.import_module(module)
            if attribute:
                plugin = functools.reduce(getattr, attribute.split("."), plugin)
        except (Exception, SystemExit) as error:
            raise PluginError(f"cannot be imported: {type(error).__name__}: {error}") from error
        return plugin, _IMPORT_MS.setdefault(self.target, (time.perf_counter() - began) * 1000)


_IMPORT_MS: dict[str, float] = {}
"""How long the first import of each plugin in this process took; the next ones take nothing."""


def own_candidates(installed: Iterable[Candidate]) -> list[Candidate]:
    """anyvisor's own plugins, with their distribution where it is known."""
    known = {each.target: each for each in installed}
    plain = [Candidate(module.removeprefix("anyvisor_"), module) for module in DEFAULTS]
    return [attrs.evolve(known.get(each.target, each), name=each.name) for each in plain]


def installed_candidates(broken: Callable[[str, str], None]) -> list[Candidate]:
    """What the entry points of installed distributions name, each distribution once: the first on the path.

    `broken` is told the name of a distribution that cannot be read, and why.
    """
    from importlib import metadata  # noqa: PLC0415 - 20 ms that a program without plugins need not pay

    found: dict[str, list[Candidate]] = {}
    for distribution in metadata.distributions():
        where = str(getattr(distribution, "_path", "a distribution"))
        try:
            if f"[{GROUP}]" in (distribution.read_text("entry_points.txt") or ""):
                first = metadata.distribution(distribution.name)
                found[first.name] = _candidates(first)
        except Exception as error:  # noqa: BLE001 - a stranger's files may hold anything, and must not stop us
            broken(where, f"its entry points cannot be read: {type(error).__name__}: {error}")
    return [each for candidates in found.values() for each in candidates]


def _candidates(distribution: Distribution) -> list[Candidate]:
    entries: Iterable[EntryPoint] = distribution.entry_points.select(group=GROUP)
    # what is in brackets after a target are extras, which pip once understood
    targets = {entry.name: entry.value.partition("[")[0].replace(" ", "") for entry in entries}
    return [Candidate(name, target, distribution.name, distribution.version) for name, target in targets.items()]


def api_problem(plugin: object) -> str:
    """Why a plugin is not for this version of anyvisor's plugin API, by its ANYVISOR_API; empty if it is."""
    wanted = getattr(plugin, "ANYVISOR_API", API_VERSION)
    if not isinstance(wanted, int) or isinstance(wanted, bool):
        return f"left out: its ANYVISOR_API is {wanted!r}; make it a whole number, such as {API_VERSION}"
    if wanted > API_VERSION:
        return (
            f"left out: it needs version {wanted} of the plugin API, this anyvisor has {API_VERSION}; update anyvisor"
        )
    if wanted < OLDEST_API:
        oldest = f"this anyvisor knows {OLDEST_API} to {API_VERSION}"
        return f"left out: it is made for version {wanted} of the plugin API, {oldest}; update the plugin"
    return ""


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """`; did you mean X?` for the name most like it, or nothing."""
    import difflib  # noqa: PLC0415 - only for those who mistype

    close = difflib.get_close_matches(name, list(known), n=1)
    return f"; did you mean {close[0]}?" if close else ""


def import_target(target: str, what: str) -> Any:
    """The object that `module:attribute` names; PluginError saying `what` it was for when there is none."""
    module, _, attribute = target.partition(":")
    try:
        return functools.reduce(getattr, attribute.split("."), importlib.import_module(module))
    except Exception as error:
        raise PluginError(f"{what}: cannot import {target}: {type(error).__name__}: {error}") from error
