"""A guest that only writes, to where nobody is: it tells something, and nobody hears it, or it is in a loop for good.

Some facts about writes to nothing. They are lost, and the guest cannot know: it goes on. Kernels make some, to find
devices, and to take time (port 0x80), but between reads and writes of devices that are there. A guest that for a third
of a second does nothing else has no device where it thinks that one is. But while it works all over its code, it may
be just that which it tells of, and only of text is it sure that somebody should read it.
"""

from __future__ import annotations

from collections.abc import Sequence

from anyvisor.diagnosis.report import Cause
from anyvisor.flight import NotedExit
from anyvisor.memory import PAGE_BYTES
from anyvisor.x86_64.diagnosis.polls import DELAY, POLLED_ADDRESSES, place_words
from anyvisor.x86_64.diagnosis.scene import Scene

WRITES = 64
"""As many writes in a row are no accident."""
SHOWN_CHARACTERS = 40
PRINTABLE = (*range(0x20, 0x7F), 0x0A, 0x0D, 0x09)


def writing(scene: Scene) -> Cause | None:
    """A guest that was watched: all that left it were writes to a few addresses where no device is."""
    evidence = scene.evidence
    noted = evidence.last_exits[-evidence.watched_exits :] if evidence.rips and evidence.watched_exits else ()
    writes = [each for each in noted if each.exit is None]
    places = sorted({each.place for each in writes})
    if len(writes) < WRITES or any(each.is_read for each in writes) or len(places) > POLLED_ADDRESSES:
        return None
    if places == [DELAY] or not all(each in evidence.unclaimed for each in places):
        return None
    if not (_is_text(writes) or max(evidence.rips) - min(evidence.rips) < PAGE_BYTES):
        return None
    times = sum(evidence.unclaimed.get(each, 0) for each in places)
    return Cause(
        "writing-to-nobody",
        f"vCPU {evidence.vcpu} only writes, to {' and '.join(map(place_words, places))}, where no device is; {times} "
        "times so far",
        (f"the last {len(writes)} accesses were all writes, and {_what(writes)}", "what no device takes is lost"),
        "add a device that answers there (anyvisor_devices), or use the one that is there: `anyvisor plan` lists them, "
        "with their ports and addresses",
        weight=70,
    )


def _is_text(writes: Sequence[NotedExit]) -> bool:
    return len({each.value for each in writes}) > 1 and all(each.value in PRINTABLE for each in writes)


def _what(writes: Sequence[NotedExit]) -> str:
    """What was written, in words."""
    values = [each.value or 0 for each in writes]
    if _is_text(writes):
        return f"what they wrote reads {bytes(values[-SHOWN_CHARACTERS:]).decode('ascii')!r}"
    return f"wrote {values[-1]:#x} every time" if len({*values}) == 1 else "wrote this and that"
