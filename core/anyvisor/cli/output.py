"""Printing what commands have to say: plain text that reads well anywhere, prettier on a terminal with rich
installed.
"""

from __future__ import annotations

import importlib.util
import json
import sys
from collections.abc import Iterable, Sequence
from typing import Any

import click

GAP = "  "


def print_json(data: Any) -> None:
    """Plain values as JSON, for other programs."""
    click.echo(json.dumps(data, indent=1, ensure_ascii=False))


def one_line(text: object) -> str:
    """Text of several lines, as strangers' messages may be, in one."""
    return " ".join(str(text).split())


def heading(title: str) -> None:
    """A section's title, bold where that can be seen."""
    click.secho(title, bold=True)


def section(title: str, text: str) -> None:
    """A titled block of text, indented, with an empty line after it."""
    heading(title)
    click.echo("".join(f"{GAP}{line}\n" for line in text.splitlines()))


def table(titles: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """Rows under titles: columns as wide as they must be, the last one free to run on."""
    listed = [list(row) for row in rows]
    if is_pretty():
        _rich_table(titles, listed)
        return
    for line in _lines([list(titles), *listed]):
        click.echo(line)


def is_pretty() -> bool:
    """Whether to print with rich: stdout is a terminal and rich is installed."""
    return sys.stdout.isatty() and importlib.util.find_spec("rich") is not None


def _lines(rows: list[list[str]]) -> list[str]:
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return [GAP.join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]


def _rich_table(titles: Sequence[str], rows: list[list[str]]) -> None:
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    shown = Table(*titles, box=box.SIMPLE_HEAD)
    for row in rows:
        shown.add_row(*(Text(cell) for cell in row))
    Console().print(shown)
