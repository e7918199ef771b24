"""`anyvisor dump`: the raw bytes of a plan's tables as files, for other tools."""

from __future__ import annotations

import contextlib
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import attrs
import click

from anyvisor.cli.facts import backend_to_plan_for, facts_for
from anyvisor.cli.options import NO_KERNEL, MachineOptions, machine_options
from anyvisor.cli.places import Place, writing

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from anyvisor.config import MachineConfig
    from anyvisor.facts import HostFacts

ANY_LINE = "none"
"""The command line of a machine whose kernel does not matter."""


@click.command()
@click.argument("kind", metavar="KIND")
@click.argument("directory", metavar="DIR", type=Place(file_okay=False))
@machine_options
@backend_to_plan_for
@click.option("--force", is_flag=True, help="Overwrite files that exist.")
def dump(kind: str, directory: Path, backend: str, force: bool, **options: Any) -> None:
    """Write tables of a plan to files in DIR as raw bytes, for other tools to read.

    KIND is acpi, mptable, smbios, cpuid, bootparams or gdt. Only the last two need a KERNEL.
    """
    from anyvisor.assemble import assemble

    config = MachineOptions(**options).to_config(without_kernel=ANY_LINE)
    facts = facts_for(backend, config)
    part = _part(facts, kind)
    with _with_kernel(config, part, needed=part.KINDS[kind].needs_kernel) as complete:
        files: dict[str, bytes] = part.dump(assemble(complete, facts), kind)
    for path, size_bytes in list(_written(directory, files, force=force)):
        click.echo(f"{path}  {size_bytes} bytes")


def _part(facts: HostFacts, kind: str) -> Any:
    """The architecture's own module; UsageError when it has nothing of that kind."""
    from anyvisor.architectures import part

    found = part(facts.architecture, "dump")
    if kind not in found.KINDS:
        raise click.UsageError(f"there is no {kind!r} to dump; there are {', '.join(found.KINDS)}", _context())
    return found


@contextlib.contextmanager
def _with_kernel(config: MachineConfig, part: Any, *, needed: bool) -> Iterator[MachineConfig]:
    """The configuration with its kernel, or with one that stands in where it does not matter."""
    if config.kernel:
        yield config
    elif needed:
        raise click.UsageError(NO_KERNEL, _context())
    else:
        with tempfile.TemporaryDirectory(prefix="anyvisor-") as directory:
            yield attrs.evolve(config, kernel=part.stand_in_kernel(Path(directory)))


def _written(directory: Path, files: Mapping[str, bytes], *, force: bool) -> Iterator[tuple[Path, int]]:
    """Write the files, and tell of each; ConfigError before the first if one exists, unless forced."""
    from anyvisor.errors import ConfigError

    there = [name for name in files if (directory / name).exists() or (directory / name).is_symlink()]
    if there and not force:
        raise ConfigError(f"{directory / there[0]} exists; --force overwrites it, or name another directory")
    directory.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        path = directory / name
        with writing(path), path.open("wb" if force else "xb") as file:
            file.write(content)
        yield path, len(content)


def _context() -> click.Context | None:
    return click.get_current_context(silent=True)
