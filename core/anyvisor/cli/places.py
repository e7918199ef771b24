"""Files and directories that are named on the command line."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click


class Place(click.Path):
    """The path of a file or directory: an empty one, as of a variable that is not set, is a mistake.

    So is `-` with `dash`, which says why it is none.
    """

    def __init__(self, dash: str = "", **options: Any):
        super().__init__(path_type=Path, **options)
        self._dash = dash

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """The path; a usage error for what is none."""
        if not os.fspath(value):
            self.fail("the name is empty; give one, or leave it out.", param, ctx)
        if self._dash and os.fspath(value) == "-":
            self.fail(f"- is no file here: {self._dash}", param, ctx)
        return super().convert(value, param, ctx)


BESIDE_CONSOLE = Place("standard output is the guest's console; name a file.")
"""What a boot writes, besides what its guest prints."""


@contextlib.contextmanager
def writing(path: os.PathLike[str] | str) -> Iterator[None]:
    """A block that writes a file: an error in it, such as that of a full disk, has the file's name."""
    try:
        yield
    except OSError as error:
        if error.filename is None:
            raise OSError(error.errno, error.strerror, os.fspath(path)) from error
        raise
