"""How interrupts get from a device to a vCPU.

A device raises a line of the platform, numbered by its GSI. Where the hypervisor has the interrupt controllers
(Capability.IRQCHIP), the line is theirs. Elsewhere they are devices of the machine's own: they listen to the lines, and
the one that the processor's INTR pin is wired to is its `InterruptSource`. When it has an interrupt, it says so by
`notify`; the vCPU looks at `pending` as soon as it can take one, and fetches the vector by `acknowledge`, as the INTA
cycle of a PC does.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

SetLine = Callable[[int, bool], None]
"""`set_line(gsi, level)`"""


class InterruptSource(Protocol):
    """What an INTR pin is wired to: an 8259 pair, a local APIC. Both may be called from any thread."""

    @property
    def pending(self) -> bool:
        """Whether INTR is asserted. Asked at every chance to take an interrupt, so it must be quick."""
        ...

    def acknowledge(self) -> int:
        """The INTA cycle: the vector of the interrupt that is taken, or of a spurious one if none is left."""
        ...


class InterruptWiring:
    """A machine's interrupt lines, and the boot processor's INTR pin.

    `set_line` is where the lines lead as long as no controller of our own listens; `take_from` wires the pin to a
    source, and `notify` tells the vCPU to look at it.
    """

    def __init__(self, set_line: SetLine, take_from: Callable[[InterruptSource], None], notify: Callable[[], None]):
        self._elsewhere = set_line
        self._listeners: tuple[SetLine, ...] = ()
        self._take_from = take_from
        self.notify = notify
        """Say that the source's `pending` has changed; from any thread, with locks held or not."""
        self.source: InterruptSource | None = None
        """What the pin is wired to now. A local APIC takes over, and passes on what was there before."""

    def line(self, gsi: int) -> Callable[[bool], None]:
        """The function that sets the level of one line."""

        def set_level(level: bool) -> None:
            for each in self._listeners or (self._elsewhere,):
                each(gsi, level)

        return set_level

    def listen(self, set_line: SetLine) -> None:
        """Let a controller of our own see every change of every line."""
        self._listeners += (set_line,)

    def connect(self, source: InterruptSource) -> None:
        """Wire the INTR pin to `source`, in place of what it was wired to."""
        self._take_from(source)
        self.source = source
