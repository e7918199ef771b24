"""What happens when a command goes wrong: one line on stderr, and an exit code scripts can tell apart."""

from __future__ import annotations

import contextlib
import errno
import signal
import sys
import warnings
from collections.abc import Iterator
from types import FrameType
from typing import TYPE_CHECKING, TextIO

import click

from anyvisor.cli.output import one_line
from anyvisor.cli.streams import about_output, flush, is_unread, say, settled, tell

if TYPE_CHECKING:
    from anyvisor.diagnosis import Cause

OK = 0
FAILURE = 1
MISTAKE = 2
CANNOT_RUN = 3
TIMEOUT = 4
BY_SIGNAL = 128
UNREAD = BY_SIGNAL + getattr(signal, "SIGPIPE", 13)
WRONG_FILE = (
    errno.ENOENT, errno.EACCES, errno.EPERM, errno.EISDIR, errno.ENOTDIR, errno.EEXIST, errno.EROFS, errno.ELOOP,
    errno.ENAMETOOLONG,
)  # fmt: skip
"""What is wrong with a file that another one would do for."""

EXIT_CODES = """\b
Exit codes:
  0    it worked; for boot: the guest ended by itself
  1    the guest (or its kernel: a panic), the hypervisor or a
       plugin failed, or the output cannot be written; for doctor,
       conformance and cpuid check: what they look for is missing
  2    a mistake in the command, a file, the configuration, the
       kernel or the plan
  3    it cannot be run here: there is no hypervisor (or not the
       one of --backend), or it or this host lacks what the
       machine needs
  4    the time given with --timeout is over
  128+ ended by a signal: 130 interrupted (also: by the escape
       key), 141 nobody reads the output, 143 terminated

\b
ANYVISOR_DEBUG=1 shows the traceback of an error."""


class Ended(Exception):
    """A command ends with that exit code, and with lines on stderr if there is something to say.

    `causes` are what those say of why it came to that.
    """

    def __init__(self, exit_code: int, message: str = "", causes: tuple[Cause, ...] = ()):
        self.exit_code = exit_code
        self.causes = causes
        super().__init__(message)


def exit_code(error: BaseException) -> int:
    """The exit code for an error that reached the command line."""
    from anyvisor import errors

    if isinstance(error, click.ClickException | Ended):
        return error.exit_code
    if is_unread(error):
        return UNREAD
    codes = (
        (KeyboardInterrupt | click.Abort, BY_SIGNAL + signal.SIGINT),
        (errors.HypervisorUnavailable | errors.Unsupported | errors.GuestMemoryError, CANNOT_RUN),
        (errors.ConfigError | errors.KernelImageError | errors.PlanError, MISTAKE),
        (errors.AnyvisorError, FAILURE),
    )  # the first that fits: there are errors of two kinds
    for kinds, code in codes:
        if isinstance(error, kinds):
            return code
    return MISTAKE if isinstance(error, OSError) and error.errno in WRONG_FILE else FAILURE


def message(error: BaseException) -> str:
    """What to say about an error; empty for one that says it all by its exit code."""
    if (said := about_output(error)) is not None:
        return said
    if isinstance(error, click.UsageError) and error.ctx:
        return f"{one_line(error.format_message())} (see {error.ctx.command_path} --help)"
    if isinstance(error, click.ClickException):
        return error.format_message()
    if isinstance(error, OSError) and error.strerror and error.filename:
        return one_line(f"{error.filename}: {error.strerror}")
    return str(error) or (type(error).__name__ if isinstance(error, OSError) else "")


def _told(error: BaseException) -> str:
    """What stands on stderr; on a death, the whole page. Empty where there is nothing to say."""
    from anyvisor.diagnosis.page import page
    from anyvisor.errors import GuestError
    from anyvisor.section import readable

    opening = "anyvisor: error: "
    if isinstance(error, GuestError) and error.report:
        return page(error.report, opening)
    text = readable(message(error))
    return text and f"{opening}{text}"


@contextlib.contextmanager
def reported() -> Iterator[None]:
    """Turn what is raised inside into `anyvisor: error: ...` and an exit code, plugins' warnings into lines.

    What is nobody's fault but ours (a TypeError, say) keeps its traceback; ANYVISOR_DEBUG shows the others'.
    """
    from anyvisor.errors import AnyvisorError
    from anyvisor.plugins import debugging

    with settled(), plugin_warnings():
        try:
            yield
            flush()
        except (AnyvisorError, OSError, click.ClickException, click.Abort, KeyboardInterrupt, Ended) as error:
            if debugging() and not isinstance(error, Ended | click.ClickException | click.Abort):
                raise
            if text := _told(error):
                tell(text)
            sys.exit(exit_code(error))


@contextlib.contextmanager
def past_click() -> Iterator[None]:
    """Let EPIPE of the block past click, which ends without a word for any; `reported` knows whose pipe it was."""
    try:
        yield
    except BrokenPipeError as error:
        raise Ended(exit_code(error), message(error)) from error


@contextlib.contextmanager
def plugin_warnings(*, shown: bool = True) -> Iterator[None]:
    """Say what is wrong with a plugin as `anyvisor: warning: ...`, not as a Python warning; or not at all."""
    from anyvisor.plugins import PluginWarning

    def show(
        message: Warning | str,
        category: type[Warning],
        filename: str,
        lineno: int,
        file: TextIO | None = None,
        line: str | None = None,
    ) -> None:
        if issubclass(category, PluginWarning):
            say(f"warning: {one_line(message)}")
        else:
            usual(message, category, filename, lineno, file, line)

    with warnings.catch_warnings():
        usual = warnings.showwarning
        warnings.simplefilter("always" if shown else "ignore", PluginWarning)
        warnings.showwarning = show
        yield


@contextlib.contextmanager
def signals_end_it(*numbers: int) -> Iterator[None]:
    """Let these signals end the block as an exception does, so that all is given back; exit code 128+n.

    The first one counts; those that follow are ignored, so that they do not disturb the cleaning up.
    """

    def end(number: int, frame: FrameType | None) -> None:  # noqa: ARG001
        for each in numbers:
            signal.signal(each, signal.SIG_IGN)
        raise Ended(BY_SIGNAL + number)

    before = {number: signal.signal(number, end) for number in numbers}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
