"""A small careful kernel, planned as any kernel is, and what becomes of it when something is wrong."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import attrs

from anyvisor.assemble import assemble
from anyvisor.config import MachineConfig
from anyvisor.diagnosis import Report, report
from anyvisor.diagnosis.live import watch
from anyvisor.errors import GuestError, HypervisorError, HypervisorUnavailable
from anyvisor.exits import Kicked
from anyvisor.facts import HostFacts
from anyvisor.finding import Finding
from anyvisor.hypervisor import Hypervisor
from anyvisor.launch import launch
from anyvisor.machine import Machine
from anyvisor.plan import BootPlan

SOURCE = Path(__file__).with_name("careful_kernel.S")
KERNEL = "careful-kernel"
LOADED = 0x1000000
IS_WELL = b"all is well"
ARCHIVE = b"070701".ljust(0x400, b"0")
"""As much of an initrd as the kernel looks at."""
PATIENCE_SECONDS = 0.4
"""A careful kernel is through in a tenth of it."""
LONG_SECONDS = 20
"""The report on a guest that has died takes less."""
SAMPLES, INTERVAL_SECONDS = 8, 0.01

RUNS = "runs"
"""The verdict on a guest that came to its end all the same."""


@attrs.frozen
class Verdict:
    """What was said first of a guest: the name of a cause, or `RUNS`; where, and the page or message that said it."""

    first: str
    by: str
    page: str = ""


def build(folder: Path) -> Path:
    """The kernel as the linker makes it; HypervisorUnavailable where there is none."""
    if not (shutil.which("as") and shutil.which("ld")):
        raise HypervisorUnavailable("there is no assembler here", "apt-get install binutils")
    unlinked, kernel = folder / f"{KERNEL}.o", folder / KERNEL
    subprocess.run(["as", "--64", "-o", unlinked, SOURCE], check=True, timeout=60)
    command: list[str | Path] = ["ld", "-m", "elf_x86_64", "-N", "-Ttext", hex(LOADED), "-o", kernel, unlinked]
    subprocess.run(command, check=True, timeout=60, stderr=subprocess.DEVNULL)  # code that can be written, it warns
    return kernel


def planned(kernel: Path, folder: Path, facts: HostFacts) -> BootPlan:
    """A good plan for it."""
    initrd = folder / "careful.cpio"
    initrd.write_bytes(ARCHIVE)
    return assemble(MachineConfig(kernel=kernel, initrd=initrd, memory="64M", protocol="linux64"), facts)


def verdict(
    plan: BootPlan,
    host: Hypervisor,
    tamper: Callable[[Machine], None] | None = None,
    *,
    patience_seconds: float = PATIENCE_SECONDS,
    end: bytes = IS_WELL,
) -> Verdict:
    """What becomes of a plan: launched, run to its end or until patience is, and judged."""
    try:
        machine = launch(plan, host)
    except HypervisorError as error:
        first: Finding | None = error.findings[0] if error.findings else None
        return Verdict(first.check if first else "", "refused", str(error))
    with machine:
        if tamper:
            tamper(machine)
        return _run(machine, patience_seconds, end)


def _run(machine: Machine, patience_seconds: float, end: bytes) -> Verdict:
    machine.start()
    try:
        return _ended(machine, patience_seconds, end)
    except TimeoutError:
        seen = watch(machine, SAMPLES, INTERVAL_SECONDS)[0]
        last = seen.last_exits[-1].exit if seen.last_exits else None
        if last is None or isinstance(last, Kicked):
            return _told(report(seen), "hangs")
        return _ended(machine, LONG_SECONDS, end)


def _ended(machine: Machine, timeout_seconds: float, end: bytes) -> Verdict:
    try:
        outcome = machine.wait(timeout_seconds)
    except GuestError as error:
        return _told(error.report, "died")
    if outcome.reason == "reset" and not outcome.panic and end in machine.console.read_output(0)[0]:
        return Verdict(RUNS, outcome.reason)
    return _told(machine.inspect().reports[0], outcome.reason)


def _told(found: Report | None, by: str) -> Verdict:
    assert found is not None
    assert found.notes == ()
    return Verdict(found.likely.name if found.likely else "", by, str(found))
