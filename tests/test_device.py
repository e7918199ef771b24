import pytest

from anyvisor.bus import Bus
from anyvisor.device import attach
from anyvisor.errors import PlanError
from anyvisor.memory import Region
from anyvisor.plan import DeviceSpec


class Echo:
    """A device that reads as the offset it is read at."""

    def read(self, offset: int, size_bytes: int) -> int:
        return offset

    def write(self, offset: int, size_bytes: int, value: int) -> None:
        raise AssertionError("nobody writes here")


def test_all_ranges_are_claimed_and_offsets_count_from_the_first():
    bus = Bus()
    spec = DeviceSpec(
        "i8042",
        "keyboard",
        ports=(Region(0x60, 1), Region(0x64, 1)),
        mmio=(Region(0xD000, 16), Region(0xF000, 16)),
    )
    attach(bus, spec, Echo())
    assert (bus.read_port(0x60, 1), bus.read_port(0x64, 1)) == (0, 4)
    assert (bus.read_mmio(0xD002, 4), bus.read_mmio(0xF002, 4)) == (2, 0x2002)
    assert bus.read_port(0x62, 1) == 0xFF


def test_ranges_without_a_name_are_called_as_the_device_is():
    bus = Bus()
    attach(bus, DeviceSpec("serial", "serial0", ports=(Region(0x3F8, 8),)), Echo())
    with pytest.raises(PlanError, match="modem 0x3f8-0x3f8 are claimed twice: serial0 has port 0x3f8"):
        attach(bus, DeviceSpec("serial", "modem", ports=(Region(0x3F8, 1),)), Echo())


def test_a_range_below_the_first_is_refused():
    spec = DeviceSpec("i8042", "keyboard", ports=(Region(0x64, 1), Region(0x60, 1)))
    with pytest.raises(PlanError, match=r"device keyboard: .*0x60.* lies below its first range .*0x64"):
        attach(Bus(), spec, Echo())
