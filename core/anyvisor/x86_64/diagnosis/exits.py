"""What the guest did last, and what it said."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

from anyvisor.diagnosis.evidence import Evidence
from anyvisor.flight import NotedExit
from anyvisor.plan import DeviceSpec
from anyvisor.section import Section
from anyvisor.x86_64.diagnosis.scene import Scene

SHOWN = 16
"""As many lines of exits as are shown."""


def last_exits(evidence: Evidence) -> Iterator[Section]:
    """The last exits, the oldest first, with the device that answers; runs of the same one are told once."""
    if not evidence.last_exits:
        return
    runs = [(each, len(list(same))) for each, same in itertools.groupby(evidence.last_exits)]
    shown = runs[-SHOWN:]
    lines = [f"{each}{_answered(evidence, each)}" + f"  ({count} times)" * (count > 1) for each, count in shown]
    before = evidence.exit_count - sum(count for _, count in shown)
    lines[:0] = [f"... and {before} before"] if before > 0 else []
    yield Section("Last exits", "\n".join(lines), evidence.last_exits)


def console(evidence: Evidence) -> Iterator[Section]:
    """The last lines of each console."""
    for name, lines in evidence.console.items():
        if lines:
            yield Section(f"Last lines of the console {name}", "\n".join(lines))


def silent_log(scene: Scene) -> Iterator[Section]:
    """The last of the kernel's log, where its console has not shown it."""
    lines = scene.kernel_log
    shown = {line for each in scene.evidence.console.values() for line in each}
    if lines and not any(line.endswith(lines[-1]) for line in shown):
        yield Section("Last lines of the kernel's log, from its memory", "\n".join(lines[-SHOWN:]))


def panic(evidence: Evidence) -> Iterator[Section]:
    """What the kernel said when it gave up."""
    if evidence.panic and evidence.panic.lines:
        yield Section("The kernel's last words", "\n".join(evidence.panic.lines), evidence.panic)


def _answered(evidence: Evidence, noted: NotedExit) -> str:
    """Which device answers there."""
    if noted.exit is not None:
        return ""
    spec = device_at(evidence, *noted.place)
    if spec:
        return f"  {spec.name}"
    return "  nobody answers" if noted.place in evidence.unclaimed else ""


def device_at(evidence: Evidence, space: str, address: int) -> DeviceSpec | None:
    """The device of the plan at a port or MMIO address."""
    for spec in evidence.plan.devices:
        if any(each.contains(address) for each in (spec.ports if space == "port" else spec.mmio)):
            return spec
    return None
