"""The chips that the vCPUs of a VM share, and the clock: registers to get and put, in KVM's order.

Some facts about what they do here: nothing. A line that rises only wakes the boot processor (`anyvisor_mock.vcpu`), the
PIT does not count, and no access of a script reaches them: it goes to the bus.
"""

from __future__ import annotations

import time
from typing import Any

import attrs

from anyvisor.errors import Unsupported
from anyvisor.states import VmState
from anyvisor.x86_64.chips import Clock, Ioapic, Irqchip, Pic, Pit, PitChannel
from anyvisor_mock.x86_64 import rules
from anyvisor_mock.x86_64.widths import check_widths

RESET_CHIPS = Irqchip(Pic(elcr_mask=0xF8), Pic(elcr_mask=0xDE), Ioapic())
"""As KVM creates them."""
RESET_PIT = (PitChannel(mode=0xFF, gate=1), PitChannel(mode=0xFF, gate=1), PitChannel(mode=0xFF))


class X86Chips:
    """Those of one VM; see `anyvisor_mock.architecture.Chips`."""

    def __init__(self, name: str):
        self._name = name
        self._irqchip: Irqchip | None = None
        self._pit: Pit | None = None
        self._clock_began = time.monotonic_ns()

    @property
    def has_irqchip(self) -> bool:
        """Whether the interrupt chips are there."""
        return self._irqchip is not None

    def get(self, kind: type[VmState]) -> Any:
        """A state."""
        if kind is Irqchip:
            if self._irqchip is None:
                raise rules.CHIPS_THERE.broken("get Irqchip", self._name)
            return self._irqchip
        if kind is Pit:
            if self._pit is None:
                raise rules.PIT_THERE.broken("get Pit", self._name)
            return self._pit
        if kind is Clock:
            return Clock(time.monotonic_ns() - self._clock_began)
        raise Unsupported(f"get {kind.__name__}: the mock's x86_64 has no such state")

    def put(self, state: VmState, *, vcpus: int) -> None:
        """Set a state; the first put of a chip creates it."""
        if isinstance(state, Irqchip):
            self._put_irqchip(state, vcpus)
        elif isinstance(state, Pit):
            self._put_pit(state)
        elif isinstance(state, Clock):
            self._clock_began = time.monotonic_ns() - state.nanoseconds
        else:
            raise Unsupported(f"put {type(state).__name__}: the mock's x86_64 has no such state")

    def _put_irqchip(self, state: Irqchip, vcpus: int) -> None:
        parts = {each.name: getattr(state, each.name) for each in attrs.fields(Irqchip)}
        given = {name: part for name, part in parts.items() if part is not None}
        if self._irqchip is None:
            if vcpus:
                raise rules.IRQCHIP_FIRST.broken("put Irqchip", f"{self._name} has {vcpus} vCPU(s)")
            self._irqchip = RESET_CHIPS
        for name, part in given.items():
            check_widths("put Irqchip", f"{self._name}: {name}", part)
        self._irqchip = attrs.evolve(self._irqchip, **given)

    def _put_pit(self, state: Pit) -> None:
        if self._irqchip is None:
            raise rules.PIT_CHIPS.broken("put Pit", self._name)
        self._pit = self._pit or Pit(RESET_PIT)
        for channel in state.channels or ():
            check_widths("put Pit", self._name, channel)
        if state.channels is not None:
            self._pit = state

    def check_line(self, gsi: int) -> None:
        """HypervisorError where there are no lines."""
        if self._irqchip is None:
            raise rules.LINES.broken("set_irq", f"{self._name}: gsi {gsi}")
