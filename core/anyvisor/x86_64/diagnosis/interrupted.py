"""Where a guest in real mode was when an event went through an empty vector.

Some facts about real mode (SDM Vol. 3, 21.1.4). The table of vectors lies at address 0, four bytes each, and all of
them are zero where no BIOS has filled them. An exception, or an INT, then goes on at 0000:0000, and nothing stops it:
there are zeros, which are instructions that change no register. So a guest that executes zeros down there may have met
an event, and the stack still holds where: IP, CS, and FLAGS, with the last pushed lowest. The zeros add AL to a byte,
often that at address 0, which is executed in the next round, and then may be any instruction. The rounds end at the
guest's own code, which does the same again, so that frames pile up, and may lie over that code at last: what was loaded
there counts.
"""

from __future__ import annotations

import struct

import attrs

from anyvisor.x86_64.control import Rflags
from anyvisor.x86_64.diagnosis.scene import Scene
from anyvisor.x86_64.disassembly import MAX_INSTRUCTION_BYTES
from anyvisor.x86_64.modes import REAL

FRAME = struct.Struct("<HHH")
ALWAYS_CLEAR = 1 << 3 | 1 << 5 | 1 << 15
SEGMENT_SHIFT, LOW_16 = 4, 0xFFFF


@attrs.frozen
class Interrupted:
    """Where the event came: CS and IP as they were pushed, and the guest with the registers that it had there."""

    scene: Scene
    cs: int
    ip: int

    @property
    def rip(self) -> int:
        """The linear address."""
        return (self.cs << SEGMENT_SHIFT) + self.ip

    def place(self, before_bytes: int = 0) -> str:
        """The address in words, or one so far before it: `07c0:0005, 0x7c05 (raw image+0x5)`."""
        return f"{self.cs:04x}:{self.ip - before_bytes:04x}, {self.scene.place(self.rip - before_bytes)}"


def interrupted(scene: Scene, moved_bytes: int = 0) -> Interrupted | None:
    """Where the guest was before it went on at 0000:0000; None where nothing says that it did.

    `moved_bytes` is how far from the stack pointer it is looked for: what was executed since may have moved that.
    """
    regs, sregs = scene.regs, scene.sregs
    if regs is None or sregs is None or scene.evidence.is_lost:
        return None
    if scene.mode != REAL or sregs.cs.base or regs.rflags.interrupt_enable:  # an event switches interrupts off
        return None
    pushed = scene.read(scene.linear(regs.rsp + moved_bytes & LOW_16, sregs.ss), FRAME.size)
    if len(pushed) < FRAME.size:
        return None
    ip, cs, flags = FRAME.unpack(pushed)
    if not Rflags(flags).fixed or flags & ALWAYS_CLEAR:
        return None
    before = attrs.evolve(regs, rip=ip, rsp=regs.rsp + FRAME.size & LOW_16, rflags=Rflags(flags))
    code = attrs.evolve(sregs.cs, selector=cs, base=cs << SEGMENT_SHIFT)
    place = max((cs << SEGMENT_SHIFT) + ip - MAX_INSTRUCTION_BYTES, 0)
    there = (
        scene.as_loaded(place, 2 * MAX_INSTRUCTION_BYTES) if scene.blob(place + MAX_INSTRUCTION_BYTES - 1) else scene
    )
    return Interrupted(there.changed(before, attrs.evolve(sregs, cs=code)), cs, ip)
