"""`anyvisor plugins`: which plugins there are, what they do, and what is wrong with them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import attrs
import click

from anyvisor.cli.failure import plugin_warnings
from anyvisor.cli.output import heading, one_line, print_json, table

if TYPE_CHECKING:
    from anyvisor.plugins import PluginInfo, PluginProblem


@click.command()
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def plugins(as_json: bool) -> None:
    """List the plugins, in the order in which they are registered, and what is wrong with any of them.

    `ms` is how long the import of a plugin's entry module took.
    """
    from anyvisor.plugins import default_plugins

    with plugin_warnings(shown=False):  # they are on the list
        found = default_plugins()
        found.check_names()
    if as_json:
        lists: dict[str, Sequence[PluginInfo | PluginProblem]]
        lists = {"plugins": found.infos, "blocked": found.blocked, "problems": found.problems}
        print_json({name: [attrs.asdict(each) for each in part] for name, part in lists.items()})
        return
    table(("plugin", "distribution", "module", "ms", "hooks"), [_row(info) for info in found.infos])
    _section("Blocked", [f"{info.name} ({info.module}{_of(info)})" for info in found.blocked])
    _section("Problems", [one_line(problem) for problem in found.problems])


def _row(info: PluginInfo) -> tuple[str, str, str, str, str]:
    origin = f"{info.distribution} {info.version}".strip() or "-"
    hooks = " ".join(hook.removeprefix("anyvisor_") for hook in info.hooks)
    return info.name, origin, info.module, f"{info.import_ms:.1f}", hooks


def _of(info: PluginInfo) -> str:
    return f" of {info.distribution} {info.version}" if info.distribution else ""


def _section(title: str, lines: list[str]) -> None:
    if lines:
        heading(f"\n{title}")
        for line in lines:
            click.echo(f"  {line}")
