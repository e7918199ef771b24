"""`anyvisor check`: what would keep a guest from starting, found before anything is started."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from anyvisor.cli.facts import backend_to_plan_for, facts_for
from anyvisor.cli.failure import MISTAKE, Ended
from anyvisor.cli.options import MachineOptions, machine_options
from anyvisor.cli.output import GAP, heading, one_line, print_json
from anyvisor.cli.places import Place

if TYPE_CHECKING:
    from anyvisor.finding import Finding
    from anyvisor.plan import BootPlan


@click.command()
@machine_options
@backend_to_plan_for
@click.option(
    "--plan",
    "kept",
    type=Place(exists=True, dir_okay=False),
    metavar="FILE",
    help="Check a plan that `anyvisor plan --json` wrote, and not a KERNEL.",
)
@click.option("--hints/--no-hints", default=True, help="Also tell what is worth a thought; by default it does.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def check(backend: str, kept: Path | None, hints: bool, as_json: bool, **options: Any) -> None:
    r"""Check the plan for booting KERNEL: registers, page tables, and everything that the kernel is told.

    Nothing is started and no hypervisor is needed. An error keeps the guest from running, a hint is worth a thought.
    The exit code is 2 when there is an error, and 0 when there are only hints.

    \b
    Examples:
      anyvisor check vmlinuz --initrd initrd.img --cpus 4
      anyvisor plan vmlinuz --json > plan.json
      anyvisor check --plan plan.json --no-hints
    """
    from anyvisor.checks import check as findings_of
    from anyvisor.checks import names
    from anyvisor.finding import Severity, errors

    plan = _kept(kept, options) if kept else _made(backend, options)
    found = [each for each in findings_of(plan) if hints or each.severity is Severity.ERROR]
    if as_json:
        print_json({"checks": names(plan.architecture), "findings": [_to_data(each) for each in found]})
    else:
        _show(found, len(names(plan.architecture)), _subject(plan))
    if wrong := errors(found):
        raise Ended(MISTAKE, f"{_count(len(wrong), 'error')} in the plan")


def _made(backend: str, options: dict[str, Any]) -> BootPlan:
    from anyvisor.assemble import assemble

    config = MachineOptions(**options).to_config()
    return assemble(config, facts_for(backend, config))


def _kept(path: Path, options: dict[str, Any]) -> BootPlan:
    from anyvisor.cli.plan import kept_plan

    if said := [name for name, value in options.items() if value not in (None, ())]:
        words = f"--plan checks a plan as it is, and a machine is described besides ({', '.join(said)})"
        raise click.UsageError(f"{words}; leave one out", click.get_current_context(silent=True))
    return kept_plan(path)


def _show(found: list[Finding], checks: int, subject: str) -> None:
    for each in found:
        heading(one_line(f"{each.severity.value}: {each.subject}: {each.problem}"))
        rows = (("found", each.found), ("wanted", each.wanted), ("rule", _rule(each)), ("remedy", each.remedy))
        click.echo("".join(f"{GAP}{name:<8}{one_line(text)}\n" for name, text in rows if text))
    click.echo(f"{checks} checks of {subject}: {_summary(found)}")


def _rule(finding: Finding) -> str:
    return f"{finding.check} ({finding.section})" if finding.section else finding.check


def _summary(found: list[Finding]) -> str:
    from anyvisor.finding import errors

    wrong = len(errors(found))
    parts = [_count(count, name) for count, name in ((wrong, "error"), (len(found) - wrong, "hint")) if count]
    return ", ".join(parts) or "nothing found"


def _subject(plan: BootPlan) -> str:
    """What was looked at, in words."""
    return f"the registers of {_count(len(plan.vcpus), 'vCPU')} and {_count(len(plan.blobs), 'piece')} of memory"


def _count(number: int, name: str) -> str:
    return f"{number} {name}{'s' * (number != 1)}"


def _to_data(finding: Finding) -> dict[str, Any]:
    import attrs

    return {**attrs.asdict(finding), "severity": finding.severity.value}
