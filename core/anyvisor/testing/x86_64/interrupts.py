"""Interrupts from controllers in the hypervisor: lines of a PC's 8259A, and eventfds that raise them."""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import partial

import pytest

from anyvisor.errors import Unsupported
from anyvisor.exits import Exit, Kicked
from anyvisor.facts import Capability
from anyvisor.testing.bench import Bench
from anyvisor.testing.contracts.contract import MakeBench
from anyvisor.testing.contracts.eventfds import EventfdFixture, MakeEventfd, signals
from anyvisor.testing.guest import TinyGuest
from anyvisor.testing.listener import Vectors
from anyvisor.testing.requirements import needs
from anyvisor.testing.watch import Underway, until
from anyvisor.testing.x86_64 import interrupt_guests as guests
from anyvisor.x86_64.chips import Irqchip
from anyvisor.x86_64.lapic import Lapic
from anyvisor.x86_64.modes import REAL

LINE, NEXT_LINE = guests.LINES
VECTOR, NEXT_VECTOR = guests.BASE + LINE, guests.BASE + NEXT_LINE
A_MOMENT_SECONDS = 0.05
Enter = Callable[[TinyGuest], Bench]
ODD_ID = 5


class WithChips(EventfdFixture):
    """What these contracts share: a VM with the chips, and handlers for two lines."""

    @pytest.fixture
    def enter(self, bench: MakeBench) -> Enter:
        """Makes a VM whose guest is at its first instruction: `enter(guests.PIC_WAIT)`."""

        def make(guest: TinyGuest) -> Bench:
            made = bench(states=(Irqchip(),))
            guests.install(made, VECTOR, NEXT_VECTOR, end_of_interrupt=True)
            made.enter(guest)
            return made

        return make


@needs(
    Capability.IRQCHIP,
    Capability.FULL_PROCESSOR,
    Capability.KICK,
    architecture="x86_64",
    states=(Irqchip,),
    modes=(REAL,),
)
class InterruptsContract(WithChips):
    """Lines that are raised and lowered by `Vm.set_irq`."""

    def test_a_line_wakes_a_guest_that_halted(self, enter: Enter) -> None:
        """HLT waits in `run`; a line raised by another thread wakes it with the vector that the guest chose."""
        made = enter(guests.PIC_WAIT)
        underway = _started(made)
        assert not underway.is_over(A_MOMENT_SECONDS), "HLT must wait for the hypervisor's controllers"
        made.vm.set_irq(LINE, True)
        until(lambda: VECTOR in made.ports.values, "the handler of the line")
        _end(made, underway)
        assert _vectors(made) == [VECTOR]

    def test_a_line_that_stays_up_interrupts_once(self, enter: Enter) -> None:
        """An edge-triggered line interrupts when it is raised, and again only when it has been lowered before."""
        made = enter(guests.PIC_WAIT)
        underway = _started(made)
        for times in (1, 2):
            made.vm.set_irq(LINE, True)
            until(partial(_has_said, made, times), "the handler of the line")
            made.vm.set_irq(LINE, True)
            assert not underway.is_over(A_MOMENT_SECONDS)
            assert _vectors(made).count(VECTOR) == times, "a line that was up already interrupted again"
            made.vm.set_irq(LINE, False)
        _end(made, underway)

    def test_the_lower_line_goes_first(self, enter: Enter) -> None:
        """Of two lines that wait, the 8259A gives the one of higher priority first: the lower number."""
        made = enter(guests.PIC_LATER)

        def raise_both() -> None:
            if len(made.ports.writes) == 1:
                made.vm.set_irq(NEXT_LINE, True)
                made.vm.set_irq(LINE, True)

        made.ports.then = raise_both
        underway = _started(made)
        until(lambda: len(_vectors(made)) == 2, "two handlers")
        _end(made, underway)
        assert _vectors(made) == [VECTOR, NEXT_VECTOR]

    def test_a_masked_line_waits_until_it_is_unmasked(self, enter: Enter) -> None:
        """A line that the guest has masked does not interrupt; unmasked, it does what it was raised for."""
        made = enter(guests.PIC_MASKED)
        made.ports.then = lambda: made.vm.set_irq(LINE, True)
        underway = _started(made)
        until(lambda: _vectors(made), "the handler of the line")
        _end(made, underway)
        assert [offset for offset, _, _ in made.ports.writes] == [1, 2, 0]

    def test_a_level_triggered_line_interrupts_until_it_is_lowered(self, enter: Enter) -> None:
        """A level-triggered line interrupts again after each end of interrupt, as long as it is up."""
        made = enter(guests.PIC_LEVEL)
        made.ports.then = lambda: made.vm.set_irq(LINE, len(_vectors(made)) < 3)
        underway = _started(made)
        until(lambda: len(_vectors(made)) == 3, "three times the handler of the line")
        assert not underway.is_over(A_MOMENT_SECONDS)
        _end(made, underway)
        assert _vectors(made) == [VECTOR] * 3

    def test_a_kick_ends_the_wait_and_the_next_run_waits_on(self, enter: Enter) -> None:
        """A kick in HLT makes `run` return `Kicked`; the guest is not woken by it, and a line wakes it later."""
        made = enter(guests.PIC_WAIT)
        underway = _started(made)
        _end(made, underway)
        later = made.start()
        assert not later.is_over(A_MOMENT_SECONDS), "a kick must not wake the guest for good"
        made.vm.set_irq(LINE, True)
        until(lambda: _vectors(made), "the handler of the line")
        _end(made, later)

    def test_a_source_of_ones_own_is_refused(self, enter: Enter) -> None:
        """Where the hypervisor has the controllers, no other can be wired to the vCPU: Unsupported."""
        made = enter(guests.PIC_WAIT)
        with pytest.raises(Unsupported):
            made.vcpu.take_interrupts_from(Vectors())

    @needs(states=(Lapic,))
    def test_the_hardware_id_is_the_local_apics(self, bench: MakeBench) -> None:
        """`create_vcpu(0, hardware_id=5)`: the local APIC has that id."""
        made = bench(states=(Irqchip(),), vcpus=0)
        assert made.vm.create_vcpu(0, hardware_id=ODD_ID).get(Lapic).id >> 24 == ODD_ID


@needs(
    Capability.IRQFD,
    Capability.FULL_PROCESSOR,
    Capability.KICK,
    architecture="x86_64",
    states=(Irqchip,),
    modes=(REAL,),
)
class IrqfdContract(WithChips):
    """Eventfds that raise lines."""

    def test_an_eventfd_raises_its_line(self, enter: Enter, eventfd: MakeEventfd) -> None:
        """Each signal of the eventfd interrupts once, without anybody lowering the line."""
        made, fd = enter(guests.PIC_WAIT), eventfd()
        made.vm.add_irqfd(fd, LINE)
        underway = _started(made)
        for times in (1, 2):
            os.eventfd_write(fd, 1)
            until(partial(_has_said, made, times), "the handler of the eventfd's line")
        _end(made, underway)

    def test_an_eventfd_that_was_removed_raises_nothing(self, enter: Enter, eventfd: MakeEventfd) -> None:
        """After `remove_irqfd` the eventfd is its owner's again."""
        made, fd = enter(guests.PIC_WAIT), eventfd()
        made.vm.add_irqfd(fd, LINE)
        made.vm.remove_irqfd(fd, LINE)
        underway = _started(made)
        os.eventfd_write(fd, 1)
        assert not underway.is_over(A_MOMENT_SECONDS)
        _end(made, underway)
        assert (_vectors(made), os.eventfd_read(fd)) == ([], 1)

    def test_the_end_of_interrupt_signals_the_other_eventfd(self, enter: Enter, eventfd: MakeEventfd) -> None:
        """A level-triggered line stays up until the guest's end of interrupt, which signals the `resample_fd`."""
        made, fd, resample = enter(guests.PIC_LEVEL), eventfd(), eventfd()
        made.vm.add_irqfd(fd, LINE, resample)
        underway = _started(made)
        os.eventfd_write(fd, 1)
        until(lambda: signals(resample), "the signal at the end of interrupt")
        _end(made, underway)
        assert _vectors(made) == [VECTOR], "the end of interrupt lowers the line"


def _started(made: Bench) -> Underway[Exit]:
    underway = made.start()
    until(lambda: made.ports.writes, "the guest setting up its interrupt controller")
    return underway


def _end(made: Bench, underway: Underway[Exit]) -> None:
    __tracebackhide__ = True
    made.vcpu.kick()
    assert underway.result() == Kicked()


def _has_said(made: Bench, times: int) -> bool:
    return _vectors(made) == [VECTOR] * times


def _vectors(made: Bench) -> list[int]:
    """What the handlers have said."""
    return [value for offset, _, value in made.ports.writes if offset == 0]
