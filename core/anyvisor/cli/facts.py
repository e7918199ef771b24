"""What commands that only plan know of a host: the option that names one, and the facts that it stands for."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

import click

from anyvisor.cli.streams import say

if TYPE_CHECKING:
    from anyvisor.config import MachineConfig
    from anyvisor.facts import HostFacts

NO_BACKEND = "none"

backend_to_plan_for = click.option(
    "--backend",
    default=NO_BACKEND,
    show_default=True,
    metavar="NAME",
    help="Plan for this hypervisor (or auto) on this host; none plans for a plain machine that can give the CPU model.",
)
"""Decorator: give a command `--backend`, as the keyword argument `backend`."""


def facts_for(backend: str, config: MachineConfig) -> HostFacts:
    """The facts of a backend on this host; for `none`, those of a plain machine that can give the CPU model."""
    from anyvisor.architectures import part
    from anyvisor.backends import generic_facts, open_hypervisor

    if backend == NO_BACKEND:
        facts = generic_facts()
        models = part(facts.architecture, "cpu_models")
        template = models.cpu_model(config.cpu).template
        return facts if template.from_host else cast("HostFacts", models.host_for(template))
    with open_hypervisor(backend, config=config, tell=say) as hypervisor:
        return hypervisor.facts
