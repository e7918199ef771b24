"""Every call of a hook in a line: who answered, who adjusted, how long it took, what came of it.

    anyvisor: anyvisor_cpuid(vcpu=0): linux, adjusted by no-avx512, 0.412 ms: Cpuid

A call within a call is indented below it. The lines go to the logger `anyvisor.trace`, and from there to stderr unless
the program has handlers of its own.
"""

from __future__ import annotations

import logging
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any, TypeVar

import attrs
import pluggy

from anyvisor.plugins.credits import Credit, crediting
from anyvisor.plugins.hooks import hook_kind

T = TypeVar("T")
LOGGER = logging.getLogger("anyvisor.trace")
INDENT = "  "
TEXT_LIMIT = 60


@attrs.define
class _Call:
    """A call of a hook that has not returned; `within` are the lines of those that were made in it."""

    collecting: AbstractContextManager[list[Credit]]
    credits: list[Credit]
    began: float
    within: list[str] = attrs.field(factory=list)


class Tracer:
    """Logs the hook calls of a plugin manager, from any thread."""

    def __init__(self, manager: pluggy.PluginManager):
        self._thread = threading.local()
        _log_to_stderr()
        manager.add_hookcall_monitoring(self._before, self._after)

    def traced(self, hook: str, call: Callable[[], T]) -> T:
        """Make a call that pluggy does not see."""
        self._begin()
        outcome = pluggy.Result.from_call(call)
        self._end(hook, {}, outcome, [])
        return outcome.get_result()

    def _before(self, hook: str, implementations: Sequence[pluggy.HookImpl], inputs: Mapping[str, Any]) -> None:  # noqa: ARG002
        self._begin()

    def _after(
        self,
        outcome: pluggy.Result[Any],
        hook: str,
        implementations: Sequence[pluggy.HookImpl],
        inputs: Mapping[str, Any],
    ) -> None:
        self._end(hook, inputs, outcome, implementations)

    @property
    def _open(self) -> list[_Call]:
        """The calls that this thread is in."""
        if not hasattr(self._thread, "open"):
            self._thread.open = []
        calls: list[_Call] = self._thread.open
        return calls

    def _begin(self) -> None:
        collecting = crediting(beside=True)
        self._open.append(_Call(collecting, collecting.__enter__(), time.perf_counter()))

    def _end(
        self,
        hook: str,
        inputs: Mapping[str, Any],
        outcome: pluggy.Result[Any],
        implementations: Sequence[pluggy.HookImpl],
    ) -> None:
        call = self._open.pop()
        took_ms = (time.perf_counter() - call.began) * 1000
        call.collecting.__exit__(None, None, None)
        numbers = ", ".join(f"{name}={value}" for name, value in inputs.items() if isinstance(value, int))
        who = _who(hook, call.credits, implementations)
        lines = [f"{hook}({numbers}): {who}, {took_ms:.3f} ms{_result(hook, outcome)}", *call.within]
        if self._open:
            self._open[-1].within += [INDENT + line for line in lines]
            return
        for line in lines:
            LOGGER.info(line)


def _who(hook: str, signatures: list[Credit], implementations: Sequence[pluggy.HookImpl]) -> str:
    """Who answered and who adjusted; of onlookers, who was told."""
    mine = [each for each in signatures if each.hook == hook]
    answered = [each.plugin for each in mine if not each.adjusted]
    if hook_kind(hook) == "onlooker":
        answered = [each.plugin_name for each in reversed(implementations)]
    adjusted = [each.plugin for each in mine if each.adjusted]
    return (", ".join(answered) or "nobody") + (f", adjusted by {', '.join(adjusted)}" if adjusted else "")


def _result(hook: str, outcome: pluggy.Result[Any]) -> str:
    error = outcome.exception
    if error is not None:
        return f": raised {type(error).__name__}: {' '.join(str(error).split())}"
    return "" if hook_kind(hook) == "onlooker" else f": {short(outcome.get_result())}"


def short(value: object) -> str:
    """A value in a few words: its type, and how many it holds; text and numbers as they are."""
    if value is None or isinstance(value, str | int | float):
        text = repr(value)
    elif isinstance(value, dict):
        text = ", ".join(map(str, value)) or "none"
    elif isinstance(value, list):  # of what several plugins returned
        text = " + ".join(map(short, value)) or "none"
    elif isinstance(value, tuple):
        text = _several(value)
    else:
        text = type(value).__name__
    return text if len(text) <= TEXT_LIMIT else f"{text[: TEXT_LIMIT - 3]}..."


def _several(values: tuple[object, ...]) -> str:
    kinds = [type(each).__name__ for each in values]
    if len(set(kinds)) == 1:
        return f"{len(kinds)} {kinds[0]}"
    return ", ".join(kinds) or "none"


def _log_to_stderr() -> None:
    """Unless the program has made up its mind where logs go."""
    LOGGER.setLevel(logging.INFO)
    if LOGGER.hasHandlers():
        return
    handler = logging.StreamHandler()
    handler.setFormatter(logging.Formatter("anyvisor: %(message)s"))
    if sys.stderr is not None and sys.stderr.isatty():
        handler.terminator = "\r\n"  # a console may have made the terminal raw
    LOGGER.addHandler(handler)
