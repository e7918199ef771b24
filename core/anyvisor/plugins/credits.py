"""Who answered a hook, and who is to blame: every implementation signs what it returns, and what it raises.

Some facts about pluggy. It does not say which implementation answered a first-result hook, so each is wrapped when it
is registered.
"""

from __future__ import annotations

import contextlib
import contextvars
import functools
from collections.abc import Iterator
from typing import Any

import attrs
import pluggy

from anyvisor.errors import AnyvisorError, PluginError


@attrs.frozen
class Credit:
    """A signature under a hook's `result`, which is UNSEEN of a wrapper in pluggy's old style."""

    hook: str
    plugin: str
    adjusted: bool
    result: object = attrs.field(eq=False, repr=False)


UNSEEN = object()
"""In place of a result that pluggy keeps to itself."""


_open: contextvars.ContextVar[tuple[list[Credit], ...]] = contextvars.ContextVar("anyvisor_credits", default=())


@contextlib.contextmanager
def crediting(*, beside: bool = False) -> Iterator[list[Credit]]:
    """Collect who answers the hooks called inside the block, in the order in which they answer: inner wrappers first.

    Whoever collects outside of the block is told of them only with `beside`.
    """
    collected: list[Credit] = []
    token = _open.set((*(_open.get() if beside else ()), collected))
    try:
        yield collected
    finally:
        _open.reset(token)


def _credit(signature: Credit) -> None:
    for collected in _open.get():
        collected.append(signature)


@contextlib.contextmanager
def blaming(failed: str) -> Iterator[None]:
    """Make whatever a plugin's code raises a PluginError that begins with `failed`; anyvisor's own errors pass."""
    try:
        yield
    except AnyvisorError:
        raise
    except Exception as error:
        raise PluginError(f"{failed}: {type(error).__name__}: {error}") from error


def sign(implementation: pluggy.HookImpl, hook: str) -> None:
    """Make an implementation sign its results, and name itself when it raises."""
    function, plugin = implementation.function, implementation.plugin_name
    generator: Any = function
    failed = f"plugin {plugin} failed in {hook}"

    @functools.wraps(function)
    def provides(*inputs: Any) -> Any:
        with blaming(failed):
            result = function(*inputs)
        if result is not None:
            _credit(Credit(hook, plugin, False, result))
        return result

    @functools.wraps(function)
    def adjusts(*inputs: Any) -> Any:
        with blaming(failed):
            result = yield from generator(*inputs)
        _credit(Credit(hook, plugin, True, UNSEEN if implementation.hookwrapper else result))
        return result

    signed = adjusts if implementation.wrapper or implementation.hookwrapper else provides
    implementation.function = signed  # type: ignore[misc]  # final for pluggy's own sake; it reads it at each call
