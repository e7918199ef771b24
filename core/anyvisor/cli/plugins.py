"""`anyvisor plugins`: which plugins there are, what they do, and what is wrong with them."""

from __future__ import annotations

import attrs
import click

from anyvisor.cli.failure import plugin_warnings
from anyvisor.cli.output import heading, one_line, print_json, table


@click.command()
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def plugins(as_json: bool) -> None:
    """List the plugins, in the order in which they are registered, and what is wrong with any of them."""
    from anyvisor.plugins import default_plugins

    with plugin_warnings(shown=False):  # they are on the list
        found = default_plugins()
    if as_json:
        infos, problems = ([attrs.asdict(each) for each in part] for part in (found.infos, found.problems))
        print_json({"plugins": infos, "problems": problems})
        return
    origin = [f"{info.distribution} {info.version}".strip() or "-" for info in found.infos]
    rows = zip(found.infos, origin, strict=True)
    table(
        ("plugin", "distribution", "module", "hooks"),
        [_row(info.name, where, info.module, info.hooks) for info, where in rows],
    )
    if found.problems:
        heading("\nProblems")
        for problem in found.problems:
            click.echo(f"  {one_line(problem)}")


def _row(name: str, origin: str, module: str, hooks: tuple[str, ...]) -> tuple[str, str, str, str]:
    return name, origin, module, " ".join(hook.removeprefix("anyvisor_") for hook in hooks)
