"""`anyvisor plan`: everything a boot would do, shown and not done."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from anyvisor.cli.attach import say
from anyvisor.cli.options import MachineOptions, machine_options
from anyvisor.cli.output import section

if TYPE_CHECKING:
    from anyvisor.config import MachineConfig
    from anyvisor.facts import HostFacts

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
def plan(backend: str, as_json: bool, **options: Any) -> None:
    """Show what booting KERNEL would put where: memory, tables, registers, and who provided each step.

    Nothing is started and no hypervisor is needed.
    """
    from anyvisor.architectures import part
    from anyvisor.assemble import assemble

    config = MachineOptions(**options).to_config()
    facts = _facts(backend, config)
    made = assemble(config, facts)
    if as_json:
        click.echo(made.to_json())
        return
    for title, text in part(made.architecture, "describe").describe(made, facts):
        section(title, text)


def _facts(backend: str, config: MachineConfig) -> HostFacts:
    from anyvisor.backends import generic_facts, open_hypervisor

    if backend == NO_BACKEND:
        return generic_facts()
    with open_hypervisor(backend, config=config, tell=say) as hypervisor:
        return hypervisor.facts
