"""A processor's state on a way that is followed without executing it: see `ahead`.

Some facts about what is known on the way. A register that nobody can tell is noted as unknown. What is pushed is
remembered, since memory is that of the death, and holds what was pushed last.
"""

from __future__ import annotations

from typing import Any

import attrs

from anyvisor.x86_64.diagnosis.scene import Scene
from anyvisor.x86_64.paging_modes import LOW_32, LOW_64
from anyvisor.x86_64.state import Sregs

LOOKS = 4096
"""As many instructions beside the way are looked at, whatever the guest holds."""


@attrs.define
class Way:
    """How far the way has been followed: the scene there, the linear address, and what is known.

    `unknown` are the names of registers, `pushed` the words on the stack by linear address, None for one not known.
    `looks_left` is how many instructions beside the way may still be looked at.
    """

    scene: Scene
    rip: int
    unknown: set[str] = attrs.field(factory=set)
    pushed: dict[int, int | None] = attrs.field(factory=dict)
    looks_left: int = LOOKS

    def set(self, name: str, value: int | None) -> None:
        """A register has that value from here on; None for one that is not known."""
        if value is None or self.scene.regs is None:
            self.unknown.add(name)
            return
        self.unknown.discard(name)
        fields: dict[str, Any] = {name: value & LOW_64}
        self.scene = self.scene.changed(attrs.evolve(self.scene.regs, **fields))

    def get(self, name: str) -> int | None:
        """The value of a register, None where it is not known."""
        return None if name in self.unknown else int(getattr(self.scene.regs, name))

    def control(self, **fields: Any) -> None:
        """Special registers have these values from here on; long mode is active when EFER.LME and paging are on."""
        assert self.scene.sregs
        sregs: Sregs = attrs.evolve(self.scene.sregs, **fields)
        sregs = attrs.evolve(sregs, efer=sregs.efer.replace(lma=sregs.efer.lme and sregs.cr0.pg))
        self.scene = self.scene.changed(sregs)

    # -- where it goes -------------------------------------------------------------------------------------------------

    def offset(self, linear: int) -> int:
        """A linear address in the code segment as the processor has it in RIP."""
        if self.scene.bits == 64 or self.scene.sregs is None:
            return linear
        return linear - self.scene.sregs.cs.base & LOW_32

    def go_to(self, offset: int) -> None:
        """Go on at that RIP."""
        self.rip = self.scene.code_address(offset & (1 << self.scene.bits) - 1)

    # -- the stack -----------------------------------------------------------------------------------------------------

    @property
    def word_bytes(self) -> int:
        """How big a word on the stack is."""
        return self.scene.bits // 8

    @property
    def top(self) -> int | None:
        """The linear address of the word on the stack that was pushed last; None where it is not known."""
        return None if "rsp" in self.unknown else self.scene.rsp

    def push(self, value: int | None) -> None:
        """Push a word, None for one that is not known."""
        self.move_stack(-self.word_bytes)
        if self.top is not None:
            self.pushed[self.top] = None if value is None else value & (1 << 8 * self.word_bytes) - 1

    def pop(self) -> int | None:
        """The word that was pushed last, None for one that is not known."""
        found = None if self.top is None else self.pushed.get(self.top)
        self.move_stack(self.word_bytes)
        return found

    def move_stack(self, size_bytes: int) -> None:
        """The stack pointer is that much higher from here on."""
        rsp = self.get("rsp")
        self.set("rsp", None if rsp is None else rsp + size_bytes)
