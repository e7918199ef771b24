"""`anyvisor backends`: which hypervisors there are, and why one cannot be used."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from anyvisor.cli.output import heading, print_json

if TYPE_CHECKING:
    from anyvisor.backends import BackendStatus
    from anyvisor.facts import HostFacts


@click.command()
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def backends(as_json: bool) -> None:
    """List the hypervisors: whether each can be used here, what it can do, and if not, why."""
    from anyvisor.backends import hypervisors

    found = hypervisors()
    if as_json:
        print_json([to_data(status) for status in found])
        return
    for status in found:
        heading(f"{status.name}: {'available' if status.available else 'not available'}")
        for line in (
            _facts(status.facts) if status.facts else [status.reason, f"remedy: {status.remedy or 'none known'}"]
        ):
            click.echo(f"  {line}")
        click.echo(f"  from the plugin {status.plugin}")


def to_data(status: BackendStatus) -> dict[str, Any]:
    """A backend's status for JSON: the facts are those that fit in a line each."""
    facts = status.facts
    return {
        "name": status.name,
        "plugin": status.plugin,
        "available": status.available,
        "reason": status.reason,
        "remedy": status.remedy,
        "facts": facts
        and {
            "architecture": facts.architecture,
            "capabilities": sorted(each.value for each in facts.capabilities),
            "states": list(facts.states),
            "modes": list(facts.modes),
            "max_vcpus": facts.max_vcpus,
            "recommended_vcpus": facts.recommended_vcpus,
            "max_memory_slots": facts.max_memory_slots,
            "physical_address_bits": facts.physical_address_bits,
            "notes": list(facts.notes),
        },
    }


def _facts(facts: HostFacts) -> list[str]:
    vcpus = (
        f"up to {facts.max_vcpus} vCPUs (recommended: {facts.recommended_vcpus})" if facts.max_vcpus > 1 else "1 vCPU"
    )
    regions = f"{facts.max_memory_slots} memory region{'s' if facts.max_memory_slots > 1 else ''}"
    memory = f"{regions}, {facts.physical_address_bits} address bits"
    return [
        f"{facts.architecture} ({', '.join(facts.modes) or 'executes nothing'}), {vcpus}, {memory}",
        f"can do: {', '.join(sorted(each.value for each in facts.capabilities)) or 'nothing special'}",
        *(f"note: {note}" for note in facts.notes),
    ]
