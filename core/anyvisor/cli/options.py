"""The options that describe a machine, shared by every command that takes one."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import attrs
import click

from anyvisor.cli.places import Place

if TYPE_CHECKING:
    from anyvisor.config import MachineConfig, NumaNode, Raw, Topology

C = TypeVar("C", bound=Callable[..., Any])

_FILE = Place(readable=False)  # who opens it says what is wrong with it
_COUNT = click.IntRange(min=1)
_PLAIN = (
    "kernel", "initrd", "memory", "cpu", "protocol", "reduced_hardware", "unpack", "overcommit", "deterministic",
)  # fmt: skip
"""What goes into the configuration as it was said."""
NO_KERNEL = "there is no kernel: name a KERNEL, or a --config that does"


@attrs.frozen
class MachineOptions:
    """What was said on the command line about a machine; None for what was not said."""

    kernel: Path | None
    config: Path | None
    initrd: Path | None
    cmdline: str | None
    append: str | None
    memory: str | None
    cpus: int | None
    sockets: int | None
    dies: int | None
    cores: int | None
    threads: int | None
    numa: tuple[str, ...]
    cpu: str | None
    tables: str | None
    reduced_hardware: bool | None
    protocol: str | None
    raw_address: str | None
    raw_mode: str | None
    unpack: bool | None
    overcommit: bool | None
    deterministic: bool | None

    def to_config(self, *, without_kernel: str = "") -> MachineConfig:
        """The machine's configuration: the file's values, or the defaults, and the command line's over them.

        ConfigError when they are wrong or do not go together, UsageError when there is no kernel in them, unless
        `without_kernel` is the default command line of a machine whose kernel will be found later.
        """
        from anyvisor.config import MachineConfig, default_command_line

        base = MachineConfig.from_toml(self.config) if self.config else MachineConfig()
        base = base.replace(tables=self.tables) if self.tables else base
        changes = {name: value for name in _PLAIN if (value := getattr(self, name)) is not None}
        if (self.kernel or base.kernel) is None:
            if not without_kernel:
                raise click.UsageError(NO_KERNEL, click.get_current_context(silent=True))
            if base.command_line == default_command_line(base.tables):
                base = base.replace(command_line=without_kernel)
        if self.cmdline is not None or self.append is not None:
            line = base.command_line if self.cmdline is None else self.cmdline
            changes["command_line"] = " ".join(part for part in (line, self.append) if part)
        if self.raw_address is not None or self.raw_mode is not None:
            changes["raw"] = self._raw(base.raw)
        if self.numa:
            changes["numa"] = tuple(map(_numa_node, self.numa))
        config = base.replace(**changes, **self._processors())
        if "raw" in changes and config.protocol is None:
            words = "--raw-address and --raw-mode are for flat binaries, and no image looks like one"
            raise click.UsageError(f"{words}; add --protocol raw", click.get_current_context(silent=True))
        return config

    def _raw(self, base: Raw) -> Raw:
        """The place of a flat binary; its entry is its first byte unless a file says otherwise."""
        from anyvisor.config import Raw

        mode: Any = self.raw_mode or base.mode  # click has checked it
        return attrs.evolve(base, mode=mode) if self.raw_address is None else Raw(self.raw_address, mode)

    def _processors(self) -> dict[str, int | Topology]:
        """The changes to `vcpus` and `topology`; what is left out of a topology follows from the rest."""
        from anyvisor.config import Topology

        if self.sockets is self.dies is self.cores is self.threads is None:
            return {} if self.cpus is None else {"vcpus": self.cpus}
        sockets, dies, threads = self.sockets or 1, self.dies or 1, self.threads or 1
        cores = self.cores or max(1, (self.cpus or 1) // (sockets * dies * threads))
        topology = Topology(sockets=sockets, dies=dies, cores=cores, threads=threads)
        return {"vcpus": topology.vcpus if self.cpus is None else self.cpus, "topology": topology}


def _numa_node(text: str) -> NumaNode:
    """A node from `SIZE`, `SIZE:VCPUS` or `SIZE:VCPUS:DISTANCES`."""
    from anyvisor.config import NumaNode
    from anyvisor.errors import ConfigError

    memory, _, rest = text.partition(":")
    vcpus, _, distances = rest.partition(":")
    try:
        return NumaNode(memory, vcpus, distances)
    except ConfigError as error:
        raise ConfigError(f"--numa {text}: {error}; write it as 2G:0-3, or 2G:0-3:10,20 with distances") from error


_OPTIONS = (
    click.argument("kernel", required=False, type=_FILE),
    click.option("--config", type=_FILE, metavar="FILE", help="A machine in TOML; options override its values."),
    click.option("--initrd", type=_FILE, metavar="FILE", help="The initial RAM disk."),
    click.option("--cmdline", metavar="TEXT", help="The kernel's command line."),
    click.option("--append", metavar="TEXT", help="Add to the command line, the default one if there is no other."),
    click.option("--memory", "-m", metavar="SIZE", help="RAM, such as 512M (the default) or 2G."),
    click.option("--cpus", type=int, metavar="N", help="How many vCPUs; 1 by default."),
    click.option("--sockets", type=_COUNT, metavar="N", help="Processor packages."),
    click.option("--dies", type=_COUNT, metavar="N", help="Dies in a package."),
    click.option("--cores", type=_COUNT, metavar="N", help="Cores in a die."),
    click.option("--threads", type=_COUNT, metavar="N", help="Hardware threads in a core."),
    click.option(
        "--numa", multiple=True, metavar="SIZE:VCPUS", help="A NUMA node, such as 2G:0-3; once for each node."
    ),
    click.option("--cpu", metavar="MODEL", help="The CPU model: a name, or a template's file; host by default."),
    click.option(
        "--tables",
        type=click.Choice(["acpi", "mptable", "both", "none"]),
        help="The tables that the kernel finds; acpi by default.",
    ),
    click.option(
        "--reduced-hardware", is_flag=True, default=None, help="ACPI without the PM registers (hardware-reduced)."
    ),
    click.option(
        "--protocol",
        metavar="NAME",
        help="How the kernel is entered: linux64, linux32, pvh, multiboot or raw; by default what its image speaks.",
    ),
    click.option("--raw-address", metavar="ADDRESS", help="Where a raw image goes; 0x100000 by default."),
    click.option(
        "--raw-mode", type=click.Choice(["real", "protected", "long"]), help="The mode a raw image starts in."
    ),
    click.option(
        "--unpack/--no-unpack",
        default=None,
        help="Unpack a bzImage here, or let the guest do it; by default here for an emulated processor.",
    ),
    click.option("--overcommit", is_flag=True, default=None, help="Allow more RAM than this host has."),
    click.option("--deterministic", is_flag=True, default=None, help="Count time from what the guest does."),
)


def machine_options(command: C) -> C:
    """Decorator: give a command KERNEL and the options that describe a machine, as keyword arguments."""
    for option in reversed(_OPTIONS):
        command = option(command)
    return command
