"""`anyvisor boot`: a machine with its console on this terminal, from its first instruction to its end."""

from __future__ import annotations

import contextlib
import math
import os
import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from anyvisor.cli.attach import Attachment
from anyvisor.cli.death import out_of_time, tell_end
from anyvisor.cli.ending import told_in
from anyvisor.cli.failure import BY_SIGNAL, EXIT_CODES, Ended, signals_end_it
from anyvisor.cli.on_death import OnDeath, check, kept, on_death_option
from anyvisor.cli.options import MachineOptions, machine_options
from anyvisor.cli.places import BESIDE_CONSOLE
from anyvisor.cli.reporting import loaded, report_options, reported_on
from anyvisor.cli.streams import descriptor, say, tell
from anyvisor.cli.trace_exits import Traced, trace_options

if TYPE_CHECKING:
    from anyvisor.config import MachineConfig
    from anyvisor.hypervisor import Hypervisor
    from anyvisor.machine import Machine

ENDING_SIGNALS = [getattr(signal, name) for name in ("SIGTERM", "SIGHUP", "SIGQUIT") if hasattr(signal, name)]
ASKED_FOR = {"quit": signal.SIGINT, "unread": getattr(signal, "SIGPIPE", signal.SIGTERM)}
"""The signal that an end from this side of the console counts as."""


class Seconds(click.FloatRange):
    """A finite number of seconds, not 0."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """The number; a usage error when it is none, or not finite."""
        try:
            number = float(value)
        except ValueError:
            number = math.nan
        if not 0 < number < math.inf:
            self.fail(f"{value} is not a number of seconds above 0; without the option there is no limit.", param, ctx)
        return number


@click.command(epilog=EXIT_CODES)
@machine_options
@click.option(
    "--backend", default="auto", metavar="NAME", help="The hypervisor; auto takes the best that can be used here."
)
@click.option("--timeout", type=Seconds(min=0, min_open=True), metavar="SECONDS", help="End the machine then.")
@click.option("--record", type=BESIDE_CONSOLE, metavar="FILE", help="Write a trace of what the guest does there.")
@on_death_option
@report_options
@trace_options
def boot(
    backend: str,
    timeout: float | None,
    record: Path | None,
    on_death: OnDeath | None,
    symbols: Path | None,
    json_file: Path | None,
    traced: Traced,
    **options: Any,
) -> None:
    """Boot KERNEL, a bzImage or an ELF vmlinux, with its console on this terminal.

    Without a KERNEL it is this host's own, or its distribution's, fetched once; without an --initrd as well, it ends at
    a shell.

    The command ends when the machine does. On a terminal, Ctrl-A x ends the machine and Ctrl-A h shows the
    other keys; input that comes from elsewhere is typed until it ends, and then the guest goes on.
    """
    from anyvisor.backends import open_hypervisor
    from anyvisor.stock import STOCK_COMMAND_LINE

    with told_in(json_file) as ending, signals_end_it(*ENDING_SIGNALS):
        config = MachineOptions(**options).to_config(without_kernel=STOCK_COMMAND_LINE)
        check(on_death)
        with open_hypervisor(backend, config=config, tell=say) as hypervisor:
            facts = hypervisor.facts
            config = config if config.kernel else _with_stock_kernel(config)
            with (
                _launched(config, hypervisor, record, traced) as machine,
                reported_on(machine, loaded(symbols, config.kernel, facts.architecture), ending, facts.backend),
                kept(machine, on_death),
            ):
                _run(machine, timeout)


@contextlib.contextmanager
def _launched(config: MachineConfig, hypervisor: Hypervisor, record: Path | None, traced: Traced) -> Iterator[Machine]:
    """The machine, planned and launched; what is to be written of it meanwhile is written until it is closed."""
    from anyvisor.assemble import assemble
    from anyvisor.launch import launch

    plan = assemble(config, hypervisor.facts)
    shared = config.shared_memory
    with (
        traced() as trace,
        _recorded(hypervisor, record) as host,
        launch(plan, host, overcommit=config.overcommit, shared_memory=shared, trace_exits=trace) as machine,
    ):
        yield machine


def _recorded(hypervisor: Hypervisor, path: Path | None) -> Hypervisor:
    """The hypervisor; with a `path`, one that writes a trace there."""
    if path is None:
        return hypervisor
    from anyvisor.recording.recorder import Recorder

    return Recorder(hypervisor, path)


def _with_stock_kernel(config: MachineConfig) -> MachineConfig:
    """The configuration with a kernel to boot, and, where it has no initrd, with a shell to end at."""
    from anyvisor.debian import Packages
    from anyvisor.stock import stock_initramfs, stock_kernel

    with Packages(tell=say, progress=descriptor(sys.stderr)) as packages:
        kernel = stock_kernel(packages)
        return config.replace(kernel=kernel, initrd=config.initrd or stock_initramfs(packages))


def _run(machine: Machine, timeout: float | None) -> None:
    from anyvisor.errors import AnyvisorError, GuestError

    deadline = None if timeout is None else time.monotonic() + timeout
    asked: list[str] = []

    def end(reason: str) -> None:
        asked.append(reason)
        machine.request_stop("stopped")

    with _told(machine), contextlib.ExitStack() as stack:
        attached = Attachment(machine.console, end, machine.inspect) if machine.consoles else None
        attachment = stack.enter_context(attached) if attached else None
        machine.start()
        try:
            machine.wait(timeout)
        except TimeoutError:
            ended = out_of_time(machine, timeout or 0)
            if machine.outcome and machine.outcome.error:  # it has died while it was looked at
                raise machine.outcome.error from None
            raise ended from None
        except GuestError:
            raise
        except AnyvisorError as error:  # of a device: what is a mistake in a plan is none of the user's here
            raise GuestError(str(error)) from error
        finally:
            if attachment and machine.outcome and not asked:
                attachment.drain(deadline)
    lost = attachment.lost if attachment else None
    if lost:
        say("warning: some of the console's output is lost")
    if asked:
        raise Ended(BY_SIGNAL + ASKED_FOR[asked[0]])
    if machine.outcome:
        tell_end(machine, machine.outcome)
    if lost:
        raise lost


@contextlib.contextmanager
def _told(machine: Machine) -> Iterator[None]:
    """Say how the machine ended, once the terminal is as it was."""
    began = time.monotonic()
    try:
        yield
    finally:
        outcome = machine.stop()
        note = f" ({outcome.note})" if outcome.note else ""
        _begin_line(machine)
        say(f"machine ended: {outcome.reason} after {time.monotonic() - began:.1f} s{note}")


def _begin_line(machine: Machine) -> None:
    """Leave the line that the guest has not ended, where both it and we write to a terminal."""
    printed = machine.console.read_output()[0][-1:] if machine.consoles else b""
    if printed not in (b"", b"\n") and all(os.isatty(descriptor(each)) for each in (sys.stdout, sys.stderr)):
        tell("")
