"""`anyvisor plugin new`: a ready project for a plugin of one's own."""

from __future__ import annotations

from pathlib import Path

import click

from anyvisor.cli.failure import MISTAKE
from anyvisor.cli.places import Place, writing
from anyvisor.cli.streams import tell

KINDS = ("backend", "step", "device")


@click.group(invoke_without_command=True)
@click.pass_context
def plugin(ctx: click.Context) -> None:
    """Begin a plugin of your own."""
    if ctx.invoked_subcommand is None:
        click.echo(ctx.get_help(), err=True)
        ctx.exit(MISTAKE)


@plugin.command()
@click.argument("name")
@click.option("--kind", type=click.Choice(KINDS), required=True, help="What it adds to anyvisor.")
@click.option(
    "--directory",
    type=Place(),
    metavar="DIR",
    help="Where to write it, a new or empty directory; by default anyvisor-NAME here.",
)
def new(name: str, kind: str, directory: Path | None) -> None:
    """Write a project for a plugin called NAME: a package that can be installed, with tests that pass.

    It becomes the distribution anyvisor-NAME with the module anyvisor_NAME. What it does is an example of its kind, to
    be made into what you want.
    """
    from anyvisor.plugins.project import write_project

    with writing(directory or Path()):
        written = write_project(name, kind, directory)
    for path in sorted(each for each in written.rglob("*") if each.is_file()):
        click.echo(path)
    tell(f"\nNow: cd {written} && pip install -e '.[test]' && pytest; its README.md says more")
