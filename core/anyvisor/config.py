"""What a user says about the machine: frozen, checked at birth, readable from TOML."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, Literal, get_args

import attrs

from anyvisor.errors import ConfigError
from anyvisor.identity import Identity
from anyvisor.memory import MIB, PAGE_BYTES, format_size, parse_size
from anyvisor.topology import MAX_VCPUS, NumaNode, Topology, check_numa

__all__ = ["DEFAULT_COMMAND_LINE", "MAX_VCPUS", "Identity", "MachineConfig", "NumaNode", "Raw", "Topology"]

DEFAULT_COMMAND_LINE = "console=ttyS0 panic=-1 pci=off"
"""Console on the serial port, a reset after a panic, and no search for a PCI bus, which the machine has not."""
DEFAULT_MEMORY_BYTES = 512 * MIB

Tables = Literal["acpi", "mptable", "both", "none"]
Mode = Literal["real", "protected", "long"]
"""What of firmware's tables a guest gets; the processor mode of a first instruction."""


def _size(text: str | int) -> int:
    try:
        return parse_size(text)
    except ValueError as error:
        raise ConfigError(f"memory: {error}") from error


def _address(value: str | int | None) -> int:
    try:
        number = int(value, 0) if isinstance(value, str) else value
    except ValueError as error:
        raise ConfigError(f"raw: {value!r} is not an address; write it as 0x7c00") from error
    if isinstance(number, bool) or not isinstance(number, int) or not 0 <= number < 1 << 52:
        raise ConfigError(f"raw: {value!r} is not a guest-physical address; give 0 to {(1 << 52) - 1:#x}")
    return number


def _path(path: os.PathLike[str] | str | None) -> Path | None:
    try:
        return None if path is None else Path(path)
    except TypeError as error:
        raise ConfigError(f"{path!r} is not the path of a file") from error


def _check_memory(_: object, __: object, size_bytes: int) -> None:
    if size_bytes < MIB:
        raise ConfigError(
            f"memory: {format_size(size_bytes)} is too little to boot; give at least 1M (a Linux kernel wants 64M)"
        )
    if size_bytes % PAGE_BYTES:
        raise ConfigError(
            f"memory: {size_bytes} bytes is not a whole number of {PAGE_BYTES}-byte pages; "
            f"use {size_bytes // PAGE_BYTES * PAGE_BYTES}"
        )
    if size_bytes > 1 << 46:
        raise ConfigError(f"memory: {format_size(size_bytes)} is more than processors can address; give at most 64T")


def _check_vcpus(_: object, __: object, vcpus: int) -> None:
    if isinstance(vcpus, bool) or not isinstance(vcpus, int) or not 1 <= vcpus <= MAX_VCPUS:
        raise ConfigError(f"vcpus: {vcpus!r} is not a number of vCPUs; give 1 to {MAX_VCPUS}")


def _check_text(_: object, __: object, text: object) -> None:
    if not isinstance(text, str):
        raise ConfigError(f"command_line: {text!r} is not text")
    if "\0" in text or "\n" in text:
        raise ConfigError("command_line: a kernel command line is one line of text; remove the NUL or newline in it")
    try:
        text.encode("ascii")
    except UnicodeEncodeError as error:
        raise ConfigError(
            f"command_line: {text[error.start]!r} is not ASCII; the kernel takes bytes, write it escaped"
        ) from error


def _one_of(kind: Any) -> Callable[[object, attrs.Attribute[Any], Any], None]:
    """A validator: the value must be one of the words of a Literal."""

    def check(_: object, attribute: attrs.Attribute[Any], word: object) -> None:
        words = get_args(kind)
        if word not in words:
            raise ConfigError(f"{attribute.name}: {word!r} is none of {', '.join(words)}")

    return check


def _check_name(_: object, attribute: attrs.Attribute[Any], name: object) -> None:
    if not isinstance(name, str) or not name.strip():
        raise ConfigError(f"{attribute.name}: {name!r} is not a name")


def _check_a(kind: type) -> Callable[[object, attrs.Attribute[Any], object], None]:
    """A validator: the value must be of that class."""

    def check(_: object, attribute: attrs.Attribute[Any], value: object) -> None:
        if not isinstance(value, kind):
            fields = ", ".join(each.name for each in attrs.fields(kind))
            raise ConfigError(f"{attribute.name}: {value!r} is none; give a {kind.__name__}({fields})")

    return check


def _nodes(values: Iterable[NumaNode]) -> tuple[NumaNode, ...]:
    try:
        return tuple(values)
    except TypeError as error:
        raise ConfigError(f"numa: {values!r} is no list of nodes; give a NumaNode for each") from error


def _one_socket(vcpus: object) -> Topology:
    """The default topology; a count that is none is left for the validator of `vcpus` to refuse."""
    return Topology(cores=vcpus) if type(vcpus) is int and vcpus > 0 else Topology()


def is_path(name: str) -> bool:
    """Whether a CPU model is named by the file of its template: the name has a `/` in it or ends in `.toml`."""
    return os.sep in name or "/" in name or name.endswith(".toml")


def default_command_line(tables: str) -> str:
    """The command line of a machine with those tables: a kernel is told when there is no ACPI to look for."""
    return DEFAULT_COMMAND_LINE if tables in ("acpi", "both") else f"{DEFAULT_COMMAND_LINE} acpi=off"


@attrs.frozen
class Raw:
    """A flat binary for the `raw` protocol: where its bytes go, and the processor mode of its first instruction.

    `entry` is the address of that instruction, by default that of the first byte.
    """

    address: int = attrs.field(default=MIB, converter=_address)
    mode: Mode = attrs.field(default="long", validator=_one_of(Mode))
    entry: int = attrs.field(default=attrs.Factory(lambda self: self.address, takes_self=True), converter=_address)


@attrs.frozen
class MachineConfig:
    """The machine that is wanted. Every value is checked here; sizes are bytes or text such as `512M`.

    `kernel` and `initrd` are paths; `unpack` takes the ELF vmlinux out of a bzImage on the host, which spares the guest
    the work; None does so where the processor is emulated and the means are at hand. `protocol` is how the kernel is
    entered (`linux64`, `linux32`, `pvh`, `multiboot`, `raw`), None the one that its image speaks; `raw` is for images
    that are only bytes. `tables` are what firmware leaves for the kernel, in `reduced_hardware` form if the ACPI
    hardware-reduced profile is wanted; `identity` is who the machine says it is.

    `cpu` is a CPU model: its name, or the path of a template. `topology` defaults to one socket with a core for each
    vCPU; `numa` nodes share out RAM and vCPUs. `overcommit` lets the guest have more RAM than the host has.
    `shared_memory` backs RAM by memfds, for devices in other processes. A `deterministic` machine counts its time from
    what the guest does: every run of it is the same, where the backend can do that.
    """

    kernel: Path | None = attrs.field(default=None, converter=_path)
    initrd: Path | None = attrs.field(default=None, converter=_path)
    tables: Tables = attrs.field(default="acpi", validator=_one_of(Tables), kw_only=True)
    command_line: str = attrs.field(
        default=attrs.Factory(lambda self: default_command_line(self.tables), takes_self=True), validator=_check_text
    )
    memory: int = attrs.field(default=DEFAULT_MEMORY_BYTES, converter=_size, validator=_check_memory)
    vcpus: int = attrs.field(default=1, validator=_check_vcpus)
    topology: Topology = attrs.field(
        default=attrs.Factory(lambda self: _one_socket(self.vcpus), takes_self=True), validator=_check_a(Topology)
    )
    numa: tuple[NumaNode, ...] = attrs.field(default=(), converter=_nodes)
    cpu: str = attrs.field(default="host", validator=_check_name)
    protocol: str | None = attrs.field(default=None, validator=attrs.validators.optional(_check_name))
    raw: Raw = attrs.field(factory=Raw, validator=_check_a(Raw))
    reduced_hardware: bool = False
    identity: Identity = attrs.field(factory=Identity, validator=_check_a(Identity))
    unpack: bool | None = None
    overcommit: bool = False
    shared_memory: bool = False
    deterministic: bool = False

    def __attrs_post_init__(self) -> None:
        if self.topology.vcpus != self.vcpus:
            raise ConfigError(
                f"topology: {self.topology} make {self.topology.vcpus} vCPUs, but vcpus is {self.vcpus}; "
                "make them agree"
            )
        if self.numa:
            check_numa(self.numa, self.memory, self.vcpus)

    @property
    def wants_acpi(self) -> bool:
        """Whether the guest gets ACPI tables."""
        return self.tables in {"acpi", "both"}

    @property
    def wants_mptable(self) -> bool:
        """Whether the guest gets an MP table."""
        return self.tables in {"mptable", "both"}

    @property
    def wants_smbios(self) -> bool:
        """Whether the guest gets SMBIOS tables: with any others."""
        return self.tables != "none"

    @property
    def kernel_path(self) -> Path:
        """The kernel's path; ConfigError when the configuration names none."""
        if self.kernel is None:
            raise ConfigError("kernel: the configuration names no kernel to boot; set `kernel` to a bzImage or vmlinux")
        return self.kernel

    def replace(self, **changes: Any) -> MachineConfig:
        """This configuration with some values changed; a new vCPU count without a topology gets the default one.

        So does a default command line that no longer fits the tables.
        """
        if changes.get("vcpus", self.vcpus) != self.vcpus:
            changes.setdefault("topology", _one_socket(changes["vcpus"]))
        if "tables" in changes and self.command_line == default_command_line(self.tables):
            changes.setdefault("command_line", default_command_line(changes["tables"]))
        return attrs.evolve(self, **changes)

    @classmethod
    def from_toml(cls, path: os.PathLike[str] | str) -> MachineConfig:
        """The configuration in a TOML file, paths relative to the file; ConfigError says what is wrong where."""
        from anyvisor.config_file import read_config  # noqa: PLC0415 - only readers of files pay for it

        return read_config(Path(path))
