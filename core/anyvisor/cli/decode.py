"""`anyvisor decode`: bytes of tables from anywhere, in words."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from anyvisor.cli.failure import MISTAKE, Ended
from anyvisor.cli.output import one_line, print_json, section
from anyvisor.cli.places import Place
from anyvisor.cli.streams import say

if TYPE_CHECKING:
    from anyvisor.section import Section

MOST_BYTES = 1 << 30
"""Of a file; no table is longer, and no memory worth dumping for its tables."""


@click.command()
@click.argument("files", nargs=-1, required=True, metavar="FILE...", type=Place(allow_dash=True))
@click.option(
    "--kind",
    metavar="KIND",
    help="What the bytes are: acpi, mptable, smbios, cpuid, zero-page, start-info, mbi, gdt, gdt32 or memory; "
    "by default what they look like.",
)
@click.option("--full", is_flag=True, help="Show every line, also where many are alike.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def decode(files: tuple[Path, ...], kind: str | None, full: bool, as_json: bool) -> None:
    """Show what tables in FILEs say, whoever made them; - is standard input.

    It reads what Linux shows in /sys/firmware, dumps of QEMU's memory, and what acpidump, dmidecode, cpuid and
    `anyvisor dump` write. GDTs (gdt, gdt32) and multiboot information (mbi) have no mark: say --kind. The exit code is
    2 when a file is broken; the others are shown nevertheless.
    """
    from anyvisor.errors import AnyvisorError

    told: list[dict[str, Any]] = []
    broken = False
    for path in files:
        try:
            found, decoded = _decoded(path, kind)
        except (AnyvisorError, OSError) as error:
            broken = True
            told.append({"file": str(path), "error": str(error)})
            _say_error(path, error)
            continue
        told.append({"file": str(path), "kind": found, **decoded.to_data()} if as_json else {})
        if not as_json:
            section(f"{one_line(path)}: {decoded.title}", decoded.text if full else decoded.short)
    if as_json:
        print_json(told)
    if broken:
        raise Ended(MISTAKE)


def _decoded(path: Path, kind: str | None) -> tuple[str, Section]:
    """The kind of a file's bytes, and what they say."""
    from anyvisor.architectures import ARCHITECTURES, part
    from anyvisor.errors import PlanError

    parts = [part(each, "decode") for each in ARCHITECTURES]
    if kind and not any(kind in each.KINDS for each in parts):
        known = ", ".join(name for each in parts for name in each.KINDS)
        raise click.UsageError(f"there is no kind {kind!r}; there are {known}", click.get_current_context(silent=True))
    data = _read(path)
    for each in parts:
        found = kind if kind in each.KINDS else each.sniff(data, path.name) if kind is None else None
        if found:
            decoded: Section = each.decode(data, found)
            return found, decoded
    what = f"it begins with {data[:8].hex(' ')}" if data else "it is empty"
    raise PlanError(f"no table is known that looks like this, {what}; say what it is with --kind")


def _read(path: Path) -> bytes:
    from anyvisor.errors import PlanError

    if str(path) == "-":
        data = sys.stdin.buffer.read(MOST_BYTES + 1)
    else:
        with path.open("rb") as file:
            data = file.read(MOST_BYTES + 1)
    if len(data) > MOST_BYTES:
        raise PlanError(f"it has more than {MOST_BYTES >> 20} MiB; no more is read")
    return data


def _say_error(path: Path, error: Exception) -> None:
    text = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    say(f"error: {one_line(path)}: {one_line(text)}")
