"""Exits, decoded from a run page that the test fills in; no KVM is needed."""

import os
import struct

import pytest
from tiny_guests import Recorder

from anyvisor.bus import Bus
from anyvisor.errors import HypervisorError
from anyvisor.exits import (
    DebugTrap,
    Halted,
    Kicked,
    MemoryFault,
    Shutdown,
    SystemEvent,
    UnknownExit,
)
from anyvisor.memory import Region
from anyvisor_kvm.exits import decode
from anyvisor_kvm.odd_io import odd_mmio, parts, string_io
from anyvisor_kvm.ring import CoalescedRing
from anyvisor_kvm.run_page import RunPage

EXIT_REASON, UNION = 8, 32
PAGES = 3


@pytest.fixture
def page():
    fd = os.memfd_create("run page")
    os.ftruncate(fd, PAGES * 4096)
    made = RunPage(fd, PAGES * 4096)
    yield made
    made.close()
    os.close(fd)


@pytest.mark.parametrize(
    ("reason", "union", "found"),
    [
        (5, b"", Halted()),
        (8, b"", Shutdown()),
        (10, b"", Kicked()),
        (24, struct.pack("<IIQ", 2, 1, 7), SystemEvent("reset", (7,))),
        (24, struct.pack("<II", 77, 0), SystemEvent("system event 77")),
        (39, struct.pack("<3Q", 0, 0x1000, 0x2000), MemoryFault(0x1000, 0x2000)),
        (39, struct.pack("<3Q", 8, 0x1000, 0x2000), MemoryFault(0x1000, 0x2000, 8, "the access was to private memory")),
        (4, struct.pack("<II3Q", 1, 0, 0x1234, 0x4000, 0x400), DebugTrap(1, 0x1234, 0x4000, 0x400)),
        (0xFFFFFFFF, b"", UnknownExit(0xFFFFFFFF, "?", (0, 0, 0, 0))),
    ],
)
def test_an_exit_is_decoded(page, reason, union, found):
    struct.pack_into("<I", page.mapping, EXIT_REASON, reason)
    page.mapping[UNION : UNION + len(union)] = union
    assert decode(page) == found


@pytest.mark.parametrize(
    ("reason", "union", "words", "fields"),
    [
        (0, struct.pack("<Q", 99), "UNKNOWN", {"hardware_exit_reason": 99}),
        (1, struct.pack("<II", 14, 2), "EXCEPTION", {"exception": 14, "error_code": 2}),
        (
            3,
            struct.pack("<9Q", 12, *range(1, 7), 0x77, 1),
            "HYPERCALL",
            {"nr": 12, **{f"args[{i}]": i + 1 for i in range(6)}, "ret": 0x77, "longmode": 1},
        ),
        (7, b"\xff" * 32, "(IRQ_WINDOW_OPEN) that nobody here handles: the guest would take an interrupt", {}),
        (12, struct.pack("<QI", 0x1234, 1), "TPR_ACCESS", {"rip": 0x1234, "is_write": 1}),
        (26, b"\x31", "IOAPIC_EOI", {"vector": 0x31}),
        (
            27,
            struct.pack("<IIIIQQQ", 1, 0, 0x40000080, 0, 5, 6, 7),
            "(HYPERV) that nobody here handles: the guest has set up the synthetic",
            {"type": 1, "msr": 0x40000080, "control": 5, "evt_page": 6, "msg_page": 7},
        ),
        (
            27,
            struct.pack("<II4Q", 2, 0, 3, 4, 5, 6),
            "(HYPERV) that nobody here handles: a Hyper-V hypercall",
            {"type": 2, "input": 3, "result": 4, "params[0]": 5, "params[1]": 6},
        ),
        (
            29,
            struct.pack("<QIIQ", 0, 4, 0x1B, 0),
            "RDMSR by the guest: the VM's MSR filter denies it",
            {"error": 0, "reason": 4, "index": 0x1B, "data": 0},
        ),
        (
            30,
            struct.pack("<QIIQ", 0, 64, 0x1B, 7),
            "WRMSR by the guest: for a reason without a name",
            {"error": 0, "reason": 64, "index": 0x1B, "data": 7},
        ),
        (31, b"", "(DIRTY_RING_FULL) that nobody here handles: the ring of dirty pages is full", {}),
        (
            34,
            struct.pack("<4I8Q", 1, 0, 1, 3, *range(8)),
            "(XEN) that nobody here handles: a Xen hypercall",
            {"type": 1, "longmode": 1, "cpl": 3, "input": 0, "result": 1, **{f"params[{i}]": i + 2 for i in range(6)}},
        ),
        (37, struct.pack("<II", 1, 0), "its state is corrupt", {"flags": 1}),
    ],
    ids=lambda value: str(value) if isinstance(value, int) else "",
)
def test_an_exit_that_nobody_handles_has_its_fields_by_name(page, reason, union, words, fields):
    struct.pack_into("<I", page.mapping, EXIT_REASON, reason)
    page.mapping[UNION : UNION + len(union)] = union
    found = decode(page)
    assert isinstance(found, UnknownExit)
    assert dict(found.fields) == fields
    assert words in found.describe()
    for name, value in fields.items():
        assert f"{name} {value:#x}" in found.describe()


@pytest.mark.parametrize("reason", [27, 34, 33, 99])
def test_an_exit_of_a_type_that_is_not_known_is_told_by_its_words_at_most(page, reason):
    struct.pack_into("<I", page.mapping, EXIT_REASON, reason)
    page.mapping[UNION : UNION + 256] = b"\xff" * 256
    found = decode(page)
    assert found.fields == ()
    assert set(found.data) <= {(1 << 64) - 1}
    assert found.describe().startswith(f"exit {reason} (")


@pytest.mark.parametrize("reason", range(64))
@pytest.mark.parametrize("filling", [b"\x00", b"\x01", b"\xff"])
def test_any_exit_can_be_decoded_and_described_in_a_line(page, reason, filling):
    struct.pack_into("<I", page.mapping, EXIT_REASON, reason)
    page.mapping[UNION : UNION + 256] = filling * 256
    assert "\n" not in decode(page).describe()


def devices():
    bus, device = Bus(), Recorder(answers=[0x11, 0x3322, 0x77665544, 0x88])
    bus.add_ports(Region(0x10, 4), device)
    bus.add_mmio(Region(0x1000, 0x100), device)
    return bus, device


@pytest.mark.parametrize(
    ("size", "count", "offset"),
    [(1, 8193, 4096), (4, 0xFFFFFFFF, 4096), (1, 1, 3 * 4096), (2, 1, 3 * 4096 - 1), (1, 1, 1 << 63)],
)
def test_string_data_outside_the_mapping_is_refused_before_it_is_touched(page, size, count, offset):
    bus, device = devices()
    struct.pack_into("<BBHIQ", page.mapping, UNION, 1, size, 0x10, count, offset)
    with pytest.raises(HypervisorError, match="do not lie in the run mapping of 0x3000 bytes"):
        string_io(page, bus)
    assert device.writes == []


def test_string_data_may_reach_the_last_byte_of_the_mapping(page):
    bus, device = devices()
    struct.pack_into("<BBHIQ", page.mapping, UNION, 1, 2, 0x10, 2, 3 * 4096 - 4)
    page.mapping[-4:] = b"\x01\x02\x03\x04"
    string_io(page, bus)
    assert device.values == [0x0201, 0x0403]


@pytest.mark.parametrize("size", range(1, 9))
@pytest.mark.parametrize("address", range(0x1000, 0x1008))
def test_the_parts_of_an_access_are_aligned_and_make_it_up(address, size):
    found = parts(address, size)
    assert [offset for offset, _ in found] == [sum(each for _, each in found[:i]) for i in range(len(found))]
    assert sum(each for _, each in found) == size
    assert all(each in (1, 2, 4, 8) and (address + offset) % each == 0 for offset, each in found)


def test_a_read_of_7_bytes_is_put_together_from_its_parts(page):
    bus, device = devices()
    struct.pack_into("<QQIB", page.mapping, UNION, 0x1001, 0, 7, 0)
    odd_mmio(page, bus)
    assert device.reads == [(1, 1), (2, 2), (4, 4)]
    assert page.mapping[UNION + 8 : UNION + 16] == bytes([0x11, 0x22, 0x33, 0x44, 0x55, 0x66, 0x77, 0])


def test_the_coalesced_ring_goes_round_and_is_emptied(page):
    bus, device = devices()
    ring_page = 2
    start = ring_page * 4096  # 170 entries: (4096 - 8) // 24
    struct.pack_into("<II", page.mapping, start, 168, 2)
    for number, index in enumerate((168, 169, 0, 1)):
        is_port = number % 2
        address = 0x10 if is_port else 0x1000 + number
        struct.pack_into("<QIIQ", page.mapping, start + 8 + 24 * index, address, 2, is_port, 0xEEEE00000000 | number)
    CoalescedRing(ring_page).drain(page, bus)
    assert device.writes == [(0, 2, 0), (0, 2, 1), (2, 2, 2), (0, 2, 3)]
    assert struct.unpack_from("<II", page.mapping, start) == (2, 2)


@pytest.mark.parametrize("size", [3, 5, 6, 7])
def test_a_coalesced_write_of_an_odd_size_arrives_as_the_parts_of_one_that_is_not(page, size):
    bus, device = devices()
    ring_page, data = 2, 0x1122334455667788
    start = ring_page * 4096
    struct.pack_into("<IIQIIQ", page.mapping, start, 0, 1, 0x1001, size, 0, data)
    CoalescedRing(ring_page).drain(page, bus)
    coalesced, device.writes = device.writes, []
    struct.pack_into("<QQIB", page.mapping, UNION, 0x1001, data, size, 1)
    odd_mmio(page, bus)
    assert coalesced == device.writes
    assert {each for _, each, _ in coalesced} <= {1, 2, 4}
    assert sum(value << 8 * (offset - 1) for offset, _, value in coalesced) == data & (1 << 8 * size) - 1


def test_a_coalesced_write_that_devices_know_stays_whole_wherever_it_lies(page):
    bus, device = devices()
    struct.pack_into("<IIQIIQ", page.mapping, 2 * 4096, 0, 1, 0x1001, 4, 0, 0xFFFFFFFF_11223344)
    CoalescedRing(2).drain(page, bus)
    assert device.writes == [(1, 4, 0x11223344)]


def test_a_page_that_somebody_still_looks_at_goes_when_he_is_done(page):
    fd = os.memfd_create("looked at")
    os.ftruncate(fd, 4096)
    other = RunPage(fd, 4096)
    os.close(fd)
    kept = other.u8[:4]
    other.close()
    with pytest.raises(ValueError):
        other.u8[0]
    assert bytes(kept) == bytes(4)


def test_a_closed_page_raises_and_does_not_crash(page):
    fd = os.memfd_create("another")
    os.ftruncate(fd, 4096)
    other = RunPage(fd, 4096)
    other.close()
    os.close(fd)
    with pytest.raises(ValueError):
        other.u8[0]
    with pytest.raises(ValueError):
        other.mapping[0]
