"""Causes of a kernel that never started: the code in front of it could not unpack it.

Some facts about unpacking. A bzImage is a small program with a packed kernel. What goes wrong there it tells on the
console that `earlyprintk` names, and on no other; behind it prints ` -- System halted`, and halts with interrupts off.
So without that option it is silent, but the words are in its data.
"""

from __future__ import annotations

from collections.abc import Iterator

from anyvisor.diagnosis.report import Cause
from anyvisor.exits import Halted
from anyvisor.memory import KIB
from anyvisor.x86_64.diagnosis.scene import Scene

LAST_WORDS = b" -- System halted"
"""Linux's arch/x86/boot/compressed/misc.c and error.c; a kernel that runs says it without the dashes."""
REACH_BYTES = 256 * KIB
"""How far behind its code the unpacker's strings are at most."""
HLT = 0xF4


def not_unpacked(scene: Scene) -> Iterator[Cause]:
    """A guest that was never heard of is halted in Linux's unpacker."""
    regs, exit_ = scene.regs, scene.evidence.exit
    if regs is None or scene.rip is None or regs.rflags.interrupt_enable or not scene.evidence.is_early:
        return
    if not (exit_ is None or isinstance(exit_, Halted)) or scene.number(scene.rip - 1, 1) != HLT:
        return
    if LAST_WORDS in scene.read(scene.rip, REACH_BYTES):
        yield Cause(
            name="kernel-not-unpacked",
            summary=f"the kernel could not unpack itself, and halted at {scene.place(scene.rip)} without a word",
            because=("RIP is behind a HLT with interrupts off, in the code whose last words are '-- System halted'",),
            remedy="add earlyprintk=ttyS0 (--append), and it says why; most often the file is damaged, or something "
            "was placed over it: get it again, and see with `anyvisor plan` what lies where",
            section="Documentation/arch/x86/boot.rst",
            weight=96,
        )


CAUSES = (not_unpacked,)
