"""`anyvisor cpuid`: CPU models, looked at, compared, and checked against a host."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

import click

from anyvisor.cli.failure import FAILURE, MISTAKE
from anyvisor.cli.output import print_json, section, table

if TYPE_CHECKING:
    from anyvisor.config import Topology
    from anyvisor.facts import HostFacts
    from anyvisor.x86_64.cpu_models import CpuModel
    from anyvisor.x86_64.cpuid import Cpuid

C = TypeVar("C", bound=Callable[..., Any])
NO_BACKEND, AUTO = "none", "auto"
_COUNT = click.IntRange(min=1)
_BACKEND_HELP = (
    "As this hypervisor (or auto) gives it on this host; none, the default but for host, as a host that has everything."
)


def _backend(default: str | None, text: str) -> Callable[[C], C]:
    return click.option("--backend", default=default, metavar="NAME", help=text)


_json = click.option("--json", "as_json", is_flag=True, help="Print JSON.")


@click.group(invoke_without_command=True)
@click.pass_context
def cpuid(ctx: click.Context) -> None:
    """Look at CPU models: which processor a guest sees."""
    if ctx.invoked_subcommand is None:
        click.echo(ctx.get_help(), err=True)
        ctx.exit(MISTAKE)


@cpuid.command()
@_backend(None, "Say too whether this hypervisor (or auto) can give each on this host.")
@_json
def models(backend: str | None, as_json: bool) -> None:
    """List the CPU models that anyvisor brings."""
    from anyvisor.x86_64.cpu_models import cpu_model, model_names

    facts = _facts(backend) if backend else None
    found = [cpu_model(name) for name in model_names()]
    missing = {model.name: [str(each) for each in model.missing(facts)] for model in found} if facts else {}
    if as_json:
        print_json(
            [
                {"name": model.name, "description": model.description, "missing": missing.get(model.name)}
                for model in found
            ]
        )
    elif facts:
        rows = [(model.name, _availability(missing[model.name]), model.description) for model in found]
        table(("model", "here", "what it is"), rows)
    else:
        table(("model", "what it is"), [(model.name, model.description) for model in found])


def _availability(missing: list[str]) -> str:
    return f"no: {len(missing)} missing" if missing else "yes"


@cpuid.command()
@click.argument("model", default="host")
@_backend(None, _BACKEND_HELP)
@click.option("--vcpu", type=click.IntRange(min=0), metavar="N", help="The table of this vCPU; 0 by default.")
@click.option("--sockets", type=_COUNT, default=1, metavar="N", help="Processor packages.")
@click.option("--dies", type=_COUNT, default=1, metavar="N", help="Dies in a package.")
@click.option("--cores", type=_COUNT, default=1, metavar="N", help="Cores in a die.")
@click.option("--threads", type=_COUNT, default=1, metavar="N", help="Hardware threads in a core.")
@_json
@click.option("--raw", is_flag=True, help="Print the text that `cpuid -f` reads; of all vCPUs, unless one is named.")
def show(model: str, backend: str | None, vcpu: int | None, as_json: bool, raw: bool, **counts: int) -> None:
    """Show the CPUID table that a guest with that MODEL gets: a name, or the file of a template; host by default."""
    from anyvisor.config import Topology
    from anyvisor.x86_64.cpu_models import cpu_model

    found, topology = cpu_model(model), Topology(**counts)
    facts = _facts_for(found, backend)
    base = found.cpuid(facts)
    if raw:
        numbers = range(topology.vcpus) if vcpu is None else [vcpu]
        click.echo("".join(_table(facts, topology, number, base).to_raw_dump(number) for number in numbers), nl=False)
        return
    seen = _table(facts, topology, vcpu or 0, base)
    if as_json:
        print_json(_to_data(seen))
        return
    _print_words(seen)


def _print_words(seen: Cpuid) -> None:
    from anyvisor.x86_64.cpuid_words import sections

    for title, lines in sections(seen):
        section(title, "\n".join(lines))


def _to_data(seen: Cpuid) -> dict[str, Any]:
    return {
        "vendor": seen.vendor,
        "family": seen.family,
        "model": seen.model,
        "stepping": seen.stepping,
        "brand": seen.brand,
        "hypervisor": seen.hypervisor,
        "physical_address_bits": seen.physical_address_bits,
        "apic_id": seen.apic_id,
        "features": sorted(each.name.lower() for each in seen.features),
        "entries": [
            {"leaf": each.leaf, "subleaf": each.subleaf if each.indexed else None}
            | dict(zip(("eax", "ebx", "ecx", "edx"), each.registers, strict=True))
            for each in seen
        ],
    }


@cpuid.command()
@click.argument("first", metavar="A")
@click.argument("second", metavar="B")
@_backend(None, _BACKEND_HELP)
@_json
def diff(first: str, second: str, backend: str | None, as_json: bool) -> None:
    """Show what the model B changes in the model A, a line each: `+AVX2`, `-PCID`, or a register's two values.

    Nothing is checked against a host. The exit code is 0 whether or not there are differences.
    """
    from anyvisor.config import Topology
    from anyvisor.x86_64.cpu_models import cpu_model
    from anyvisor.x86_64.cpuid_words import differences

    pair = cpu_model(first), cpu_model(second)
    needs_host = any(model.template.from_host for model in pair)
    before, after = (
        _table(facts, Topology(), 0, model.asked(facts))
        for model in pair
        for facts in [_facts_for(model, backend or (AUTO if needs_host else None))]
    )
    lines = differences(before, after)
    if as_json:
        print_json(lines)
        return
    click.echo("\n".join(lines) or f"no difference between {first} and {second}")


@cpuid.command()
@click.argument("model")
@_backend(AUTO, "Of which hypervisor; by default the best that can be used here.")
@_json
@click.pass_context
def check(ctx: click.Context, model: str, backend: str, as_json: bool) -> None:
    """Say whether this host can give a guest that MODEL, and list each thing that it cannot give.

    The exit code is 0 when it can and 1 when something is missing.
    """
    from anyvisor.x86_64.cpu_models import cpu_model

    found, facts = cpu_model(model), _facts(backend)
    missing, notes = found.missing(facts), found.notes(facts)
    if as_json:
        things = [{"name": each.name, "place": each.place} for each in missing]
        print_json({"model": model, "backend": facts.backend, "missing": things, "notes": list(notes)})
    else:
        for each in missing:
            click.echo(f"missing: {each}")
        for note in notes:
            click.echo(f"note: {note}")
        verdict = f"cannot have {model}: {len(missing)} missing" if missing else f"can have {model}"
        click.echo(f"a guest of {facts.backend} on this host {verdict}")
    ctx.exit(FAILURE if missing else 0)


def _table(facts: HostFacts, topology: Topology, vcpu: int, base: Cpuid) -> Cpuid:
    from anyvisor.x86_64.cpuid_policy import for_vcpu

    return for_vcpu(facts, topology, vcpu, base)


def _facts_for(model: CpuModel, backend: str | None) -> HostFacts:
    """The host's facts, or those of a host that has everything; where a model is the host's, of the real one."""
    from anyvisor.x86_64.cpu_models import host_for

    backend = backend or (AUTO if model.template.from_host else NO_BACKEND)
    return host_for(model.template) if backend == NO_BACKEND else _facts(backend)


def _facts(backend: str) -> HostFacts:
    from anyvisor.backends import generic_facts, open_hypervisor
    from anyvisor.cli.streams import say
    from anyvisor.errors import ConfigError

    if backend == NO_BACKEND:
        return generic_facts()
    with open_hypervisor(backend, tell=say) as hypervisor:
        facts = hypervisor.facts
    if facts.architecture != "x86_64":
        raise ConfigError(f"the {backend} backend has {facts.architecture} guests here; CPU models are for x86_64")
    return facts
