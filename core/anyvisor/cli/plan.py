"""`anyvisor plan`: everything a boot would do, shown and not done."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from anyvisor.cli.facts import backend_to_plan_for, facts_for
from anyvisor.cli.options import MachineOptions, machine_options
from anyvisor.cli.output import print_json, section
from anyvisor.cli.places import Place, writing
from anyvisor.cli.streams import say

if TYPE_CHECKING:
    from anyvisor.facts import HostFacts
    from anyvisor.plan import BootPlan

MOST_BYTES = 1 << 28
"""Of a plan; one of a big machine has a few MiB."""


@click.command()
@machine_options
@backend_to_plan_for
@click.option("--full", is_flag=True, help="Show every line, also where many are alike.")
@click.option("--json", "as_json", is_flag=True, help="Print the plan itself: BootPlan.from_json reads it.")
@click.option("--decoded", is_flag=True, help="With --json: print what is shown, decoded, and not the plan.")
@click.option(
    "--svg",
    type=Place(dir_okay=False, allow_dash=True),
    metavar="FILE",
    help="Draw the memory map as a picture, into FILE.",
)
@click.option(
    "--diff",
    "kept",
    type=Place(exists=True, dir_okay=False),
    metavar="FILE",
    help="Show only what is different from the plan kept in FILE by --json.",
)
def plan(
    backend: str, full: bool, as_json: bool, decoded: bool, svg: Path | None, kept: Path | None, **options: Any
) -> None:
    """Show what booting KERNEL would put where: memory, tables, registers, and who provided each step.

    Tables are found as the guest will find them, and decoded. Nothing is started and no hypervisor is needed.
    """
    from anyvisor.assemble import assemble

    if decoded and not as_json:
        raise click.UsageError(
            "--decoded goes with --json; without it all is shown decoded", click.get_current_context()
        )
    config = MachineOptions(**options).to_config()
    facts = facts_for(backend, config)
    made = assemble(config, facts)
    if svg:
        _draw(made, svg)
    if kept:
        difference = kept_plan(kept).diff(made)
        print_json(difference.to_data()) if as_json else click.echo(str(difference))
    elif decoded:
        print_json([each.to_data() for each in _sections(made, facts)])
    elif as_json:
        click.echo(made.to_json())
    elif not svg:
        for each in _sections(made, facts):
            section(each.title, each.text if full else each.short)


def _sections(made: BootPlan, facts: HostFacts) -> list[Any]:
    from anyvisor.architectures import part

    sections: list[Any] = part(made.architecture, "describe").describe(made, facts)
    return sections


def _draw(made: BootPlan, path: Path) -> None:
    from anyvisor.architectures import part
    from anyvisor.picture import picture

    drawn = picture(made, part(made.architecture, "describe").landmarks(made))
    if str(path) == "-":
        click.echo(drawn, nl=False)
        return
    with writing(path), path.open("w", encoding="utf-8") as file:
        file.write(drawn)
    say(f"wrote {path}")


def kept_plan(path: Path) -> BootPlan:
    """The plan in a file that `anyvisor plan --json` wrote; PlanError when it is none."""
    from anyvisor.errors import PlanError
    from anyvisor.plan import BootPlan

    try:
        with path.open("rb") as file:
            data = file.read(MOST_BYTES + 1)
        if len(data) > MOST_BYTES:
            raise PlanError(f"it has more than {MOST_BYTES >> 20} MiB, and no plan has")
        return BootPlan.from_json(data)
    except (PlanError, OSError) as error:
        raise PlanError(f"{path}: {error}; keep a plan there with `anyvisor plan --json`") from error
