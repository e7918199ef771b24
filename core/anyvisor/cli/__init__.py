"""The command line: `anyvisor COMMAND`, also as `python -m anyvisor COMMAND`.

Each command has a module of its own that is imported when it is called, and heavy things are imported
inside functions: asking for help must not cost what booting costs. Plugins add commands with the hook
`anyvisor_commands`.

Exit codes: see `anyvisor.cli.failure`.
"""

from __future__ import annotations

import functools
import sys
import warnings
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import click

from anyvisor.cli.failure import EXIT_CODES, MISTAKE, OK, past_click, reported

COMMANDS: Mapping[str, tuple[str, str]] = MappingProxyType(
    {
        "boot": ("anyvisor.cli.boot:boot", "Boot a kernel, with its console on this terminal."),
        "plan": ("anyvisor.cli.plan:plan", "Show what a boot would put where; needs no hypervisor."),
        "check": ("anyvisor.cli.check:check", "Check a plan for what would keep its guest from starting."),
        "cpuid": ("anyvisor.cli.cpuid:cpuid", "Look at CPU models: which processor a guest sees."),
        "dump": ("anyvisor.cli.dump:dump", "Write the tables of a plan as raw bytes, for other tools."),
        "decode": ("anyvisor.cli.decode:decode", "Read tables of any make back into words."),
        "backends": ("anyvisor.cli.backends:backends", "List the hypervisors, and why one cannot be used."),
        "conformance": ("anyvisor.cli.conformance:conformance", "Test whether a hypervisor does what it must."),
        "plugins": (
            "anyvisor.cli.plugins:plugins",
            "List the plugins, their hooks and what is wrong with them.",
        ),
        "hooks": ("anyvisor.cli.hooks:hooks", "List the hooks, or show one: what for, and who implements it."),
        "plugin": ("anyvisor.cli.plugin:plugin", "Begin a plugin of your own."),
        "doctor": ("anyvisor.cli.doctor:doctor", "Check whether this machine can run guests."),
    }
)
"""anyvisor's own commands: where each is, and its help in a line."""


class LazyGroup(click.Group):
    """A group that imports a command when it is called, and asks plugins for those it does not have."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002
        """Our own commands in their order, then those of plugins."""
        return [*COMMANDS, *sorted(self._foreign)]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002
        """The command of that name, imported; None when there is none."""
        from anyvisor.plugins import import_target

        if cmd_name in COMMANDS:
            target, whose = COMMANDS[cmd_name][0], "anyvisor"
        elif (found := self._foreign.get(cmd_name)) is not None:
            target, whose = found[0], f"plugin {found[1]}"
        else:
            return None
        command = import_target(target, f"command {cmd_name} of {whose}")
        if not isinstance(command, click.Command):
            from anyvisor.errors import PluginError

            raise PluginError(
                f"command {cmd_name} of {whose}: {target} is a {type(command).__name__}, not a click command"
            )
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:  # noqa: ARG002
        """The list in `--help`, without importing any of the commands."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, summary) for name, (_, summary) in COMMANDS.items()])
        if foreign := self._foreign:
            with formatter.section("Commands of plugins"):
                formatter.write_dl(
                    [(name, f"From the plugin {plugin}.") for name, (_, plugin) in sorted(foreign.items())]
                )

    def main(self, *args: Any, standalone_mode: bool = True, **extra: Any) -> Any:
        """Run a command; whatever goes wrong ends as one line on stderr and an exit code."""
        from anyvisor.plugins import choosing

        run = functools.partial(super().main, *args, standalone_mode=False, **extra)
        if not standalone_mode:
            return run()
        with reported(), choosing(None):
            code: Any = run()  # what ctx.exit() was given, or None
        sys.exit(code if isinstance(code, int) else OK)

    def make_context(self, *args: Any, **extra: Any) -> click.Context:
        """The context of a call; it prints the help if that is asked for."""
        with past_click():
            return super().make_context(*args, **extra)

    def invoke(self, ctx: click.Context) -> Any:
        """Call the command."""
        with past_click():
            return super().invoke(ctx)

    @property
    def _foreign(self) -> dict[str, tuple[str, str]]:
        """The commands of plugins; one that is broken, or has a name of ours, costs a warning only."""
        from anyvisor.errors import PluginError
        from anyvisor.plugins import PluginWarning, default_plugins

        plugins = default_plugins()
        try:
            offered = plugins.names_from("anyvisor_commands")
        except PluginError as error:
            if plugins.strict:
                raise
            warnings.warn(f"{error}; the commands of plugins are left out", PluginWarning, stacklevel=2)
            return {}
        for name in offered.keys() & COMMANDS.keys():
            plugins.report(offered.pop(name)[1], f"offers a command {name}, which anyvisor has itself; rename it there")
        return offered


def _show_version(ctx: click.Context, _: click.Parameter, wanted: bool) -> None:
    if wanted and not ctx.resilient_parsing:
        from anyvisor import __version__

        click.echo(f"anyvisor {__version__}")
        ctx.exit()


def _block(ctx: click.Context, parameter: click.Parameter, said: tuple[str, ...]) -> None:
    """What `-p` says, into the choice of plugins."""
    from anyvisor.plugins import choose_plugins, chosen

    for each in said:
        if not each.startswith("no:") or each == "no:":
            raise click.BadParameter(f"{each!r} is not of the form no:NAME; --plugin adds one", ctx, parameter)
    if said:
        choose_plugins(chosen().also(blocked=(each.removeprefix("no:") for each in said)))


def _put_first(ctx: click.Context, parameter: click.Parameter, modules: tuple[str, ...]) -> None:  # noqa: ARG001
    """What `--plugin` says, into the choice of plugins; each is imported now, whatever the command."""
    from anyvisor.plugins import choose_plugins, chosen, import_first

    if modules and not ctx.resilient_parsing:
        for module in modules:
            import_first(module)
        choose_plugins(chosen().also(first=modules))


@click.group(
    cls=LazyGroup,
    epilog=EXIT_CODES,
    invoke_without_command=True,
    context_settings={"help_option_names": ["-h", "--help"]},
)
@click.option(
    "--version",
    is_flag=True,
    is_eager=True,
    expose_value=False,
    callback=_show_version,
    help="Show the version.",
)
@click.option(
    "-p",
    "blocked",
    multiple=True,
    is_eager=True,
    expose_value=False,
    callback=_block,
    metavar="no:NAME",
    help="Leave a plugin out, also one of anyvisor's own; may be repeated.",
)
@click.option(
    "--plugin",
    "first",
    multiple=True,
    is_eager=True,
    expose_value=False,
    callback=_put_first,
    metavar="MODULE",
    help="Load a module as a plugin that comes before all others; may be repeated.",
)
@click.pass_context
def cli(ctx: click.Context) -> None:
    """Bring virtual machines to their first instruction, on any hypervisor."""
    if ctx.invoked_subcommand is None:
        click.echo(ctx.get_help(), err=True)
        ctx.exit(MISTAKE)


def main() -> None:
    """The console-script entry."""
    cli.main(prog_name="anyvisor")
