"""`anyvisor conformance`: does a hypervisor do all that its protocols promise."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import tempfile
import threading
from collections.abc import Iterator
from typing import TYPE_CHECKING

import click

from anyvisor.cli.failure import BY_SIGNAL, FAILURE, OK
from anyvisor.cli.output import GAP, heading, print_json, table

if TYPE_CHECKING:
    from anyvisor.testing.report import Report, Result


FEW = 3
"""So many failures need no advice on where to begin."""


@click.command()
@click.option("--backend", metavar="NAME", required=True, help="The hypervisor; `anyvisor backends` lists them.")
@click.option("--match", metavar="EXPR", default="", help="Only tests whose names fit, such as 'kick and not spin'.")
@click.option("--version", type=int, metavar="N", help="Leave out what came after this version of the suite.")
@click.option("--first", is_flag=True, help="End at the first failure.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.pass_context
def conformance(ctx: click.Context, backend: str, match: str, version: int | None, first: bool, as_json: bool) -> None:
    """Run the conformance suite on a hypervisor: every contract of Hypervisor, Vm and Vcpu.

    Needs pytest and hypothesis: pip install 'anyvisor[testing]'. The exit code is 1 when a test fails.
    """
    from anyvisor.testing.run import run_conformance

    try:
        with _nothing_kept():
            report = run_conformance(backend, match=match, version=version, first=first)
    except KeyboardInterrupt:
        _end_at_once_if_stuck(BY_SIGNAL + signal.SIGINT)
        raise
    if as_json:
        print_json(report.to_data())
    else:
        show(report)
    code = OK if report.passed else FAILURE
    _end_at_once_if_stuck(code)
    ctx.exit(code)


def show(report: Report) -> None:
    """The report in words: a table of the contracts, what was left out and why, each failure, and the verdict."""
    from anyvisor.testing.report import OUTCOMES

    rows = [(name, *(str(counts[each]) for each in OUTCOMES)) for name, counts in report.contracts.items()]
    table(("contract", *OUTCOMES), rows)
    if report.skipped:
        click.echo()
        heading(f"not asked of {report.backend}")
        for need, results in report.lacking.items():
            click.echo(f"{GAP}needs {need}: {_tests(len(results))}")
    for result in report.failures:
        click.echo()
        _show_failure(result)
    if len(report.failures) > FEW:
        click.echo("\nBegin with the first: what comes later rests on what comes before. --first ends there.")
    click.echo()
    heading(verdict(report))


def verdict(report: Report) -> str:
    """The report in a line."""
    counts = report.counts()
    if not counts["passed"] and not counts["failed"]:
        return f"nothing is proven of {report.backend}: {_tests(counts['skipped'])} skipped"
    word = "conforms" if report.passed else "does not conform"
    told = [f"{_tests(counts['passed'])} passed"]
    told += [f"{counts[each]} {each}" for each in ("failed", "skipped") if counts[each]]
    suite = f"version {report.version} of the suite"
    return f"{report.backend} {word} to {suite}: {', '.join(told)} in {report.seconds:.1f} s"


def _show_failure(result: Result) -> None:
    heading(f"FAILED {result.name}")
    lines = [f"must hold: {result.must_hold}"] if result.must_hold else []
    lines += result.message.splitlines()
    lines += [f"at {place}" for place in result.where]
    if result.printed:
        lines += ["it printed:", *(f"{GAP}{line}" for line in result.printed.splitlines())]
    for line in lines:
        click.echo(f"{GAP}{line}")


def _tests(count: int) -> str:
    return "1 test" if count == 1 else f"{count} tests"


@contextlib.contextmanager
def _nothing_kept() -> Iterator[None]:
    """hypothesis, which keeps things in the current directory, keeps them elsewhere, and for this run only."""
    with tempfile.TemporaryDirectory(prefix="anyvisor-") as directory:
        os.environ.setdefault("HYPOTHESIS_STORAGE_DIRECTORY", directory)
        yield


def _end_at_once_if_stuck(exit_code: int) -> None:
    """End the process where a hung call was left behind in a thread: cleaning up under its feet may crash."""
    if any(thread.daemon for thread in threading.enumerate()):
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(exit_code)
