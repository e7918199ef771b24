"""What a user says about the machine: frozen, checked at birth, readable from TOML."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import attrs

from anyvisor.errors import ConfigError
from anyvisor.memory import MIB, PAGE_BYTES, format_size, parse_size

DEFAULT_COMMAND_LINE = "console=ttyS0 reboot=k panic=-1 acpi=off pci=off"
"""Console on the serial port, reboot through the keyboard controller, and no search for what the machine has not."""
DEFAULT_MEMORY_BYTES = 512 * MIB
MAX_VCPUS = 254
"""The most vCPUs that 8-bit APIC ids and the MP table can name."""


def _size(text: str | int) -> int:
    try:
        return parse_size(text)
    except ValueError as error:
        raise ConfigError(f"memory: {error}") from error


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
        raise ConfigError(
            f"vcpus: {vcpus!r} is not a number of vCPUs; give 1 to {MAX_VCPUS} (8-bit APIC ids end there)"
        )


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


def _check_positive(_: object, attribute: attrs.Attribute[int], count: int) -> None:
    if not isinstance(count, int) or count < 1:
        raise ConfigError(f"topology.{attribute.name}: {count!r} must be a whole number from 1 up")


@attrs.frozen
class Topology:
    """How vCPUs are told apart: `sockets` packages of `cores` cores of `threads` hardware threads each."""

    sockets: int = attrs.field(default=1, validator=_check_positive)
    cores: int = attrs.field(default=1, validator=_check_positive)
    threads: int = attrs.field(default=1, validator=_check_positive)

    @property
    def vcpus(self) -> int:
        """How many vCPUs that makes."""
        return self.sockets * self.cores * self.threads


def _one_socket(vcpus: object) -> Topology:
    """The default topology; a count that is none is left for the validator of `vcpus` to refuse."""
    return Topology(cores=vcpus) if isinstance(vcpus, int) and vcpus > 0 else Topology()


@attrs.frozen
class MachineConfig:
    """The machine that is wanted. Every value is checked here; sizes are bytes or text such as `512M`.

    `kernel` and `initrd` are paths; `unpack` takes the ELF vmlinux out of a bzImage on the host, which spares the guest
    the work; None does so where the processor is emulated and the means are at hand. `topology` defaults to one socket
    with a core for each vCPU. `overcommit` lets the guest have more RAM than the host has. `shared_memory` backs RAM by
    memfds, for devices in other processes. A `deterministic` machine counts its time from what the guest does: every
    run of it is the same, where the backend can do that.
    """

    kernel: Path | None = attrs.field(default=None, converter=_path)
    initrd: Path | None = attrs.field(default=None, converter=_path)
    command_line: str = attrs.field(default=DEFAULT_COMMAND_LINE, validator=_check_text)
    memory: int = attrs.field(default=DEFAULT_MEMORY_BYTES, converter=_size, validator=_check_memory)
    vcpus: int = attrs.field(default=1, validator=_check_vcpus)
    topology: Topology = attrs.field(default=attrs.Factory(lambda self: _one_socket(self.vcpus), takes_self=True))
    unpack: bool | None = None
    overcommit: bool = False
    shared_memory: bool = False
    deterministic: bool = False

    def __attrs_post_init__(self) -> None:
        if not isinstance(self.topology, Topology):
            raise ConfigError(f"topology: {self.topology!r} is none; give a Topology(sockets, cores, threads)")
        if self.topology.vcpus != self.vcpus:
            have = f"{self.topology.sockets} sockets x {self.topology.cores} cores x {self.topology.threads} threads"
            raise ConfigError(
                f"topology: {have} make {self.topology.vcpus} vCPUs, but vcpus is {self.vcpus}; make them agree"
            )

    @property
    def kernel_path(self) -> Path:
        """The kernel's path; ConfigError when the configuration names none."""
        if self.kernel is None:
            raise ConfigError("kernel: the configuration names no kernel to boot; set `kernel` to a bzImage or vmlinux")
        return self.kernel

    def replace(self, **changes: Any) -> MachineConfig:
        """This configuration with some values changed; a new vCPU count without a topology gets the default one."""
        if "vcpus" in changes:
            changes.setdefault("topology", _one_socket(changes["vcpus"]))
        return attrs.evolve(self, **changes)

    @classmethod
    def from_toml(cls, path: os.PathLike[str] | str) -> MachineConfig:
        """The configuration in a TOML file, paths relative to the file; ConfigError says what is wrong where."""
        import tomllib  # noqa: PLC0415 - only readers of files pay for it

        file = Path(path)
        try:
            if not file.is_file() and file.exists():
                raise ConfigError(f"cannot read the configuration {file}: it is no regular file")
            data = tomllib.loads(file.read_text("utf-8"))
        except OSError as error:
            raise ConfigError(f"cannot read the configuration {file}: {error.strerror}") from error
        except ConfigError:
            raise
        except (ValueError, RecursionError) as error:
            raise ConfigError(f"{file} is not TOML: {error}") from error
        return _structure(data, file)


def _structure(data: dict[str, Any], file: Path) -> MachineConfig:
    import cattrs  # noqa: PLC0415 - 30 ms that only readers of files pay

    from anyvisor.codec import problems  # noqa: PLC0415

    converter = cattrs.Converter(forbid_extra_keys=True)
    converter.register_structure_hook(Path | None, lambda text, _: file.parent / _text(text))
    converter.register_structure_hook(str, lambda text, _: _text(text))
    converter.register_structure_hook(bool, lambda value, _: _exactly(value, bool, "true or false"))
    converter.register_structure_hook(
        int, lambda value, _: value if isinstance(value, str) else _exactly(value, int, "a whole number")
    )
    try:
        return converter.structure(data, MachineConfig)
    except ConfigError as error:
        raise ConfigError(f"{file}: {error}") from error
    except cattrs.BaseValidationError as error:
        raise ConfigError(f"{file}: {'; '.join(problems(error))}") from error


def _text(value: Any) -> str:
    return str(_exactly(value, str, "text in quotes"))


def _exactly(value: Any, kind: type, words: str) -> Any:
    if type(value) is not kind:
        raise TypeError(f"{value!r} is not {words}")
    return value
