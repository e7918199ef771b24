import pytest
from hypothesis import given
from hypothesis import strategies as st

from anyvisor.errors import PlanError
from anyvisor.memory import GIB, KIB, MIB, TIB, Region
from anyvisor.x86_64.smbios import MemoryArrayMappedAddress, MemoryDevice, PhysicalMemoryArray


@pytest.mark.parametrize(
    ("size_bytes", "size", "extended"),
    [
        (0, 0, 0),
        (4 * KIB, 0x8004, 0),
        (1 * MIB, 1, 0),
        (32766 * KIB, 0xFFFE, 0),
        (32766 * MIB, 0x7FFE, 0),
        (32767 * MIB, 0x7FFF, 32767),
        (32 * GIB, 0x7FFF, 0x8000),
        (2048 * TIB - MIB, 0x7FFF, 0x7FFFFFFF),
    ],
)
def test_a_devices_size_is_in_mib_or_kib_and_from_32767_mib_in_the_extended_field(size_bytes, size, extended):
    device = MemoryDevice.of_size(size_bytes, handle=1, array=2, locator="A")
    assert (device.size, device.extended_size) == (size, extended)
    raw = device.to_bytes()
    assert raw[0x0C:0x0E] == size.to_bytes(2, "little")
    assert raw[0x1C:0x20] == extended.to_bytes(4, "little")
    assert MemoryDevice.decode(raw).size_bytes == size_bytes


@pytest.mark.parametrize("size_bytes", [-MIB, -1024, 1, 512, 32767 * KIB, 32 * MIB + 4 * KIB, 2048 * TIB])
def test_a_size_that_no_device_can_have_is_refused(size_bytes):
    with pytest.raises(PlanError, match="make it two devices"):
        MemoryDevice.of_size(size_bytes, handle=1, array=2, locator="A")


def test_a_device_of_unknown_size_says_so():
    device = MemoryDevice(size=0xFFFF, locator="A")
    assert device.size_bytes is None
    assert device.summary() == "A, unknown size"


@pytest.mark.parametrize(
    ("capacity", "short", "extended"),
    [
        (MIB, 0x400, 0),
        (2 * TIB - KIB, 0x7FFFFFFF, 0),
        (2 * TIB, 0x80000000, 2 * TIB),
        (64 * TIB, 0x80000000, 64 * TIB),
    ],
)
def test_an_arrays_capacity_is_in_kib_and_from_2_tib_in_the_extended_field(capacity, short, extended):
    array = PhysicalMemoryArray.of_size(capacity, 4, handle=1)
    raw = array.to_bytes()
    assert raw[0x07:0x0B] == short.to_bytes(4, "little")
    assert raw[0x0D:0x0F] == b"\x04\x00"
    assert raw[0x0F:0x17] == extended.to_bytes(8, "little")
    assert PhysicalMemoryArray.decode(raw).capacity_bytes == capacity


@pytest.mark.parametrize(
    ("region", "first", "last", "extended"),
    [
        (Region(0, MIB), 0, 0x3FF, (0, 0)),
        (Region(4 * GIB, GIB), 0x400000, 0x4FFFFF, (0, 0)),
        (Region(4 * GIB, 4 * TIB - 4 * GIB - KIB), 0x400000, 0xFFFFFFFE, (0, 0)),
        (Region(4 * GIB, 4 * TIB - 4 * GIB), 0xFFFFFFFF, 0xFFFFFFFF, (4 * GIB, 4 * TIB - 1)),
        (Region(4 * GIB, 60 * TIB), 0xFFFFFFFF, 0xFFFFFFFF, (4 * GIB, 60 * TIB + 4 * GIB - 1)),
    ],
)
def test_a_range_is_in_kib_and_beyond_4_tib_in_the_extended_fields(region, first, last, extended):
    mapped = MemoryArrayMappedAddress.of_region(region, handle=1, array=2)
    raw = mapped.to_bytes()
    assert raw[0x04:0x0C] == first.to_bytes(4, "little") + last.to_bytes(4, "little")
    assert raw[0x0F:0x1F] == b"".join(each.to_bytes(8, "little") for each in extended)
    found = MemoryArrayMappedAddress.decode(raw).region
    assert (found.start, found.size_bytes) == (region.start, region.size_bytes)


@given(st.integers(1, 1 << 31).map(lambda mib: (mib - 1) * MIB))
def test_any_whole_mib_below_2_pib_is_a_size(size_bytes):
    assert MemoryDevice.of_size(size_bytes, handle=1, array=2, locator="A").size_bytes == size_bytes
