"""`--symbols` and `--json`: what the report on a guest is made with, and where it is written."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from anyvisor.cli.places import BESIDE_CONSOLE, Place
from anyvisor.cli.streams import say

if TYPE_CHECKING:
    from anyvisor.cli.ending import Ending
    from anyvisor.machine import Machine
    from anyvisor.symbols import Symbols

C = TypeVar("C", bound=Callable[..., Any])

_symbols = click.option(
    "--symbols",
    type=Place(readable=False),
    metavar="FILE",
    help="Names for addresses in the report: a System.map, a vmlinux or a bzImage.",
)
_json = click.option(
    "--json",
    "json_file",
    type=BESIDE_CONSOLE,
    metavar="FILE",
    help="Write there how it ended, with the report if that was not well.",
)


def report_options(command: C) -> C:
    """Decorator: give a command `symbols` and `json_file`."""
    return _symbols(_json(command))


def loaded(symbols: Path | None, kernel: Path | None, architecture: str) -> Symbols | None:
    """The symbols in a file, for that kernel; KernelImageError for one that has none. Those of another are told of."""
    if symbols is None:
        return None
    from anyvisor.symbols import Symbols

    found = Symbols.load(symbols)
    named, booted = (_release(each, architecture) for each in (symbols, kernel))
    if named and booted and named != booted:
        say(f"warning: {symbols} is Linux {named}, and the kernel is {booted}: names from there will be wrong")
    return found


def _release(path: Path | None, architecture: str) -> str:
    """The Linux that a file says it is; empty for one that does not say."""
    from anyvisor.architectures import part
    from anyvisor.errors import KernelImageError
    from anyvisor.image_file import ImageFile

    try:
        return str(part(architecture, "packed").release(ImageFile.open(path))) if path else ""
    except KernelImageError:
        return ""


@contextlib.contextmanager
def reported_on(machine: Machine, names: Symbols | None, ending: Ending | None, backend: str) -> Iterator[None]:
    """Let the report on a guest have names, and its machine's end be told, if that is wanted."""
    machine.symbols = names
    with ending.of(machine, backend) if ending else contextlib.nullcontext():
        yield
