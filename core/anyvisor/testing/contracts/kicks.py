"""`Vcpu.kick`: from any thread, at any moment, it ends `run` once; and nothing that the guest does is lost by it."""

from __future__ import annotations

import pytest

from anyvisor.exits import Halted, Kicked
from anyvisor.facts import Capability
from anyvisor.testing.bench import CODE
from anyvisor.testing.contracts.contract import Contract, MakeBench
from anyvisor.testing.listener import Vectors
from anyvisor.testing.requirements import needs

OTHER_CODE = CODE + 0x800
A_MOMENT_SECONDS = 0.05
"""So long must something not happen for it to count as not happening."""


@needs(Capability.KICK)
class KickContract(Contract):
    """Kicks one at a time; `kick_races` has those at random moments."""

    def test_a_kick_before_run_makes_it_return_at_once(self, bench: MakeBench) -> None:
        """A kick while nobody is in `run` is kept: the next `run` returns `Kicked` before the guest does anything."""
        made = bench()
        made.enter(made.guests.OUT_42)
        made.vcpu.kick()
        assert made.run() == Kicked(), "the kick that came before `run` was missed"
        assert made.ports.writes == [], "the guest must not have run"
        assert made.run() == Halted(), "the kick is over when `run` has returned for it"
        assert made.ports.writes == [(0, 1, 42)]

    def test_two_kicks_are_one(self, bench: MakeBench) -> None:
        """Kicks do not count: after any number of them, one `run` returns `Kicked`, and the next one goes on."""
        made = bench()
        made.enter(made.guests.OUT_42)
        for _ in range(3):
            made.vcpu.kick()
        assert made.run() == Kicked()
        assert made.run() == Halted()

    def test_a_kick_ends_a_guest_that_spins(self, bench: MakeBench) -> None:
        """A guest that never leaves by itself is left for a kick from another thread."""
        made = bench()
        made.enter(made.guests.OUT_42_THEN_SPIN)
        underway = made.start()
        underway.until(lambda: made.ports.writes, "the guest's first OUT")
        made.vcpu.kick()
        assert underway.result() == Kicked()

    def test_a_kicked_guest_goes_on_where_it_was(self, bench: MakeBench) -> None:
        """After `Kicked`, `run` goes on: a guest that spins spins on, and does not begin again."""
        made = bench()
        made.enter(made.guests.OUT_42_THEN_SPIN)
        for _ in range(3):
            underway = made.start()
            underway.until(lambda: made.ports.writes, "the guest's first OUT")
            made.vcpu.kick()
            assert underway.result() == Kicked()
        assert made.ports.values == [42]

    def test_a_kick_from_a_device_that_is_called(self, bench: MakeBench) -> None:
        """A device may kick the vCPU that calls it: `run` returns `Kicked` behind the access, which is over."""
        made = bench()
        made.ports.then = made.vcpu.kick
        made.enter(made.guests.OUT_42)
        assert made.run() == Kicked()
        assert made.run() == Halted()
        assert made.ports.writes == [(0, 1, 42)], "the OUT that was under way must be done once"

    def test_after_a_kick_no_access_is_half_done(self, bench: MakeBench) -> None:
        """At `Kicked` the IN under way is over: states can be read and put back, and the guest has the value."""
        made = bench()
        made.ports.answers.append(0x5A)
        made.ports.then = made.vcpu.kick
        made.enter(made.guests.ECHO)
        assert made.run() == Kicked()
        for kind in made.readable_kinds():
            made.vcpu.put(made.vcpu.get(kind))
        assert made.run() == Halted()
        assert made.ports.reads == [(0, 1)], "the IN that was under way must be done once"
        assert made.others.values == [0x5A], "the value of the IN that was under way must be in the guest"

    def test_a_guest_may_be_put_elsewhere_after_a_kick(self, bench: MakeBench) -> None:
        """What is put after `Kicked` counts: the vCPU is at the new guest's first instruction."""
        made = bench()
        made.enter(made.guests.OUT_42_THEN_SPIN)
        underway = made.start()
        underway.until(lambda: made.ports.writes, "the guest's first OUT")
        made.vcpu.kick()
        assert underway.result() == Kicked()
        made.enter(made.guests.ECHO, code=OTHER_CODE)
        assert made.run() == Halted(), "a kick that has been returned for is over"
        assert (made.ports.values, made.others.values) == ([42], [0])

    @needs(vcpus=2)
    def test_a_kick_is_for_one_vcpu(self, bench: MakeBench) -> None:
        """A kick of one vCPU does not end the `run` of another."""
        made = bench(vcpus=2)
        made.enter(made.guests.SPIN, vcpu=0)
        made.enter(made.guests.SPIN, vcpu=1, code=OTHER_CODE)
        first, second = made.start(0), made.start(1)
        made.vcpus[1].kick()
        assert second.result() == Kicked()
        assert not first.is_over(A_MOMENT_SECONDS), "the other vCPU's kick ended this one's run"
        made.vcpus[0].kick()
        assert first.result() == Kicked()

    def test_a_kick_ends_the_wait_for_an_interrupt(self, bench: MakeBench) -> None:
        """A vCPU that waits in HLT returns for a kick, and the next `run` waits on: it has not been woken."""
        made = bench(source=Vectors())
        made.enter(made.guests_of("running").WAIT)
        for _ in range(2):
            underway = made.start()
            assert not underway.is_over(A_MOMENT_SECONDS), "HLT must wait for the interrupt source"
            made.vcpu.kick()
            assert underway.result() == Kicked()

    def test_a_kick_that_meets_an_error_is_kept(self, bench: MakeBench) -> None:
        """When a device kicks and then fails, `run` raises its error, and the next one returns `Kicked`."""
        made = bench()

        def kick_and_fail() -> None:
            made.vcpu.kick()
            raise LookupError("the device is broken")

        made.ports.then = kick_and_fail
        made.enter(made.guests.OUT_42)
        with pytest.raises(LookupError):
            made.run()
        assert made.run() == Kicked()
        assert made.run() == Halted()
