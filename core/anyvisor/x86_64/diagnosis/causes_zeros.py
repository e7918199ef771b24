"""The cause that there is no code: the guest executes memory that nobody has filled.

Some facts about zeros. Two of them are ADD [RAX], AL, with another address in other modes. It harms nothing as long as
there is RAM at that address, so a guest runs through them, half a million a second or a thousand million, up to what is
no RAM, or no instruction, or in real mode to the end of the segment.

Some facts about other processors. The first starts them by an interrupt whose vector is the number of a page below 1
MiB (SDM Vol. 3, 9.4.4): they begin at its first byte, in real mode, with CS at that page.
"""

from __future__ import annotations

from collections.abc import Iterator

from anyvisor.diagnosis.report import Cause
from anyvisor.memory import PAGE_BYTES
from anyvisor.x86_64.diagnosis.ahead import ZEROS
from anyvisor.x86_64.diagnosis.interrupted import interrupted
from anyvisor.x86_64.diagnosis.scene import Scene
from anyvisor.x86_64.modes import REAL

NO_CODE, LIKELY_NO_CODE = 92, 83
"""How strongly it speaks where the guest was seen, and where its code leads to."""
WHAT_ZEROS_ARE = "zeros are the instruction ADD [{}], AL, over and over"
POINTERS = {16: "BX+SI", 32: "EAX", 64: "RAX"}


def zeros(scene: Scene) -> Iterator[Cause]:
    """RIP is among zeros, or the guest ran through them to where it died."""
    if scene.rip is None or not scene.is_over:
        return
    started = _started_at(scene)
    what = _likely(scene) if scene.evidence.is_lost else _among_zeros(scene, started)
    if what:
        yield _cause(scene, what, started)


def _among_zeros(scene: Scene, started: int | None) -> str:
    """Where the guest is, in words; empty where there is code."""
    assert scene.rip is not None
    here, before = scene.read(scene.rip, len(ZEROS)), _before(scene, scene.rip)
    if here == ZEROS:
        return f"the guest executes zeros at {scene.place(scene.rip)}: no code is there"
    if before == ZEROS and here[:2] in (b"", bytes(2)):
        return f"the guest ran through zeros up to {scene.rip:#x}"
    if started is None or not _are_mostly_zeros(scene, started, scene.rip):
        return ""
    return f"the guest ran through zeros from {started:#x} on, and died at {scene.place(scene.rip)}"


def _are_mostly_zeros(scene: Scene, start: int, end: int) -> bool:
    """Whether it is zeros that are there, but for less than as much before the end; so is nothing."""
    between = scene.read(start, max(end - start, 0))
    return 2 * len(between.lstrip(b"\0")) <= len(between)


def _likely(scene: Scene) -> str:
    """Where the code leads to from the last state that is known."""
    end = scene.ahead
    return (
        f"the guest's code from {scene.evidence.since} on leads to {end.rip:#x}, where only zeros are"
        if end and end.is_empty
        else ""
    )


def _started_at(scene: Scene) -> int | None:
    """Where another processor than the first was started, if there are zeros."""
    if scene.sregs is None or not scene.evidence.vcpu or scene.mode != REAL:
        return None
    was = interrupted(scene)
    start = was.cs << 4 if was else scene.sregs.cs.base
    return start if start % PAGE_BYTES == 0 and scene.read(start, len(ZEROS)) == ZEROS else None


def _cause(scene: Scene, what: str, started: int | None) -> Cause:
    if started is not None:
        vector, cs = started // PAGE_BYTES, started >> 4
        since = f"vCPU {scene.evidence.vcpu} was started at {cs:04x}:0000, by a startup IPI with vector {vector:#x}"
        remedy = "copy the code that other processors begin with to that page before they are started, or send the "
        remedy += "number of the page where it is"
    else:
        since = "" if scene.entry is None else f"it was started at {scene.place(scene.entry)}"
        remedy = "check the entry address against the image, and that the image is loaded there; else look for a bad "
        remedy += "jump or return"
    hedge = "its registers are lost; this is read off the code that it was about to execute"
    return Cause(
        name="executing-zeros",
        summary=what,
        because=tuple(
            filter(None, (WHAT_ZEROS_ARE.format(POINTERS[scene.bits]), since, hedge * scene.evidence.is_lost))
        ),
        remedy=remedy,
        weight=LIKELY_NO_CODE if scene.evidence.is_lost else NO_CODE,
    )


def _before(scene: Scene, rip: int) -> bytes:
    """The bytes before RIP."""
    return scene.read(rip - len(ZEROS), len(ZEROS)) if rip >= len(ZEROS) else b""


CAUSES = (zeros,)
