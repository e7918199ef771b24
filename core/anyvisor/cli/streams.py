"""Our own stdout and stderr when nobody reads them: `anyvisor plan vmlinuz | head`.

Some facts about closed pipes (signal(7), poll(2)). Who writes to a pipe whose readers have all gone gets SIGPIPE, and
ends by it without a word; a shell tells that as 128 and the signal's number. Python ignores the signal, so that the
write fails with EPIPE; click makes an exit code of 1 of every EPIPE, whatever it is of. A pipe without readers polls as
in error, and so it is told from a pipe of somebody else's. What a stream still holds is written when the interpreter
ends, which complains if that fails: then the stream must lead somewhere else by then.
"""

from __future__ import annotations

import contextlib
import os
import select
import sys
from collections.abc import Iterator
from traceback import walk_tb
from typing import IO, Any

import click


def descriptor(stream: IO[Any] | None) -> int:
    """The stream's descriptor; -1 for one that is closed or has none."""
    try:
        return -1 if stream is None else stream.fileno()
    except (OSError, ValueError):
        return -1


def say(message: str) -> None:
    """One line of our own on stderr; a stderr that is gone is no reason to fail."""
    tell(f"anyvisor: {message}")


def tell(text: str, *, newline: bool = True) -> None:
    """Text on stderr, if that can be written."""
    with contextlib.suppress(OSError, ValueError):
        click.echo(text, err=True, nl=newline)


def is_unread(error: BaseException) -> bool:
    """Whether this error is that nobody reads stdout or stderr any more."""
    return isinstance(error, BrokenPipeError) and any(map(_has_lost_its_reader, (sys.stdout, sys.stderr)))


def about_output(error: BaseException) -> str | None:
    """What to say of an error of stdout's, nothing where it has no reader; None for one of anything else."""
    if is_unread(error):
        return ""
    frames = (each for each, _ in walk_tb(error.__traceback__))
    if isinstance(error, OSError) and any(each.f_code is click.echo.__code__ for each in frames):
        return f"standard output cannot be written: {error.strerror}"
    return None


def _has_lost_its_reader(stream: IO[Any] | None) -> bool:
    fd = descriptor(stream)
    if fd < 0:
        return False
    if not hasattr(select, "poll"):
        return True
    poll = select.poll()
    poll.register(fd, 0)  # an error is told unasked
    return any(event & select.POLLERR for _, event in poll.poll(0))


def flush() -> None:
    """Write what stdout still holds; OSError when that fails."""
    if sys.stdout is not None and not sys.stdout.closed:
        sys.stdout.flush()


@contextlib.contextmanager
def settled() -> Iterator[None]:
    """However the block ends, the interpreter's own end finds nothing that it could not write."""
    try:
        yield
    finally:
        for stream in (sys.stdout, sys.stderr):
            _settle(stream)


def _settle(stream: IO[Any] | None) -> None:
    try:
        if stream is not None:
            stream.flush()
    except ValueError:  # it is closed
        return
    except OSError:
        with contextlib.suppress(OSError):
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, descriptor(stream))
            os.close(nowhere)
