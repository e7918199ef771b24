"""What the run loop needs to note exits in a flight recorder (`anyvisor.flight`).

Some facts about cost. The loop notes plain port accesses itself, 75 ns each, and a third of that is reading RIP from
the run page, where KVM puts it at every exit once it is asked to. MMIO, strings and odd sizes, which cost several times
as much anyway, go to the devices through a `TappedBus`. Of gathered writes (`ring`) nobody knows RIP any more.

Some facts about a death. Where KVM resets a vCPU that shuts down (`x86_64/shutdown.py`) its last state is gone before
KVM_RUN returns. There, and only there, the loop copies the registers of the exit before out of the run page each time
it goes in, which costs another 100 ns; `baseline` puts those there that `run` begins with.
"""

from __future__ import annotations

from collections.abc import Callable

from anyvisor.bus import Bus
from anyvisor.flight import Entry, ExitRing
from anyvisor.tapped_bus import TappedBus
from anyvisor_kvm.architecture import Synced
from anyvisor_kvm.run_page import RunPage

Taps = tuple[Callable[[Entry], None] | None, int, slice | None, Bus, Bus]
"""What a run needs.

What notes a port access; which 64-bit word of the run page holds RIP; which of its bytes hold the state that KVM would
destroy at a death; the bus for all other accesses, and that for writes that come late.
"""


class Noting:
    """Nothing is noted."""

    latest = b""
    """The state that KVM would destroy at a death, as of the last exit but one."""

    def on(self, bus: Bus) -> Taps:
        """What a run on `bus` needs."""
        return None, 0, None, bus, bus

    def baseline(self) -> None:
        """A run begins."""

    def state_was_lost(self) -> None:
        """The vCPU has died, and KVM has reset it."""


class RingNoting(Noting):
    """Every access is noted in `ring`."""

    def __init__(self, ring: ExitRing, page: RunPage, synced: Synced):
        self._ring = ring
        self._page = page
        self._synced = synced
        self._rip_at, self._kept = synced.record()
        self._taps: Taps = super().on(Bus())
        self._tapped: Bus | None = None

    def on(self, bus: Bus) -> Taps:
        """What a run on `bus` needs; remembered, since the next one is most often on the same."""
        if self._tapped is not bus:
            ring = self._ring
            buses = TappedBus(bus, ring, self._page.u64, self._rip_at), TappedBus(bus, ring)
            self._tapped, self._taps = bus, (ring.append, self._rip_at, self._kept, *buses)
        return self._taps

    def baseline(self) -> None:
        """Have the state in the run page with which the run begins."""
        if self._kept is not None:
            self._synced.fill()

    def state_was_lost(self) -> None:
        """Keep what it was before."""
        self._ring.before.update(self._synced.states_in(self.latest))
