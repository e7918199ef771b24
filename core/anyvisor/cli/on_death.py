"""`--on-death`: what is done with a guest that did not end well."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import click

from anyvisor.cli.failure import FAILURE, TIMEOUT, Ended, message
from anyvisor.cli.places import BESIDE_CONSOLE
from anyvisor.cli.streams import say

if TYPE_CHECKING:
    from anyvisor.machine import Machine

OnDeath = tuple[str, Path]
"""What to do, and where."""

on_death_option = click.option(
    "--on-death",
    nargs=2,
    type=(click.Choice(["dump"]), BESIDE_CONSOLE),
    metavar="dump DIR",
    help="Keep the memory and registers of a guest that dies, panics or is out of time, and the report on it.",
)


def check(wanted: OnDeath | None) -> None:
    """ConfigError, before there is a guest, when nothing could be kept of it."""
    if wanted:
        from anyvisor.death_dump import check_place

        check_place(wanted[1])
        _try_out(wanted[1])


def _try_out(place: Path) -> None:
    """ConfigError where no directory can be made: there are more reasons than permissions tell."""
    from anyvisor.errors import ConfigError

    try:
        there = next(each for each in (place, *place.absolute().parents) if each.is_dir())
        with contextlib.suppress(FileNotFoundError):
            place.stat()
        Path(tempfile.mkdtemp(dir=there)).rmdir()
    except OSError as error:
        raise ConfigError(f"{place}: a dump cannot be made there: {error.strerror}; name another directory") from error


@contextlib.contextmanager
def kept(machine: Machine, wanted: OnDeath | None) -> Iterator[None]:
    """Dump the machine at the end of the block, if that is wanted and the guest has died: its vCPUs stand still then.

    What goes wrong with that is told, and hides nothing.
    """
    from anyvisor.errors import AnyvisorError

    try:
        yield
    except (AnyvisorError, Ended) as error:
        if wanted and (not isinstance(error, Ended) or error.exit_code in (FAILURE, TIMEOUT)):
            _dump(machine, wanted[1])
        raise


def _dump(machine: Machine, directory: Path) -> None:
    from anyvisor.death_dump import dump_machine
    from anyvisor.errors import AnyvisorError

    try:
        made = dump_machine(machine, directory)
    except (AnyvisorError, OSError) as error:
        say(f"warning: the guest could not be kept in {directory}: {message(error)}")
    except BaseException:  # a signal, most likely
        say(f"warning: interrupted: what there is of the guest in {directory} is not complete")
        raise
    else:
        say(f"the guest is kept in {made.directory}: {made.debugger}")
