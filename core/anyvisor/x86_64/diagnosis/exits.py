"""What the guest did last, and what it said."""

from __future__ import annotations

import itertools
import textwrap
from collections.abc import Iterator

import attrs

from anyvisor.diagnosis.evidence import Evidence
from anyvisor.exits import Exit, Shutdown
from anyvisor.flight import NotedExit
from anyvisor.plan import DeviceSpec
from anyvisor.section import Section
from anyvisor.x86_64.diagnosis.scene import Scene

COLUMNS = 76
"""How wide a line may be, with room for its indent."""
SHOWN = 16
"""As many lines of exits as are shown."""


def told(scene: Scene, exit_: Exit) -> str:
    """An exit in words, with linear addresses: an exception's RIP counts from the start of the code segment."""
    if not isinstance(exit_, Shutdown):
        return exit_.describe()
    first = (attrs.evolve(each, rip=_linear(scene, each.rip)) for each in exit_.exceptions)
    return attrs.evolve(exit_, exceptions=tuple(first)).describe()


def _linear(scene: Scene, rip: int | None) -> int | None:
    return None if rip is None else scene.code_address(rip)


def last_exits(scene: Scene) -> Iterator[Section]:
    """The last exits, the oldest first, with the device that answers; runs of the same one are told once."""
    evidence = scene.evidence
    if not evidence.last_exits:
        return
    runs = [(each, len(list(same))) for each, same in itertools.groupby(evidence.last_exits)]
    shown = runs[-SHOWN:]
    lines = [
        line for each, count in shown for line in _wrapped(_words(scene, each) + f"  ({count} times)" * (count > 1))
    ]
    before = evidence.exit_count - sum(count for _, count in shown)
    lines[:0] = [f"... and {before} before"] if before > 0 else []
    yield Section("Last exits", "\n".join(lines), evidence.last_exits)


def _words(scene: Scene, noted: NotedExit) -> str:
    return f"{noted}{_answered(scene.evidence, noted)}" if noted.exit is None else f"exit: {told(scene, noted.exit)}"


def _wrapped(line: str) -> list[str]:
    """The line in as many as it takes."""
    return (
        textwrap.wrap(line, COLUMNS, subsequent_indent="  ", break_on_hyphens=False) if len(line) > COLUMNS else [line]
    )


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
