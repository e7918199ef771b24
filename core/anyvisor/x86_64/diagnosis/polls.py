"""A guest that polls: it reads a port or MMIO again and again.

Some facts about polling. Such a loop ends by a device that answers otherwise. Where there is no device every read gives
all ones, so it may never end. Between the reads a loop may write to another port that does nothing but take time.
"""

from __future__ import annotations

import collections
from collections.abc import Sequence

from anyvisor.diagnosis.evidence import Evidence
from anyvisor.diagnosis.report import Cause
from anyvisor.flight import NotedExit
from anyvisor.x86_64.diagnosis.exits import device_at
from anyvisor.x86_64.diagnosis.scene import Scene

POLLS = 16
"""As many reads of one address make a poll."""
DELAY = ("port", 0x80)
"""A write there does nothing but take time, and loops that poll make some."""
POLLED_ADDRESSES = 3
"""A loop that polls may touch a few others, such as a port that gives delay."""
WATCHED, ENDED, POLLED_AND_DIED = 85, 89, 55
"""How strongly it speaks that nobody answers. Who polls does not die of it: it has gone on since."""
WATCHED_DEVICE, ENDED_AT_DEVICE = 60, 35
"""The same where a device answers."""


def polling(scene: Scene) -> Cause | None:
    """A guest that reads one address again and again."""
    evidence = scene.evidence
    accesses = _accesses(evidence)
    reads = [each for each in accesses if each.is_read]
    told = [each for each in accesses if not each.is_read and each.place != DELAY]
    if 2 * len(reads) < POLLS or 4 * len(told) > len(accesses):  # it tells a device something: it may be printing
        return None
    if len({each.place for each in accesses}) > POLLED_ADDRESSES:
        return None
    place = collections.Counter(each.place for each in reads).most_common(1)[0][0]
    same = [each for each in reads if each.place == place]
    seen = f"{len(same)} of the last {len(accesses)} accesses read it, and {_answer(same)}"
    if place in evidence.unclaimed:
        return _nobody(scene, place, seen)
    return _device(evidence, place, seen) if evidence.rips or evidence.exit else None  # else it may be about to go on


def _accesses(evidence: Evidence) -> tuple[NotedExit, ...]:
    """Those to judge by: all while it was watched, else the last; none where they are too few."""
    if evidence.rips:
        noted = evidence.last_exits[-evidence.watched_exits :] if evidence.watched_exits else ()
        found = tuple(each for each in noted if each.exit is None)
        return found if sum(each.is_read for each in found) >= POLLS else ()
    return evidence.accesses[-POLLS:] if len(evidence.accesses) >= POLLS else ()


def _nobody(scene: Scene, place: tuple[str, int], seen: str) -> Cause:
    evidence = scene.evidence
    times = evidence.unclaimed[place]
    return Cause(
        "polling-nobody",
        f"vCPU {evidence.vcpu} polls {place_words(place)}, which no device answers, {times} times so far",
        (seen, "what no device answers reads as all ones"),
        "add a device that answers there (anyvisor_devices), or tell the kernel that there is none",
        weight=WATCHED if evidence.rips else POLLED_AND_DIED if scene.has_died else ENDED,
    )


def _device(evidence: Evidence, place: tuple[str, int], seen: str) -> Cause:
    device = device_at(evidence, *place)
    return Cause(
        "polling-device",
        f"vCPU {evidence.vcpu} polls {place_words(place)}{f' of {device.name}' if device else ''}",
        (seen,),
        "see what the guest waits for there: input, or a bit that the device never sets",
        weight=WATCHED_DEVICE if evidence.rips else ENDED_AT_DEVICE,
    )


def place_words(place: tuple[str, int]) -> str:
    """A port or MMIO address in words."""
    space, address = place
    return f"{'port' if space == 'port' else 'MMIO address'} {address:#x}"


def _answer(reads: Sequence[NotedExit]) -> str:
    values = {each.value for each in reads}
    last = reads[-1].value
    return f"the answer was {last:#x} every time" if len(values) == 1 and last is not None else "answers differ"
