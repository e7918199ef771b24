"""`anyvisor plugin new`: a ready project for a plugin of one's own."""

from __future__ import annotations

from pathlib import Path

import click

KINDS = ("backend", "step", "device")


@click.group()
def plugin() -> None:
    """Begin a plugin of your own."""


@plugin.command()
@click.argument("name")
@click.option("--kind", type=click.Choice(KINDS), required=True, help="What it adds to anyvisor.")
@click.option(
    "--directory",
    type=click.Path(path_type=Path),
    metavar="DIR",
    help="Where to write it, a new or empty directory; by default anyvisor-NAME here.",
)
def new(name: str, kind: str, directory: Path | None) -> None:
    """Write a project for a plugin called NAME: a package that can be installed, with tests that pass.

    It becomes the distribution anyvisor-NAME with the module anyvisor_NAME. What it does is an example of its kind, to
    be made into what you want.
    """
    from anyvisor.plugins.project import write_project

    written = write_project(name, kind, directory)
    for path in sorted(each for each in written.rglob("*") if each.is_file()):
        click.echo(path)
    click.echo(f"\nNow: cd {written} && pip install -e '.[test]' && pytest; its README.md says more", err=True)
