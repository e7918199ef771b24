"""The flight recorder: what it holds, what it says, and who fills it in for a machine."""

import threading

import pytest
from hypothesis import given
from hypothesis import strategies as st

from anyvisor.acts import MmioRead, MmioWrite, PortIn, PortOut
from anyvisor.bus import Bus
from anyvisor.errors import ConfigError, GuestError
from anyvisor.exits import FailEntry, Halted, Shutdown
from anyvisor.flight import CAPACITY, ExitRing, NotedExit
from anyvisor.front_bus import PORTS_KEPT
from anyvisor.launch import launch
from anyvisor.memory import MIB, Region
from anyvisor.plan import BootPlan, VcpuPlan
from anyvisor.recording import Recorder
from anyvisor.tapped_bus import TappedBus
from anyvisor.testing.listener import Listener
from anyvisor.x86_64.generic import FACTS
from anyvisor_mock import MockHypervisor
from anyvisor_mock.replay import open_replay

PORTS, WINDOW = Region(0x10, 8, "ports"), Region(8 * MIB, 0x1000, "window")
SCRIPT = (PortOut(0x10, 1, 0x41), PortIn(0x11, 2), MmioWrite(WINDOW.start, 4, 7), MmioRead(WINDOW.start + 4, 1))
DONE = (
    ("out", 0x10, 1, 0x41),
    ("in", 0x11, 2, 0x1234),
    ("write", WINDOW.start, 4, 7),
    ("read", WINDOW.start + 4, 1, 9),
)


def plan(vcpus=1):
    return BootPlan("x86_64", (Region(0, 2 * MIB, "RAM"),), vcpus=tuple(VcpuPlan(index, ()) for index in range(vcpus)))


def machine(*scripts, hypervisor=None, **options):
    """A machine whose vCPUs do that, with devices that answer."""
    made = launch(plan(max(len(scripts), 1)), hypervisor or MockHypervisor(FACTS, script=scripts), **options)
    made.bus.add_ports(PORTS, Listener([0x1234]))
    made.bus.add_mmio(WINDOW, Listener([9]))
    return made


def accesses(ring):
    return tuple((each.kind, each.address, each.size_bytes, each.value) for each in ring.last() if each.exit is None)


def entry(number):
    return ("out", 0x10, 4, number, 0)


@given(st.integers(0, 9), st.lists(st.integers(0, 1 << 32), max_size=30), st.none() | st.integers(0, 12))
def test_a_ring_holds_the_last_exits_in_their_order(capacity, numbers, wanted):
    ring = ExitRing(capacity)
    for number in numbers:
        ring.append(entry(number))
    kept = numbers[max(len(numbers) - capacity, 0) :]
    assert ring.count == len(kept)
    expected = kept if wanted is None else kept[max(len(kept) - wanted, 0) :]
    assert [each.value for each in ring.last(wanted)] == expected


def test_who_looks_at_a_ring_can_tell_whether_there_were_exits_since():
    ring = ExitRing(4)
    assert ring.newest is None
    ring.append(entry(1))
    seen = ring.newest
    assert ring.newest is seen
    ring.append(("out", 0x10, 4, 1, 0))  # the same once more
    assert ring.newest is not seen


def test_a_ring_can_be_looked_at_while_it_is_written():
    ring, over = ExitRing(64), threading.Event()

    def write():
        number = 0
        while not over.is_set():
            ring.append(entry(number))
            number += 1

    writer = threading.Thread(target=write)
    writer.start()
    try:
        for _ in range(300):
            values = [each.value for each in ring.last()]
            assert values == list(range(values[0], values[0] + len(values))) if values else True
    finally:
        over.set()
        writer.join()


@pytest.mark.parametrize(
    ("noted", "text"),
    [
        (NotedExit("out", 0x3F8, 1, 0x41, 0xFFFFFFFF81000000), "out   port 0x3f8 <- 0x41  at rip 0xffffffff81000000"),
        (NotedExit("in", 0x3FD, 1, 0x60), "in    port 0x3fd -> 0x60"),
        (NotedExit("in", 0x3FD, 2, None), "in    port 0x3fd -> no answer"),
        (NotedExit("read", 0xFEC00000, 4, 1), "read  MMIO 0xfec00000 -> 0x00000001"),
        (NotedExit("write", 0xFEC00000, 8, 1), "write MMIO 0xfec00000 <- 0x0000000000000001"),
        (NotedExit("exit", exit=Halted()), "exit: the guest halted"),
    ],
)
def test_an_exit_says_what_it_was(noted, text):
    assert str(noted) == text


def test_a_machine_keeps_the_last_exits_of_each_vcpu_and_what_ended_it():
    with machine((*SCRIPT, Shutdown()), (PortOut(0x12, 1, 1), Halted())) as made:
        with pytest.raises(GuestError):
            made.start().wait(10)
        first, second = made.flight
        assert first.capacity == CAPACITY
        assert accesses(first) == DONE
        assert [each.exit for each in first.last()][-1] == Shutdown()
        made.stop()
        assert accesses(second)[:1] in ((("out", 0x12, 1, 1),), ())


def test_how_many_exits_are_kept_is_for_the_caller_to_say():
    with machine((*SCRIPT, Halted()), keep_exits=2) as made:
        made.start().wait(10)
        assert [str(each) for each in made.flight[0].last()] == [
            "read  MMIO 0x800004 -> 0x09",
            "exit: the guest halted",
        ]
    with machine((*SCRIPT, Halted()), keep_exits=0) as made:
        assert made.start().wait(10).reason == "halted"
        assert made.flight == ()
    with pytest.raises(ConfigError, match="keep_exits: -1"):
        machine(keep_exits=-1)


class Older:
    """A vCPU of a backend that was written before there was `record_exits`."""

    def __init__(self, inner):
        self.index = inner.index
        self.get, self.put, self.run, self.kick, self.close = inner.get, inner.put, inner.run, inner.kick, inner.close
        self.take_interrupts_from, self.notify_interrupt = inner.take_interrupts_from, inner.notify_interrupt


class Refusing(Older):
    """One that leaves noting to its caller."""

    def record_exits(self, ring):
        return False


@pytest.mark.parametrize("kind", [Older, Refusing])
def test_a_machine_notes_what_the_bus_is_asked_for_a_vcpu_that_does_not(kind, monkeypatch):
    from anyvisor_mock.vm import MockVm

    create = MockVm.create_vcpu
    monkeypatch.setattr(MockVm, "create_vcpu", lambda *arguments: kind(create(*arguments)))
    with machine((*SCRIPT, Halted())) as made:
        made.start().wait(10)
        assert accesses(made.flight[0]) == DONE


def test_an_access_whose_device_fails_is_there(monkeypatch):
    def fail():
        raise LookupError("the device is broken")

    with machine(SCRIPT) as made:
        made.bus.add_ports(Region(0x20, 1, "broken"), Listener(then=fail))
        made.vcpus[0].play((PortOut(0x10, 1, 1), PortIn(0x20, 1)))
        with pytest.raises(GuestError, match="the device is broken"):
            made.start().wait(10)
        assert accesses(made.flight[0]) == (("out", 0x10, 1, 1), ("in", 0x20, 1, None))


def test_a_machine_that_is_recorded_or_replayed_has_a_flight_recorder_too():
    script = (*SCRIPT, FailEntry(0x80000021))
    recorder = Recorder(MockHypervisor(FACTS, script=(script,)))
    with recorder, machine(hypervisor=recorder) as made:
        with pytest.raises(GuestError):
            made.start().wait(10)
        assert accesses(made.flight[0]) == DONE
    with open_replay(recorder.trace) as replay, machine(hypervisor=replay) as made:
        with pytest.raises(GuestError):
            made.start().wait(10)
        assert accesses(made.flight[0]) == DONE


def test_a_guest_that_touches_every_port_makes_the_recorder_no_bigger():
    ring, bus = ExitRing(4), Bus()
    heard = Listener()
    bus.add_ports(Region(0, 0x10000, "all"), heard)
    tapped = TappedBus(bus, ring)
    for port in range(0x10000):
        tapped.write_port(port, 1, port & 0xFF)
    assert len(heard.values) == 0x10000
    assert len(tapped._known) <= PORTS_KEPT
    assert [each.address for each in ring.last()] == [0xFFFC, 0xFFFD, 0xFFFE, 0xFFFF]
