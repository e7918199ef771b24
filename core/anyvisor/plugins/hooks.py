"""The hooks there are, as values: what each is for, what it is given, and who implements it."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any, Literal

import attrs
import pluggy

from anyvisor import hookspecs
from anyvisor.plugins.loading import did_you_mean

Kind = Literal["replaces", "collects", "onlooker"]
"""What an implementation does: it replaces the others' result, adds to it, or only looks on."""


@attrs.frozen
class HookImplementation:
    """A plugin's implementation of a hook; a `wrapper` adjusts what the others return."""

    plugin: str
    module: str
    wrapper: bool


@attrs.frozen
class HookInfo:
    """A hook: its kind, signature and documentation, and its implementations in the order in which they are called.

    Wrappers are called first, the outermost at the head. Of a hook that replaces, the first implementation that
    returns something other than None wins.
    """

    name: str
    kind: Kind
    signature: str
    documentation: str
    implementations: tuple[HookImplementation, ...]

    @property
    def asked_first(self) -> str:
        """The plugin that wins a hook that replaces, unless it returns None; empty for other hooks, and for no plugin.

        It is asked first of those that are no wrappers.
        """
        plain = [each.plugin for each in self.implementations if not each.wrapper]
        return plain[0] if plain and self.kind == "replaces" else ""


def hook_names() -> list[str]:
    """The names of all hooks, in the order of `hookspecs`."""
    return [name for name in vars(hookspecs) if name.startswith(f"{hookspecs.PROJECT}_")]


def likely_hook(name: str) -> str:
    """`; did you mean X?` for the hook most like it, or nothing. What all names have in common does not count."""
    prefix = f"{hookspecs.PROJECT}_"
    hint = did_you_mean(name.removeprefix(prefix), [each.removeprefix(prefix) for each in hook_names()])
    return hint.replace("mean ", f"mean {prefix}")


def hook_kind(name: str) -> Kind:
    """What implementations of a hook do."""
    specification: Callable[..., Any] = getattr(hookspecs, name)
    if getattr(specification, f"{hookspecs.PROJECT}_spec")["firstresult"]:
        return "replaces"
    return "onlooker" if specification.__annotations__["return"] == "None" else "collects"


def hook_signature(name: str) -> str:
    """How a hook is called, and what it gives: `anyvisor_gdt(config, layout) -> Gdt`."""
    signature = inspect.signature(getattr(hookspecs, name))
    return f"{name}({', '.join(signature.parameters)}) -> {signature.return_annotation}"


def misfit(function: Callable[..., Any], name: str, *, wrapper: bool) -> str:
    """Why a function cannot implement a hook; empty if it can."""
    known = inspect.signature(getattr(hookspecs, name)).parameters
    for each in inspect.signature(function).parameters.values():
        if each.name not in known and each.default is each.empty:
            return f"{hook_signature(name)} has no input {each.name}{did_you_mean(each.name, known)}"
    if wrapper and not inspect.isgeneratorfunction(function):
        return f"{name} is a wrapper without a yield; `result = yield` gets what the others return"
    return ""


def hook_info(manager: pluggy.PluginManager, name: str) -> HookInfo:
    """What there is to say about a hook."""
    specification: Callable[..., Any] = getattr(hookspecs, name)
    called = reversed(getattr(manager.hook, name).get_hookimpls())
    return HookInfo(
        name,
        hook_kind(name),
        hook_signature(name),
        inspect.getdoc(specification) or "",
        tuple(_implementation(each) for each in called),
    )


def _implementation(found: pluggy.HookImpl) -> HookImplementation:
    module = getattr(found.function, "__module__", "") or ""
    return HookImplementation(found.plugin_name, module, found.wrapper or found.hookwrapper)
