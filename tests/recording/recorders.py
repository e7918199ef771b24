"""What tests of the recorder share: devices, and a recorder around vCPUs that do what they are told."""

from acting_hypervisor import ActingHypervisor

from anyvisor.acts import MmioRead, MmioWrite, PortIn, PortOut
from anyvisor.bus import Bus
from anyvisor.memory import Region
from anyvisor.recording.recorder import Recorder

PORT, MMIO = 0x10, 0xD0000
SECONDS = 10


class Device:
    """Answers with one number after another, of more bits than are asked for."""

    def __init__(self):
        self.seen = []

    def read(self, offset, size_bytes):
        answer = 0x1_0000_0000_0000_0001 + len(self.seen)
        self.seen.append((offset, size_bytes, answer))
        return answer

    def write(self, offset, size_bytes, value):
        self.seen.append((offset, size_bytes, value))


class Broken:
    def read(self, offset, size_bytes):
        raise ValueError("a broken read")

    def write(self, offset, size_bytes, value):
        raise ValueError("a broken write")


def bus_with(device):
    bus = Bus()
    bus.add_ports(Region(PORT, 8), device)
    bus.add_mmio(Region(MMIO, 0x1000), device)
    return bus


def recorded(*scripts):
    """A recorder around a fake whose vCPU 0, 1, ... do these; the vCPUs."""
    recorder = Recorder(ActingHypervisor(*scripts))
    vm = recorder.create_vm()
    return recorder, vm, [vm.create_vcpu(index) for index in range(len(scripts))]


def events(recorder, kind):
    return [event for event in recorder.trace.events if isinstance(event, kind)]


def every_access(bus):
    bus.write_port(PORT, 1, 0x41)
    bus.read_port(PORT + 2, 2)
    offset, read, write = bus.port(PORT + 4)
    write(offset, 4, 0xFFFFFFFF)
    assert read(offset, 4) & 0xFFFFFFFF == 4
    assert read(offset, 1) & 0xFF == 5
    bus.write_mmio(MMIO + 8, 8, 1 << 63)
    assert bus.read_mmio(MMIO, 1) == 7


ACTS = (
    PortOut(PORT, 1, 0x41),
    PortIn(PORT + 2, 2, 2),
    PortOut(PORT + 4, 4, 0xFFFFFFFF),
    PortIn(PORT + 4, 4, 4),
    PortIn(PORT + 4, 1, 5),
    MmioWrite(MMIO + 8, 8, 1 << 63),
    MmioRead(MMIO, 1, 7),
)
