"""`--trace-exits`: every exit of the guest, in a file."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from anyvisor.cli.places import BESIDE_CONSOLE
from anyvisor.cli.streams import say

if TYPE_CHECKING:
    from anyvisor.exit_trace import ExitTrace

C = TypeVar("C", bound=Callable[..., Any])

Traced = Callable[[], "AbstractContextManager[ExitTrace | None]"]
"""Opens the trace for a block, if one is wanted."""


def trace_options(command: C) -> C:
    """Decorator: give a command `--trace-exits` and `--trace-rate`, as its argument `traced`: see `Traced`."""

    @click.option("--trace-exits", type=BESIDE_CONSOLE, metavar="FILE", help="Write every exit there, as JSON lines.")
    @click.option(
        "--trace-rate",
        type=click.IntRange(min=1),
        metavar="N",
        help="At most N exits a second; 10000 by default.",
    )
    @functools.wraps(command)
    def with_traced(*arguments: Any, trace_exits: Path | None, trace_rate: int | None, **named: Any) -> Any:
        if trace_exits is None and trace_rate is not None:
            raise click.UsageError("--trace-rate is for --trace-exits FILE", click.get_current_context(silent=True))
        return command(*arguments, traced=functools.partial(_traced, trace_exits, trace_rate), **named)

    return with_traced  # type: ignore[return-value]


@contextlib.contextmanager
def _traced(path: Path | None, per_second: int | None) -> Iterator[ExitTrace | None]:
    if path is None:
        yield None
        return
    from anyvisor.exit_trace import PER_SECOND, ExitTrace

    with ExitTrace(path, per_second=per_second or PER_SECOND) as trace:
        try:
            yield trace
        finally:
            _tell(trace)


def _tell(trace: ExitTrace) -> None:
    """Say what the trace lacks."""
    if trace.error is not None:
        say(f"warning: {trace.path}: {trace.error.strerror}")
    elif trace.skipped:
        say(f"{trace.path} lacks {trace.skipped} exits, beyond its rate or limit; its lines say where")
