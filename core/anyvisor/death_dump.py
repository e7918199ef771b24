"""All that is left of a guest, in a directory: for who wants to know later why it died, with tools of their own.

    dump_machine(machine, "dead")
    $ gdb vmlinux dead/core

`core` is an ELF core of its memory and registers; `report.txt` and `report.json` are the report on its death, or those
on every vCPU of one that has not died; `plan.json` is the boot plan, `console.log` what is kept of its console
(`console-NAME.log` of the others), and `exits.jsonl` has the last exits of each vCPU, a line of JSON each.

A guest's memory has its secrets, so the directory is its owner's only, and so is every file, whatever the umask.
Nothing is written over: a directory that is not empty gets one in it, called 1, or 2 if there is a 1.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import attrs

from anyvisor.architectures import part
from anyvisor.diagnosis.evidence import Evidence
from anyvisor.diagnosis.live import death_of
from anyvisor.errors import AnyvisorError, ConfigError, GuestError
from anyvisor.flight import ExitRing
from anyvisor.private_file import private
from anyvisor.sparse import touched
from anyvisor.states import VcpuState

if TYPE_CHECKING:
    from anyvisor.diagnosis import Report
    from anyvisor.hypervisor import Vcpu
    from anyvisor.machine import Machine

PRIVATE_DIRECTORY = 0o700
STOP_SECONDS = 10.0
CORE = "core"
LOST = "the registers that vCPU {vcpu} died with are lost, for the death reset it: those of {since} are in their place"


@attrs.frozen
class Dump:
    """Where a dump is. `files` are its files by name, `debugger` is the command that opens the core.

    `left_out` says what is not in the core, a sentence each.
    """

    directory: Path
    files: Mapping[str, Path]
    debugger: str
    left_out: tuple[str, ...] = ()


def check_place(directory: os.PathLike[str] | str) -> None:
    """ConfigError when a dump could not be made there, as far as that can be told before."""
    place = Path(directory)
    there = next(each for each in (place, *place.absolute().parents) if os.path.lexists(each))
    if not there.is_dir():
        raise ConfigError(f"{place}: a dump needs a directory, and {there} is none; name another")
    if not os.access(there, os.W_OK | os.X_OK):
        raise ConfigError(f"{place}: a dump needs a directory, and {there} cannot be written to; name another")


def dump_machine(machine: Machine, directory: os.PathLike[str] | str, timeout: float = STOP_SECONDS) -> Dump:
    """Write all that there is of a machine, dead or alive, to a new or empty directory, or to a new one in it.

    One that runs is paused meanwhile. GuestError when that takes longer than `timeout` seconds, or for a machine that
    is closed; OSError, with the file's name, for what cannot be written: that file is not there then, and those before
    it are. The core comes last.
    """
    if not machine.memory.regions:
        raise GuestError("the machine cannot be dumped: it is closed, and its memory is gone; dump it before")
    with machine.held(timeout):
        place = _new_directory(Path(directory))
        files: dict[str, Path] = {}
        for name, content in _texts(machine):
            files[name] = place / name
            with _new_file(files[name]) as file:
                file.write(content)
        files[CORE] = place / CORE
        with _new_file(files[CORE]) as file:
            core = _write_core(machine, file)
    return Dump(place, files, core.debugger(files[CORE]), core.left_out)


# -- what goes into it -------------------------------------------------------------------------------------------------


def _texts(machine: Machine) -> Iterator[tuple[str, bytes]]:
    """The names and contents of all files but the core."""
    page, reports = _reports(machine)
    yield "report.txt", f"{page}\n".encode("utf-8", "backslashreplace")
    yield "report.json", json.dumps([each.to_data() for each in reports], indent=1).encode()
    yield "plan.json", machine.plan.to_json().encode()
    for number, console in enumerate(machine.consoles.values()):
        letters = "".join(each if each.isalnum() or each in "-_." else "_" for each in console.name)
        yield f"console-{letters}.log" if number else "console.log", console.read_output()[0]
    yield "exits.jsonl", "".join(_exit_lines(machine)).encode()


def _reports(machine: Machine) -> tuple[str, tuple[Report, ...]]:
    """The report on a death, or those on all vCPUs; as a page, and as values."""
    error = machine.outcome.error if machine.outcome else None
    if isinstance(error, GuestError) and error.report:
        return str(error.report), (error.report,)
    seen = machine.inspect()
    return str(seen), seen.reports


def _exit_lines(machine: Machine) -> Iterator[str]:
    for index, ring in enumerate(machine.flight):
        for noted in ring.last():
            yield json.dumps({"vcpu": index, **noted.to_data()}) + "\n"


def _write_core(machine: Machine, file: BinaryIO) -> Any:
    architecture: Any = part(machine.plan.architecture, "elf_core")
    ram = {each.region: each for each in machine.memory}
    seen = [_seen(machine, vcpu, architecture.STATES) for vcpu in machine.vcpus]
    regions = [(region, each.view) for region, each in ram.items()]
    return architecture.write_core(
        file,
        regions,
        [each.states for each in seen],
        touched=lambda region: touched(ram[region]),
        left_out=[LOST.format(vcpu=each.vcpu, since=each.since) for each in seen if each.is_lost],
    )


def _seen(machine: Machine, vcpu: Vcpu, kinds: tuple[type[VcpuState], ...]) -> Evidence:
    """The vCPU's states as far as it tells them; where its death destroyed them, the nearest before that are known."""
    now: dict[type[VcpuState], VcpuState] = {}
    for kind in kinds:
        with contextlib.suppress(AnyvisorError):
            now[kind] = vcpu.get(kind)
    ring = next(iter(machine.flight[vcpu.index : vcpu.index + 1]), None) or ExitRing(0)
    return Evidence(
        machine.plan,
        vcpu.index,
        machine.memory.read,
        exit=death_of(machine, vcpu),
        now=now,
        before=dict(ring.before),
        last_exits=ring.last(),
    )


# -- where it goes -----------------------------------------------------------------------------------------------------


def _new_directory(place: Path) -> Path:
    """The directory, if it is new or empty, else a new one in it; who made it is the only one who may look."""
    place.parent.mkdir(parents=True, exist_ok=True)
    if place.is_dir() and not any(place.iterdir()):
        return place
    for path in itertools.chain([place], (place / str(number) for number in itertools.count(1))):
        with contextlib.suppress(FileExistsError):
            path.mkdir(PRIVATE_DIRECTORY)
            path.chmod(PRIVATE_DIRECTORY)
            return path
    raise AssertionError("numbers have no end")


@contextlib.contextmanager
def _new_file(path: Path) -> Iterator[BinaryIO]:
    """A file that was not there, and is not there when it cannot be written; OSError with its name."""
    file = open(path, "xb", opener=private)  # noqa: SIM115 - what is raised here leaves no file to remove
    try:
        with file:
            yield file
    except BaseException as error:
        path.unlink()
        if isinstance(error, OSError) and error.errno is not None:
            raise OSError(error.errno, error.strerror, os.fspath(path)) from error
        raise
