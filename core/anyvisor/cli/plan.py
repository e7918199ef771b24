"""`anyvisor plan`: everything a boot would do, shown and not done."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from anyvisor.cli.attach import say
from anyvisor.cli.options import MachineOptions, machine_options
from anyvisor.cli.output import print_json, section

if TYPE_CHECKING:
    from anyvisor.config import MachineConfig
    from anyvisor.facts import HostFacts
    from anyvisor.plan import BootPlan

NO_BACKEND = "none"


@click.command()
@machine_options
@click.option(
    "--backend",
    default=NO_BACKEND,
    show_default=True,
    metavar="NAME",
    help="Plan for this hypervisor (or auto) on this host; none plans for a plain machine.",
)
@click.option("--json", "as_json", is_flag=True, help="Print the plan itself: BootPlan.from_json reads it.")
@click.option(
    "--diff",
    "kept",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    metavar="FILE",
    help="Show only what is different from the plan kept in FILE by --json.",
)
def plan(backend: str, as_json: bool, kept: Path | None, **options: Any) -> None:
    """Show what booting KERNEL would put where: memory, tables, registers, and who provided each step.

    Nothing is started and no hypervisor is needed.
    """
    from anyvisor.architectures import part
    from anyvisor.assemble import assemble

    config = MachineOptions(**options).to_config()
    facts = _facts(backend, config)
    made = assemble(config, facts)
    if kept:
        difference = _kept(kept).diff(made)
        print_json(difference.to_data()) if as_json else click.echo(str(difference))
        return
    if as_json:
        click.echo(made.to_json())
        return
    for title, text in part(made.architecture, "describe").describe(made, facts):
        section(title, text)


def _kept(path: Path) -> BootPlan:
    from anyvisor.errors import PlanError
    from anyvisor.plan import BootPlan

    try:
        return BootPlan.from_json(path.read_bytes())
    except (PlanError, OSError) as error:
        raise PlanError(f"{path}: {error}; keep a plan there with `anyvisor plan --json`") from error


def _facts(backend: str, config: MachineConfig) -> HostFacts:
    from anyvisor.backends import generic_facts, open_hypervisor

    if backend == NO_BACKEND:
        return generic_facts()
    with open_hypervisor(backend, config=config, tell=say) as hypervisor:
        return hypervisor.facts
