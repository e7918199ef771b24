"""`anyvisor hooks`: which hooks there are, and who implements them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import attrs
import click

from anyvisor.cli.output import heading, print_json, section, table

if TYPE_CHECKING:
    from anyvisor.plugins import HookImplementation, HookInfo


@click.command()
@click.argument("name", required=False)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def hooks(name: str | None, as_json: bool) -> None:
    """List the hooks, or show the one called NAME, with or without `anyvisor_` before it.

    A hook that `replaces` has one result: the first that is not None, of the plugin that is asked first unless that
    returns None. One that `collects` joins the results of all. An `onlooker` is told.
    """
    from anyvisor.plugins import default_plugins

    found = {each.name: each for each in default_plugins().hooks}
    if name is None:
        _show_all(list(found.values()), as_json)
    else:
        _show(_find(name, found), as_json)


def _find(name: str, found: dict[str, HookInfo]) -> HookInfo:
    from anyvisor.plugins import likely_hook

    for each in (name, f"anyvisor_{name}"):
        if each in found:
            return found[each]
    raise click.UsageError(f"there is no hook {name!r}{likely_hook(name) or '; without a NAME you get a list'}")


def _show_all(found: list[HookInfo], as_json: bool) -> None:
    if as_json:
        print_json([_to_data(each) for each in found])
        return
    rows = [(each.name, each.kind, str(len(each.implementations)), _winner(each)) for each in found]
    table(("hook", "kind", "implementations", "who"), rows)


def _show(hook: HookInfo, as_json: bool) -> None:
    if as_json:
        print_json(_to_data(hook))
        return
    heading(hook.signature)
    click.echo(f"  {hook.kind}: {_winner(hook)}\n")
    section("Documentation", hook.documentation)
    lines = [_line(each) for each in hook.implementations]
    section("Implementations, in the order in which they are called", "\n".join(lines) or "none")


def _line(each: HookImplementation) -> str:
    return f"{each.plugin} ({each.module}){', a wrapper' if each.wrapper else ''}"


def _winner(hook: HookInfo) -> str:
    """Who decides."""
    adjust = [each.plugin for each in hook.implementations if each.wrapper]
    adjusted = f", adjusted by {', '.join(reversed(adjust))}" if adjust else ""
    if hook.kind == "replaces":
        return (f"{hook.asked_first} is asked first" if hook.asked_first else "nobody") + adjusted
    plain = [each.plugin for each in hook.implementations if not each.wrapper]
    return (", ".join(plain) or "nobody") + adjusted


def _to_data(hook: HookInfo) -> dict[str, object]:
    return {**attrs.asdict(hook), "asked_first": hook.asked_first}
