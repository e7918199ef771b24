"""Snapshots: all that is got from one vCPU is put to a fresh one, in the order of `facts.states`.

Some facts about the order. To put one state may undo another. The general-purpose registers drop an exception that is
pending, since who sets them sends the guest elsewhere; so events come behind them.
"""

from __future__ import annotations

import struct

import attrs

from anyvisor.codec import class_named
from anyvisor.errors import Unsupported
from anyvisor.exits import Halted
from anyvisor.testing.bench import CODE, Bench
from anyvisor.testing.contracts.contract import Contract, MakeBench
from anyvisor.testing.requirements import lacking, needs
from anyvisor.testing.x86_64.entry import give_features
from anyvisor.x86_64.modes import REAL
from anyvisor.x86_64.state import Regs, VcpuEvents

HANDLER = CODE + 0x800
INVALID_OPCODE = 6
"""An exception without an error code."""


@needs(architecture="x86_64")
class RestoreOrderContract(Contract):
    """No state that is restored in the order of `facts.states` undoes one that was restored before it."""

    @needs(states=(Regs, VcpuEvents))
    def test_a_pending_exception_is_not_lost_by_the_order(self, bench: MakeBench) -> None:
        """An exception that is pending in a snapshot is pending behind it: events come behind the registers."""
        first, second = with_exception(bench), bench()
        restore(first, second)
        wanted = first.vcpu.get(VcpuEvents)
        assert second.vcpu.get(VcpuEvents) == wanted, f"lost by the order of facts.states: {first.facts.states}"

    @needs(states=(Regs, VcpuEvents), modes=(REAL,))
    def test_the_guest_takes_an_exception_that_was_pending(self, bench: MakeBench) -> None:
        """The restored guest's first instruction is the exception's handler's."""
        first, second = with_exception(bench), bench()
        second.memory.write(CODE, second.guests.HALT.code[REAL])
        second.memory.write(HANDLER, second.guests.OUT_42.code[REAL])
        second.memory.write(4 * INVALID_OPCODE, struct.pack("<HH", HANDLER, 0))
        restore(first, second)
        assert second.run() == Halted()
        assert second.ports.values == [42], "the exception was lost by the order of facts.states: no handler ran"


def with_exception(bench: MakeBench) -> Bench:
    """A guest that is about to take an exception, in place of its HLT."""
    made = bench()
    give_features(made)
    made.enter(made.guests.HALT)
    events = attrs.evolve(made.vcpu.get(VcpuEvents), exception_pending=True, exception_vector=INVALID_OPCODE)
    try:
        made.vcpu.put(events)
    except Unsupported:
        lacking(made.facts, "a pending exception to be put")
    return made


def restore(first: Bench, second: Bench) -> None:
    """What a snapshot does: every state of the vCPU, in the order that the backend has told."""
    kinds = [class_named(name) for name in first.facts.states]
    states = [first.vcpu.get(kind) for kind in kinds if kind in first.readable_kinds()]
    for state in states:
        second.vcpu.put(state)
