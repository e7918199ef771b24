"""`--symbols` and `--json`: what the report on a guest's death is made with, and where it is written."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from anyvisor.cli.attach import say
from anyvisor.private_file import private

if TYPE_CHECKING:
    from anyvisor.machine import Machine

C = TypeVar("C", bound=Callable[..., Any])

_symbols = click.option(
    "--symbols",
    type=click.Path(path_type=Path, readable=False),
    metavar="FILE",
    help="Names for addresses if the guest dies: a System.map, a vmlinux or a bzImage.",
)
_json = click.option(
    "--json", "json_file", type=click.Path(path_type=Path), metavar="FILE", help="Write the report there if it dies."
)


def report_options(command: C) -> C:
    """Decorator: give a command `symbols` and `json_file`."""
    return _symbols(_json(command))


@contextlib.contextmanager
def reported_on(machine: Machine, symbols: Path | None, json_file: Path | None) -> Iterator[None]:
    """Let the report of a guest that dies in the block have names, and write it to a file.

    KernelImageError for a file without symbols, ConfigError where no report can be written, before the guest runs.
    """
    from anyvisor.errors import GuestError

    if json_file:
        _check_place(json_file)
    if symbols:
        from anyvisor.symbols import Symbols

        machine.symbols = Symbols.load(symbols)
    try:
        yield
    except GuestError as error:
        if json_file and error.report:
            _write(json_file, error.report.to_data())
        raise


def _check_place(path: Path) -> None:
    from anyvisor.errors import ConfigError

    folder = path.absolute().parent
    if path.is_dir():
        raise ConfigError(f"{path}: the report needs a file, and this is a directory; name a file in it")
    if not folder.is_dir():
        raise ConfigError(f"{path}: the report cannot be written there: there is no directory {folder}; make it")
    if not os.access(path if path.exists() else folder, os.W_OK):
        raise ConfigError(f"{path}: the report cannot be written there: no permission; name another file")


def _write(path: Path, data: dict[str, Any]) -> None:
    """Write the file; what is wrong with that is told, and hides no death."""
    try:
        with open(path, "w", encoding="utf-8", opener=private) as file:
            json.dump(data, file, indent=1, ensure_ascii=False)
            file.write("\n")
    except OSError as error:
        say(f"warning: {path}: the report could not be written: {error.strerror}")
