"""What is known of a guest when somebody looks: all that a diagnosis goes by, as one value.

It holds no live handle but `read`, so everything that is said about a death can be tested without a hypervisor.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, TypeVar

import attrs

from anyvisor.exits import Exit, Shutdown
from anyvisor.flight import NotedExit
from anyvisor.panics import Panic
from anyvisor.plan import BootPlan, VcpuPlan
from anyvisor.states import Change, VcpuState

if TYPE_CHECKING:
    from anyvisor.symbols import Symbols

S = TypeVar("S", bound=VcpuState)
States = Mapping[type[VcpuState], VcpuState]

Read = Callable[[int, int], bytes]
"""`read(guest_address, size_bytes) -> bytes`: the guest's RAM; GuestMemoryError outside of it."""


@attrs.frozen
class Evidence:
    """What is known of one vCPU and its machine. `exit` is None when nothing has died and somebody only looks.

    `now` are the vCPU's states as they are, `before` as they were at the exit before the last, where the hypervisor
    has destroyed them since; `unreadable` says why a state could not be read. `last_exits` are the oldest first, of
    `exit_count` in all. `console` has the last lines of each console, `unclaimed` the accesses that no device answered
    (see `Bus.unclaimed`). `rips` are RIPs seen one after another of a guest that was watched for a while, and
    `watched_exits` how many of the last exits came meanwhile, None where that was not counted.
    """

    plan: BootPlan
    vcpu: int
    read: Read
    exit: Exit | None = None
    now: States = attrs.field(factory=dict)
    before: States = attrs.field(factory=dict)
    unreadable: Mapping[str, str] = attrs.field(factory=dict)
    last_exits: tuple[NotedExit, ...] = ()
    exit_count: int = 0
    console: Mapping[str, tuple[str, ...]] = attrs.field(factory=dict)
    panic: Panic | None = None
    unclaimed: Mapping[tuple[str, int], int] = attrs.field(factory=dict)
    rips: tuple[int, ...] = ()
    watched_exits: int | None = None
    symbols: Symbols | None = None

    @property
    def is_lost(self) -> bool:
        """Whether the death destroyed the vCPU's registers."""
        return isinstance(self.exit, Shutdown) and self.exit.state_is_lost

    @property
    def planned(self) -> VcpuPlan | None:
        """What the plan gives this vCPU."""
        return self.plan.vcpus[self.vcpu] if self.vcpu < len(self.plan.vcpus) else None

    @property
    def launched(self) -> States:
        """The states that the plan gave the vCPU, for its first instruction; a change is one of what it is `now`."""
        found: dict[type[VcpuState], VcpuState] = {}
        for each in self.planned.states if self.planned else ():
            kind = each.kind if isinstance(each, Change) else type(each)
            if not isinstance(each, Change):
                found[kind] = each
            elif kind in self.now:
                found[kind] = each.apply(found.get(kind, self.now[kind]))
        return found

    @property
    def states(self) -> States:
        """The states nearest to what happened that there are.

        They are `now`; where the death destroyed those they are `before`, or `launched` if there was no exit before.
        """
        return {**self.now, **(self.before or self.launched)} if self.is_lost else self.now

    @property
    def since(self) -> str:
        """What `states` are of, in words: empty for now, else when they were true."""
        if not self.is_lost:
            return ""
        if self.accesses and self.before:
            return "the last exit before"
        launched = self.launched
        moved = any(launched.get(kind, state) != state for kind, state in self.before.items())
        return "the last entry" if moved else "the first instruction"

    @property
    def accesses(self) -> tuple[NotedExit, ...]:
        """Those of the last exits that are accesses to ports or MMIO."""
        return tuple(each for each in self.last_exits if each.exit is None)

    @property
    def is_early(self) -> bool:
        """Whether nothing was ever heard of the guest: it has touched no device and has printed nothing.

        Where no device answers, it need not have meant to touch one.
        """
        return all(each.place in self.unclaimed for each in self.accesses) and not any(self.console.values())

    def state(self, kind: type[S]) -> S | None:
        """One of `states`; None where it could not be read."""
        return self.states.get(kind)  # type: ignore[return-value]
