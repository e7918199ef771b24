"""All boot checks, in the order in which they are made: the processor, what it walks, what the kernel is told."""

from __future__ import annotations

from collections.abc import Iterator

from anyvisor.finding import Finding
from anyvisor.plan import Blob, BootPlan, FileSlice
from anyvisor.x86_64.boot_checks import (
    command_line,
    descriptors,
    entry,
    handover,
    initrd,
    memory_map,
    modes,
    paging,
    processors,
    reach,
    tables,
)
from anyvisor.x86_64.boot_checks.check import Check, broken, check
from anyvisor.x86_64.boot_checks.scene import Scene
from anyvisor.x86_64.firmware_tables import READ_ERRORS


@check("pieces-readable", "Every file that a piece is read from is there, and as long as the plan says.")
def pieces_readable(scene: Scene) -> Iterator[Finding]:
    """A kept plan names its files, and does not hold them."""
    for piece in scene.plan.blobs:
        if problem := _unreadable(piece):
            remedy = "bring the file back, or make the plan anew"
            yield broken(str(piece.region), problem, remedy=remedy)


def _unreadable(piece: Blob) -> str:
    if not isinstance(piece.content, FileSlice):
        return ""
    path, end = piece.content.path, piece.content.offset + piece.content.size_bytes
    try:
        with path.open("rb") as file:
            size_bytes = file.seek(0, 2)
    except (OSError, ValueError) as error:
        return f"its file {path} cannot be read: {error}"
    return f"its file {path} has {size_bytes} bytes, and the plan wants {end}" if size_bytes < end else ""


LOOKING: tuple[Check, ...] = (
    *modes.CHECKS,
    *handover.CHECKS,
    *paging.CHECKS,
    *entry.CHECKS,
    *reach.CHECKS,
    *descriptors.CHECKS,
    *command_line.CHECKS,
    *memory_map.CHECKS,
    *initrd.CHECKS,
    *tables.CHECKS,
    *processors.CHECKS,
)
"""Those that look at memory."""
CHECKS: tuple[Check, ...] = (pieces_readable, *LOOKING)


def check_plan(plan: BootPlan) -> list[Finding]:
    """What would keep a plan's kernel from starting, or from being heard; empty for a sound plan.

    Where a file is missing that a piece is read from, that is all that is said.
    """
    scene = Scene(plan)
    if missing := list(pieces_readable.findings(scene)):
        return missing
    return [finding for each in LOOKING for finding in _findings(each, scene)]


def _findings(each: Check, scene: Scene) -> list[Finding]:
    """What a check finds. Tables that are too broken to be looked at are a finding, too."""
    try:
        return list(each.findings(scene))
    except READ_ERRORS as error:
        problem = f"is too broken to be checked: {type(error).__name__}: {error}"
        return [Finding(each.name, "plan", problem, section=each.section, remedy="make it anew")]
