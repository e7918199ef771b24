"""Causes that the guest itself tells of."""

from __future__ import annotations

from collections.abc import Iterator

from anyvisor.diagnosis.report import Cause
from anyvisor.panic_advice import advice
from anyvisor.panics import Panic, find_panic
from anyvisor.x86_64.diagnosis.scene import Scene

LAST_WORDS, SURVIVED = 90, 45
"""How strongly a panic speaks that nothing came after, and one after which the guest went on."""


def last_words(scene: Scene) -> Panic | None:
    """What the kernel said when it gave up: on its console, or, where that is silent, in the log in its memory."""
    return scene.evidence.panic or find_panic(scene.kernel_log)


def kernel_panic(scene: Scene) -> Iterator[Cause]:
    """A kernel that said that it gives up."""
    panic = last_words(scene)
    if panic is None:
        return
    where = () if scene.evidence.panic else ("its console is silent: this is from the log in its memory",)
    meaning, remedy = advice(panic) or ("", "read its last words in the report, from the first of them on")
    yield Cause(
        name=f"guest-{panic.kind}",
        summary=str(panic),
        because=(*filter(None, (meaning, panic.message if panic.cause else "")), *where),
        remedy=remedy,
        weight=LAST_WORDS if panic.is_last or where else SURVIVED,
    )


CAUSES = (kernel_panic,)
