import pytest

from anyvisor.bus import UNCLAIMED_KEPT, Bus
from anyvisor.errors import PlanError
from anyvisor.memory import GIB, Region


class Notebook:
    """A device that notes what it is asked, and reads as `value`."""

    def __init__(self, value: int = 0):
        self.value = value
        self.seen: list[tuple[int, ...]] = []

    def read(self, offset: int, size_bytes: int) -> int:
        self.seen.append((offset, size_bytes))
        return self.value

    def write(self, offset: int, size_bytes: int, value: int) -> None:
        self.seen.append((offset, size_bytes, value))


def test_a_port_access_reaches_its_device_with_the_offset_from_its_first_port():
    bus, device = Bus(), Notebook(0x5A)
    bus.add_ports(Region(0x3F8, 8, "serial"), device)
    assert bus.read_port(0x3FD, 1) == 0x5A
    bus.write_port(0x3F8, 2, 0x1234)
    assert device.seen == [(5, 1), (0, 2, 0x1234)]


def test_ranges_end_where_they_end():
    bus, device = Bus(), Notebook()
    bus.add_ports(Region(0x60, 1, "data"), device)
    bus.add_mmio(Region(0x1000, 0x10, "registers"), device)
    for port in (0x5F, 0x61):
        assert bus.read_port(port, 1) == 0xFF
    for address in (0xFFF, 0x1010):
        assert bus.read_mmio(address, 4) == 0xFFFFFFFF
    assert bus.read_mmio(0x100F, 1) == 0
    assert device.seen == [(15, 1)]


def test_a_second_range_can_go_on_counting_from_the_first():
    bus, device = Bus(), Notebook()
    bus.add_ports(Region(0x60, 1), device)
    bus.add_ports(Region(0x64, 1), device, offset=4)
    bus.add_mmio(Region(0xE000, 16), device, offset=0x2000)
    bus.read_port(0x64, 1)
    bus.read_mmio(0xE003, 1)
    assert device.seen == [(4, 1), (0x2003, 1)]


@pytest.mark.parametrize(("size_bytes", "ones"), [(1, 0xFF), (2, 0xFFFF), (4, 0xFFFFFFFF), (8, 0xFFFFFFFFFFFFFFFF)])
def test_what_nobody_claims_reads_as_all_ones_and_is_remembered(size_bytes, ones):
    bus = Bus()
    assert bus.read_mmio(0xFEE00000, size_bytes) == ones
    bus.write_mmio(0xFEE00000, size_bytes, 0)
    bus.write_port(0x70, 1, 0)
    assert bus.read_port(0x71, min(size_bytes, 4)) == min(ones, 0xFFFFFFFF)
    assert bus.unclaimed == {("mmio", 0xFEE00000): 2, ("port", 0x70): 1, ("port", 0x71): 1}


def test_only_the_first_unclaimed_addresses_are_remembered():
    bus = Bus()
    for port in range(2000):
        bus.read_port(port, 1)
    bus.read_port(0, 1)
    assert len(bus.unclaimed) == UNCLAIMED_KEPT
    assert bus.unclaimed["port", 0] == 2


@pytest.mark.parametrize("value", [0x1_2345_6789_ABCD_EF01, -1])
def test_a_device_that_answers_too_much_is_cut_off(value):
    bus, device = Bus(), Notebook(value)
    bus.add_ports(Region(0x10, 1), device)
    bus.add_mmio(Region(0x10, 8), device)
    for size_bytes in (1, 2, 4, 8):
        assert bus.read_mmio(0x10, size_bytes) == bus.read_port(0x10, size_bytes) == value % (1 << 8 * size_bytes)


@pytest.mark.parametrize("start", [0x3F1, 0x3F8, 0x3FF])
def test_ports_claimed_twice_are_refused_naming_both_and_nothing_is_added(start):
    bus = Bus()
    bus.add_ports(Region(0x3F8, 8, "serial0"), Notebook())
    with pytest.raises(PlanError, match=rf"ports modem {start:#x}-{start + 7:#x} .*serial0 has port"):
        bus.add_ports(Region(start, 8, "modem"), intruder := Notebook())
    for port in range(start, start + 8):
        bus.read_port(port, 1)
    assert intruder.seen == []


@pytest.mark.parametrize(
    ("start", "size_bytes"), [(0, 1), (0xFFF, 2), (0x1FFF, 1), (0x1FFF, 100), (0, 0x10000), (0x1800, 8)]
)
def test_overlapping_mmio_ranges_are_refused_naming_both(start, size_bytes):
    bus = Bus()
    bus.add_mmio(Region(0, 1, "zero"), Notebook())
    bus.add_mmio(Region(0x1000, 0x1000, "disk"), Notebook())
    with pytest.raises(PlanError, match=r"MMIO range net .* overlaps (disk 0x1000-0x1fff|zero 0x0-0x0)"):
        bus.add_mmio(Region(start, size_bytes, "net"), Notebook())


@pytest.mark.parametrize("region", [Region(0xFFFF, 2), Region(-1, 4), Region(0x10, 0), Region(0x10000, 1)])
def test_ports_outside_the_port_space_are_refused(region):
    with pytest.raises(PlanError, match="do not lie within"):
        Bus().add_ports(region, Notebook())


@pytest.mark.parametrize("region", [Region(0, 0), Region(-4096, 4096), Region((1 << 64) - 1, 2)])
def test_mmio_outside_the_address_space_is_refused(region):
    with pytest.raises(PlanError, match="outside the 64-bit address space"):
        Bus().add_mmio(region, Notebook())


def test_mmio_is_found_among_many_ranges_in_any_order():
    bus, devices = Bus(), {}
    for number in (7, 0, 31, 3, 12, 1, 30, 5):
        devices[number] = Notebook(number)
        bus.add_mmio(Region(3 * GIB + number * 0x1000, 0x200, f"device {number}"), devices[number])
    for number in (*devices, *sorted(devices), *sorted(devices, reverse=True)):
        address = 3 * GIB + number * 0x1000
        assert bus.read_mmio(address, 4) == number
        assert bus.read_mmio(address + 0x1FF, 1) == number
        assert bus.read_mmio(address + 0x200, 1) == 0xFF
        bus.write_mmio(address + 8, 4, number)
        assert devices[number].seen[-1] == (8, 4, number)


def test_the_highest_address_can_be_claimed():
    bus, device = Bus(), Notebook(1)
    bus.add_mmio(Region((1 << 64) - 0x1000, 0x1000), device)
    assert bus.read_mmio((1 << 64) - 1, 1) == 1


def test_who_answers_at_a_port_can_be_asked_once_and_remembered():
    bus, device = Bus(), Notebook(0x5A)
    bus.add_ports(Region(0x60, 8, "device"), device)
    offset, read, write = bus.port(0x64)
    write(offset, 1, 7)
    assert read(offset, 1) == 0x5A
    assert device.seen == [(4, 1, 7), (4, 1)]


def test_a_port_nobody_claims_is_remembered_as_such():
    bus = Bus()
    offset, read, write = bus.port(0x99)
    write(offset, 1, 7)
    assert read(offset, 2) == 0xFFFF
    assert bus.unclaimed == {("port", 0x99): 2}
