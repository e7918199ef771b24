"""A recorder notes each access in its order, and changes nothing of it."""

import threading
import time

import pytest
from recorders import ACTS, MMIO, PORT, SECONDS, Broken, Device, bus_with, events, every_access, recorded

from anyvisor.acts import MmioRead, MmioWrite, PortIn, PortOut
from anyvisor.bus import Bus
from anyvisor.exits import Halted
from anyvisor.memory import Region
from anyvisor.recording.failure import Failure
from anyvisor.recording.format import encode
from anyvisor.recording.trace import (
    Acted,
    DeviceRaised,
    RunEnded,
)


def test_every_access_is_noted_with_what_the_device_gave_or_got():
    recorder, _, (vcpu,) = recorded([every_access, Halted()])
    vcpu.run(bus_with(device := Device()))
    (run,) = recorder.trace.runs(2)
    assert run.acts == ACTS
    assert run.exit == Halted()
    assert [offset for offset, _, _ in device.seen] == [0, 2, 4, 4, 4, 8, 0]


def test_the_device_sees_what_it_sees_without_a_recorder():
    _, _, (vcpu,) = recorded([every_access, Halted()])
    vcpu.run(bus_with(device := Device()))
    every_access(bus_with(bare := Device()))
    assert device.seen == bare.seen


def test_lines_made_on_the_way_are_those_of_the_format():
    recorder, _, (vcpu,) = recorded([every_access, Halted()])
    vcpu.run(bus_with(Device()))
    assert recorder._log._lines[-len(ACTS) - 1 : -1] == [encode(Acted(2, act)) for act in ACTS]


def test_what_nobody_claims_is_noted_and_counted_on_the_callers_bus():
    recorder, _, (vcpu,) = recorded([lambda bus: bus.read_port(0x80, 2), lambda bus: bus.write_mmio(0, 4, 1), Halted()])
    vcpu.run(bus := Bus())
    assert recorder.trace.runs(2)[0].acts == (PortIn(0x80, 2, 0xFFFF), MmioWrite(0, 4, 1))
    assert bus.unclaimed == {("port", 0x80): 1, ("mmio", 0): 1}


def test_devices_that_are_added_during_run_are_on_the_callers_bus():
    def add(bus):
        bus.add_ports(Region(0x20, 1), Device())
        bus.add_mmio(Region(0x2000, 1), Device())

    _, _, (vcpu,) = recorded([add, Halted()])
    vcpu.run(bus := Bus())
    assert bus.read_port(0x20, 1) == bus.read_mmio(0x2000, 1) == 1


FAILING = {
    PortIn(PORT, 2): lambda bus: bus.read_port(PORT, 2),
    PortOut(PORT, 2, 9): lambda bus: bus.write_port(PORT, 2, 9),
    MmioRead(MMIO, 8): lambda bus: bus.read_mmio(MMIO, 8),
    MmioWrite(MMIO, 8, 9): lambda bus: bus.write_mmio(MMIO, 8, 9),
}


@pytest.mark.parametrize("act", FAILING, ids=lambda act: type(act).__name__)
def test_a_device_that_raises_is_noted_and_its_error_comes_out(act):
    recorder, _, (vcpu,) = recorded([FAILING[act]])
    with pytest.raises(ValueError, match="a broken") as error:
        vcpu.run(bus_with(Broken()))
    failure = Failure.of(error.value)
    assert recorder.trace.of(2)[-3:] == (Acted(2, act), DeviceRaised(2, failure), RunEnded(2, None, failure))


def test_a_device_may_access_the_bus_itself():
    class Bridge(Device):
        def write(self, offset, size_bytes, value):
            inner.write_port(PORT + 4, 1, value)

    inner = bus_with(Device())
    outer = Bus()
    outer.add_ports(Region(PORT, 1), Bridge())
    recorder, _, (vcpu,) = recorded([lambda bus: bus.write_port(PORT, 1, 7), Halted()])
    vcpu.run(outer)
    assert recorder.trace.runs(2)[0].acts == (PortOut(PORT, 1, 7),)


def test_accesses_of_two_vcpus_stand_in_the_order_in_which_the_device_saw_them():
    class Slow(Device):
        def read(self, offset, size_bytes):
            self.seen.append((offset, size_bytes, len(self.seen)))
            answer = self.seen[-1][2]
            time.sleep(0.0002)  # another thread runs meanwhile
            return answer

        def write(self, offset, size_bytes, value):
            super().write(offset, size_bytes, value)
            time.sleep(0.0002)

    def many(first):
        def accesses(bus):
            ready.wait(SECONDS)
            for value in range(first, first + 50):
                bus.write_port(PORT, 2, value)
                bus.write_mmio(MMIO, 2, value)
                bus.read_port(PORT, 2)
                bus.read_mmio(MMIO, 2)

        return accesses

    ready = threading.Barrier(2)
    recorder, _, vcpus = recorded([many(0), Halted()], [many(1000), Halted()])
    bus = bus_with(device := Slow())
    threads = [threading.Thread(target=vcpu.run, args=(bus,)) for vcpu in vcpus]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(SECONDS)
    noted = events(recorder, Acted)
    assert [event.act.value for event in noted] == [value for _, _, value in device.seen]
    assert {event.subject for event in noted} == {2, 3}
