"""Writes that signal an eventfd or are gathered, in place of an exit each."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator

import pytest

from anyvisor.exits import Halted
from anyvisor.facts import Capability
from anyvisor.memory import Region
from anyvisor.testing.bench import MMIO, PORTS, Bench
from anyvisor.testing.contracts.contract import Contract, MakeBench
from anyvisor.testing.requirements import needs

ONE_PORT = Region(PORTS.start, 1)
ONE_BYTE = Region(MMIO.start, 1)
SAID = 42
MakeEventfd = Callable[[], int]


class EventfdFixture(Contract):
    """What these contracts share."""

    @pytest.fixture
    def eventfd(self) -> Iterator[MakeEventfd]:
        """Makes eventfds, and closes them after the test."""
        fds: list[int] = []

        def make() -> int:
            fds.append(os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC))
            return fds[-1]

        yield make
        for fd in fds:
            os.close(fd)


@needs(Capability.IOEVENTFD)
class IoeventfdContract(EventfdFixture):
    """Writes that signal an eventfd."""

    def test_a_port_write_signals_the_eventfd_and_no_device(self, bench: MakeBench, eventfd: MakeEventfd) -> None:
        """With an ioeventfd at a port, whatever is written there signals it once, and never comes to the bus."""
        made, fd = bench(), eventfd()
        made.vm.add_ioeventfd(fd, ONE_PORT, port=True)
        assert _out_42(made) == []
        assert signals(fd) == 1

    def test_only_the_value_that_matches_signals(self, bench: MakeBench, eventfd: MakeEventfd) -> None:
        """With `match`, the value that was asked for signals the eventfd; any other comes to the bus."""
        made, fd, other = bench(), eventfd(), eventfd()
        made.vm.add_ioeventfd(other, ONE_PORT, port=True, match=SAID + 1)
        assert _out_42(made) == [SAID]
        made.ports.writes.clear()
        made.vm.add_ioeventfd(fd, ONE_PORT, port=True, match=SAID)
        assert _out_42(made) == []
        assert (signals(fd), signals(other)) == (1, 0)

    def test_an_ioeventfd_that_was_removed_signals_no_more(self, bench: MakeBench, eventfd: MakeEventfd) -> None:
        """After `remove_ioeventfd` the device gets the writes again."""
        made, fd = bench(), eventfd()
        for match in (None, SAID):
            made.vm.add_ioeventfd(fd, ONE_PORT, port=True, match=match)
            made.vm.remove_ioeventfd(fd, ONE_PORT, port=True, match=match)
        assert _out_42(made) == [SAID]
        assert signals(fd) == 0

    def test_a_port_is_not_an_address(self, bench: MakeBench, eventfd: MakeEventfd) -> None:
        """Ports and MMIO are two spaces: an ioeventfd at an address does not take the port of that number."""
        made, fd = bench(), eventfd()
        made.vm.add_ioeventfd(fd, Region(MMIO.start, 1))
        assert _out_42(made) == [SAID]
        assert signals(fd) == 0

    def test_an_mmio_write_signals_the_eventfd_and_no_device(self, bench: MakeBench, eventfd: MakeEventfd) -> None:
        """With an ioeventfd at an MMIO address, writes there signal it; those beside it come to the bus."""
        made, fd = bench(), eventfd()
        made.vm.add_ioeventfd(fd, ONE_BYTE)
        made.enter(made.guests_of("running").MMIO_STORES)
        assert made.run() == Halted()
        assert made.mmio.writes == [(1, 1, 2)]
        assert signals(fd) == 2, "two writes went to that address"


@needs(Capability.COALESCED_IO)
class CoalescedContract(Contract):
    """Writes that are gathered, and handed over together."""

    def test_gathered_mmio_writes_come_in_order_before_the_next_exit(self, bench: MakeBench) -> None:
        """Writes to a gathered range all reach the device, in order, before what makes the guest leave next."""
        made = bench()
        seen: list[object] = []
        made.mmio.then = lambda: seen.append(made.mmio.writes[-1])
        made.ports.then = lambda: seen.append("port")
        made.vm.coalesce(MMIO)
        made.enter(made.guests_of("running").MMIO_STORES)
        assert made.run() == Halted()
        assert seen == [(0, 1, 1), (1, 1, 2), (0, 1, 3), "port"]

    def test_gathered_port_writes_are_there_when_run_returns(self, bench: MakeBench) -> None:
        """A gathered OUT is handed over before `run` returns with the HLT behind it."""
        made = bench()
        made.vm.coalesce(PORTS, port=True)
        assert _out_42(made) == [SAID]


def _out_42(made: Bench) -> list[int]:
    """What the port's device hears of a guest that writes 42 and halts."""
    made.enter(made.guests.OUT_42)
    assert made.run() == Halted()
    return made.ports.values


def signals(fd: int) -> int:
    """How often an eventfd was signalled since the last look."""
    try:
        return os.eventfd_read(fd)
    except BlockingIOError:
        return 0
