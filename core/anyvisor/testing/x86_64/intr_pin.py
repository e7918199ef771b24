"""Interrupts from a controller of the machine's own: when a vCPU takes one, and that none is lost or taken twice.

Some facts about the INTR pin. The processor looks at it between two instructions, and only with RFLAGS.IF set. STI and
a load of SS put it off until behind the instruction that follows (SDM Vol. 3, 7.8.3 and 6.8.3). Until the processor
acknowledges, a controller may withdraw what it had.
"""

from __future__ import annotations

import random
import time
from functools import partial

import pytest

from anyvisor.exits import Halted, Kicked
from anyvisor.facts import Capability
from anyvisor.testing.bench import Bench
from anyvisor.testing.contracts.contract import Contract, MakeBench
from anyvisor.testing.guest import TinyGuest
from anyvisor.testing.listener import Vectors
from anyvisor.testing.requirements import needs
from anyvisor.testing.watch import until
from anyvisor.testing.x86_64 import interrupt_guests as guests
from anyvisor.x86_64.modes import REAL

FIRST, SECOND, LAST = 0x20, 0x21, 0xFF
A_MOMENT_SECONDS = 0.05
MANY = 200
SEED = 8259
LONGEST_SECONDS = 200e-6


@needs(Capability.FULL_PROCESSOR, Capability.KICK, architecture="x86_64", modes=(REAL,))
class IntrPinContract(Contract):
    """In a VM without interrupt controllers of the hypervisor."""

    def test_interrupts_are_taken_in_the_sources_order_each_once(self, bench: MakeBench) -> None:
        """Each vector that the source gives reaches its handler, once."""
        source = Vectors(FIRST, LAST, SECOND, FIRST)
        made = bench(source=source)
        guests.install(made, FIRST, SECOND, LAST)
        made.enter(guests.SPIN)
        underway = made.start()
        until(lambda: len(made.ports.writes) >= 5, "four interrupts")
        made.vcpu.kick()
        assert underway.result() == Kicked()
        said = [value for offset, _, value in made.ports.writes if offset == 0]
        assert said == source.taken == [FIRST, LAST, SECOND, FIRST]

    def test_with_interrupts_off_none_is_taken(self, bench: MakeBench) -> None:
        """With IF clear an interrupt waits; and HLT is then the end, whatever waits."""
        source = Vectors(FIRST)
        made = bench(source=source)
        guests.install(made, FIRST)
        made.enter(guests.OFF)
        assert made.run() == Halted()
        assert [offset for offset, _, _ in made.ports.writes] == [1, 2]
        assert source.taken == [], "an interrupt was acknowledged with interrupts off"

    def test_none_is_taken_in_the_shadow_of_sti(self, bench: MakeBench) -> None:
        """An interrupt that waits for STI still waits for the instruction behind it."""
        made = bench(source=Vectors(FIRST))
        guests.install(made, FIRST)
        made.enter(guests.STI_SHADOW)
        assert _order_of_three(made) == [1, 2, 0]

    def test_none_is_taken_in_the_shadow_of_a_load_of_ss(self, bench: MakeBench) -> None:
        """An interrupt that comes while MOV SS is done waits for the instruction behind it: a load of RSP, mostly."""
        source = Vectors()
        made = bench(source=source)

        def ask() -> None:
            source.waiting.append(FIRST)
            made.vcpu.notify_interrupt()

        made.mmio.then = ask
        guests.install(made, FIRST)
        made.enter(guests.SS_SHADOW)
        assert _order_of_three(made) == [1, 2, 0]

    def test_what_is_withdrawn_in_time_is_not_acknowledged(self, bench: MakeBench) -> None:
        """An interrupt that the source takes back while it cannot be taken never was."""
        source = Vectors(FIRST)
        made = bench(source=source)
        made.ports.then = source.waiting.clear
        guests.install(made, FIRST)
        made.enter(guests.BRIEFLY_ON)
        assert made.run() == Halted()
        assert [offset for offset, _, _ in made.ports.writes] == [1, 2]
        assert source.taken == []

    @pytest.mark.parametrize("guest", [guests.WAIT, guests.SPIN], ids=["hlt", "spin"])
    def test_a_notice_from_another_thread_gets_an_interrupt_in(self, bench: MakeBench, guest: TinyGuest) -> None:
        """`notify_interrupt` makes the vCPU look, whether it waits in HLT or spins; `run` does not return for it."""
        source = Vectors()
        made = bench(source=source)
        guests.install(made, FIRST)
        made.enter(guest)
        underway = made.start()
        assert not underway.is_over(A_MOMENT_SECONDS), "HLT with interrupts on must wait for the source"
        source.waiting.append(FIRST)
        made.vcpu.notify_interrupt()
        until(lambda: FIRST in made.ports.values, "the handler")
        assert not underway.is_over(A_MOMENT_SECONDS), "`run` returned for an interrupt"
        made.vcpu.kick()
        assert underway.result() == Kicked()

    def test_a_guest_that_was_woken_goes_on_behind_its_hlt(self, bench: MakeBench) -> None:
        """The handler first, then what stands behind HLT."""
        made = bench(source=Vectors(FIRST))
        guests.install(made, FIRST)
        made.enter(guests.WAIT_ONCE)
        assert made.run() == Halted()
        assert [offset for offset, _, _ in made.ports.writes] == [0, 1]

    def test_without_a_source_hlt_is_the_end(self, bench: MakeBench) -> None:
        """Nothing can wake a vCPU that nobody interrupts: `Halted`, with interrupts on, too."""
        made = bench()
        made.enter(guests.WAIT)
        assert made.run() == Halted()
        assert made.run() == Halted(), "and the guest goes on behind it"

    def test_a_kick_takes_no_interrupt_away(self, bench: MakeBench) -> None:
        """A kick and an interrupt at the same time: `Kicked`, and the handler runs, before or after."""
        source = Vectors()
        made = bench(source=source)
        guests.install(made, FIRST)
        made.enter(guests.WAIT)
        source.waiting.append(FIRST)
        made.vcpu.notify_interrupt()
        made.vcpu.kick()
        assert made.run() == Kicked()
        underway = made.start()
        until(lambda: made.ports.writes, "the handler, after the kick")
        made.vcpu.kick()
        assert underway.result() == Kicked()
        assert made.ports.values == source.taken == [FIRST]

    def test_interrupts_at_random_moments_are_all_taken(self, bench: MakeBench) -> None:
        """Of some hundred interrupts from another thread, on the way into HLT or out, each reaches its handler."""
        source = Vectors()
        made = bench(source=source)
        guests.install(made, FIRST)
        made.enter(guests.WAIT)
        underway = made.start()
        moments = random.Random(SEED)
        for number in range(MANY):
            time.sleep(moments.uniform(0, LONGEST_SECONDS))
            source.waiting.append(FIRST)
            made.vcpu.notify_interrupt()
            until(partial(_has_said, made, number + 1), f"interrupt number {number + 1}")
        made.vcpu.kick()
        assert underway.result() == Kicked()
        assert made.ports.values == [FIRST] * MANY


def _has_said(made: Bench, times: int) -> bool:
    return len(made.ports.writes) >= times


def _order_of_three(made: Bench) -> list[int]:
    """At which ports a guest and its handler spoke, in order."""
    __tracebackhide__ = True
    underway = made.start()
    until(lambda: len(made.ports.writes) >= 3, "the handler")
    made.vcpu.kick()
    assert underway.result() == Kicked()
    return [offset for offset, _, _ in made.ports.writes]
