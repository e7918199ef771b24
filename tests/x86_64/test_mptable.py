import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from anyvisor.config import Topology
from anyvisor.errors import PlanError
from anyvisor.memory import MIB, Region
from anyvisor.plan import BootPlan
from anyvisor.x86_64.layout import Layout, bios_data
from anyvisor.x86_64.mpentries import (
    Bus,
    InterruptFlags,
    InterruptKind,
    IoApic,
    IoInterrupt,
    LocalInterrupt,
    Processor,
)
from anyvisor.x86_64.mptable import MpTable, find_pointer

LAYOUT = Layout.for_memory(64 * MIB)
TWO = MpTable.for_cpus(2)


def of(kind, table):
    return [entry for entry in table.entries if isinstance(entry, kind)]


def with_checksum(data, offset):
    data = bytearray(data)
    data[offset] = 0
    data[offset] = -sum(data) % 256
    return bytes(data)


def test_the_table_of_one_processor_to_the_byte():
    table = MpTable.for_cpus(1, signature=0x600, features=0x201)
    pins = b"".join(bytes([3, 0, 0, 0, 0, pin, 1, pin]) for pin in range(24))
    body = (
        bytes.fromhex("00 00 14 03 00060000 01020000 00000000 00000000")
        + b"\x01\x00ISA   "
        + bytes.fromhex("02 01 11 01 0000c0fe")
        + pins
        + bytes.fromhex("04 03 0000 00 00 00 00")
        + bytes.fromhex("04 01 0000 00 00 ff 01")
    )
    header = (
        b"PCMP" + (44 + len(body)).to_bytes(2, "little") + b"\x04\x00" + b"ANYVISORanyvisor    "
        + bytes(6) + b"\x1d\x00" + bytes.fromhex("0000e0fe") + bytes(4)
    )  # fmt: skip
    assert table.to_bytes() == with_checksum(header + body, 7)
    assert table.pointer_bytes(0x9E000) == with_checksum(b"_MP_\x00\xe0\x09\x00\x01\x04" + bytes(6), 10)


@pytest.mark.parametrize("count", [1, 2, 37, 38, 41, 253, 254])
def test_both_checksums_are_right_and_the_length_is_284_less_16_and_20_a_processor(count):
    table = MpTable.for_cpus(count)
    assert sum(table.to_bytes()) % 256 == sum(table.pointer_bytes(0x9E000)) % 256 == 0
    assert len(table.to_bytes()) == table.size_bytes == 284 - 16 + 20 * count
    assert int.from_bytes(table.to_bytes()[4:6], "little") == table.size_bytes


@pytest.mark.parametrize("count", [1, 2, 8, 254])
def test_every_processor_is_named_and_the_first_is_the_boot_processor(count):
    processors = MpTable.for_cpus(count).processors
    assert [cpu.apic_id for cpu in processors] == list(range(count))
    assert [cpu.bootstrap for cpu in processors] == [True] + [False] * (count - 1)
    assert all(cpu.enabled for cpu in processors)


def test_entries_are_sorted_by_kind_as_the_specification_wants():
    kinds = [entry.KIND for entry in MpTable.for_cpus(3).entries]
    assert kinds == sorted(kinds)


def test_every_pin_is_wired_to_the_interrupt_of_its_number():
    table = MpTable.for_cpus(2)
    [ioapic] = of(IoApic, table)
    lines = of(IoInterrupt, table)
    assert [(line.irq, line.pin) for line in lines] == [(pin, pin) for pin in range(24)]
    assert {line.destination for line in lines} == {ioapic.id}
    assert {line.kind for line in lines} == {InterruptKind.INT}


def test_lint0_takes_extint_on_the_boot_processor_and_lint1_nmi_on_all():
    extint, nmi = of(LocalInterrupt, MpTable.for_cpus(2, apic_ids=[4, 5]))
    assert (extint.kind, extint.destination, extint.pin) == (InterruptKind.EXTINT, 4, 0)
    assert (nmi.kind, nmi.destination, nmi.pin) == (InterruptKind.NMI, 0xFF, 1)


def test_the_processors_say_what_cpuid_says():
    table = MpTable.for_cpus(2, signature=0x306F2, features=0xBFEBFBFF)
    assert {(cpu.signature, cpu.features) for cpu in table.processors} == {(0x306F2, 0xBFEBFBFF)}


def test_a_topologys_gaps_show_in_the_apic_ids():
    table = MpTable.for_topology(Topology(sockets=2, cores=3))
    assert [cpu.apic_id for cpu in table.processors] == [0, 1, 2, 4, 5, 6]
    assert [ioapic.id for ioapic in of(IoApic, table)] == [7]


def test_a_topology_beyond_eight_bit_ids_is_refused():
    with pytest.raises(PlanError, match=r'vCPU 160 has the APIC id 256, and ids have 8 bits.*tables = "acpi"'):
        MpTable.for_topology(Topology(sockets=50, cores=5))
    with pytest.raises(PlanError, match=r'for 255 processors: it can name 254 at most; .*tables = "acpi"'):
        MpTable.for_topology(Topology(cores=255))


@given(st.sets(st.integers(0, 254), min_size=1, max_size=254))
def test_the_io_apic_never_has_the_id_of_a_processor(ids):
    table = MpTable.for_cpus(len(ids), apic_ids=sorted(ids, reverse=True))
    [ioapic] = of(IoApic, table)
    assert ioapic.id not in ids
    assert ioapic.id < 255
    assert [cpu.apic_id for cpu in table.processors if cpu.bootstrap] == [max(ids)]


@pytest.mark.parametrize(
    ("count", "apic_ids", "why"),
    [
        (0, None, "for 0 processors: it must name one at least"),
        (-1, None, "for -1 processors"),
        (255, None, "for 255 processors"),
        (10**12, None, "for 1000000000000 processors"),
        (2, [0], "for 2 processors: 1 different APIC ids given"),
        (2, [3, 3], "for 2 processors: 1 different APIC ids given"),
        (2, [0, 255], "vCPU 1 has the APIC id 255, and ids have 8 bits here, of which 255 means all"),
        (2, [0, -1], "vCPU 1 has the APIC id -1"),
    ],
)
def test_processors_that_the_table_cannot_name_are_refused(count, apic_ids, why):
    with pytest.raises(PlanError, match=why):
        MpTable.for_cpus(count, apic_ids=apic_ids)


@pytest.mark.parametrize(
    ("make", "why"),
    [
        (lambda: Processor(256), "Processor.*does not fit in its entry"),
        (lambda: Processor(0, signature=1 << 32), "does not fit in its entry"),
        (lambda: IoApic(1, address=1 << 32), "does not fit in its entry"),
        (lambda: IoInterrupt(0, 0, 0, -1, 0, 0), "IoInterrupt.*does not fit in its entry"),
        (lambda: Bus(0, "MICROCHANNEL"), "'MICROCHANNEL' is no name of at most 6 Latin-1 letters"),
        (lambda: Bus(0, "ISÆ€"), "is no name of at most 6"),
        (lambda: MpTable((), oem="ANYVISOR!"), "'ANYVISOR!' is no name of at most 8"),
        (lambda: MpTable((), product="x" * 13), "is no name of at most 12"),
        (lambda: MpTable((), revision=3), "revision 3 does not exist"),
        (lambda: MpTable((), lapic_address=1 << 32), "local APICs at 0x100000000 lie beyond 32 bits"),
        (lambda: MpTable((Bus(0, "ISA"),) * 8187), "of 65540 bytes: it ends at 65535"),
        (lambda: MpTable(()).pointer_bytes(1 << 32), "its pointer has 32 bits"),
        (lambda: MpTable(()).pointer_bytes(0), "at 0x0: its pointer"),
    ],
)
def test_values_that_do_not_fit_are_refused_at_birth(make, why):
    with pytest.raises(PlanError, match=why):
        make()


@pytest.mark.parametrize("count", [1, 38, 254])
def test_the_largest_table_fits_below_the_ebda_and_only_the_pointer_lies_in_it(count):
    placed = MpTable.for_cpus(count).at(LAYOUT.mptable, pointer=LAYOUT.ebda.start)
    table, pointer = placed.blobs
    assert (table.name, pointer.name) == ("mp table", "mp pointer")
    assert LAYOUT.mptable.contains(table.guest_address, table.size_bytes)
    assert LAYOUT.ebda.contains(pointer.guest_address, pointer.size_bytes)
    assert placed.pointer == pointer.guest_address == 0x9FC00


def test_without_a_pointer_the_ebda_follows_the_region():
    assert MpTable.for_cpus(2).at(LAYOUT.mptable) == MpTable.for_cpus(2).at(LAYOUT.mptable, LAYOUT.ebda.start)


def test_a_plan_finds_its_own_table_where_linux_looks():
    table = MpTable.for_cpus(254)
    placed = table.at(LAYOUT.mptable, pointer=LAYOUT.mp_pointer)
    plan = BootPlan("x86_64", LAYOUT.ram, blobs=(*placed.blobs, *bios_data(LAYOUT)))
    assert find_pointer(plan.read) == placed.pointer
    assert MpTable.from_memory(plan.read, placed.pointer) == table


@pytest.mark.parametrize(
    ("region", "pointer", "why"),
    [
        (Region(0x9F000, 0x400, "MP table"), None,
         "5348 bytes for 254 processors does not fit in the 1024 bytes of MP table 0x9f000-0x9f3ff"),
        (Region(0x9FC00, 0x2000, "EBDA"), 0x9FB00, "mp table 0x9fc00-0xa10e3 reaches over 0xa0000"),
        (LAYOUT.mptable, 0x9FC08, "MP pointer at 0x9fc08: .* only at multiples of 16 in the first MiB"),
        (LAYOUT.mptable, 0x100000, "MP pointer at 0x100000"),
        (LAYOUT.mptable, -16, "MP pointer at -0x10"),
        (Region(1 << 32, 0x2000, "high"), 0x9FC00, "MP table at 0x100000000: its pointer has 32 bits"),
    ],
)  # fmt: skip
def test_places_where_it_does_not_fit_or_is_not_looked_for_are_refused(region, pointer, why):
    with pytest.raises(PlanError, match=why):
        MpTable.for_cpus(254).at(region, pointer)


def test_the_description_names_every_entry():
    lines = TWO.describe().splitlines()
    assert len(lines) == 1 + len(TWO.entries)
    assert lines[0] == "MP table of ANYVISOR anyvisor, revision 1.4, local APICs at 0xfee00000"
    assert lines[1] == "  processor 0: enabled, bootstrap, signature 0x600, features 0x201"
    assert lines[3:6] == [
        "  bus 0: ISA",
        "  I/O APIC 2: enabled, version 0x11, at 0xfec00000",
        "  INT bus 0 irq 0 -> I/O APIC 2 pin 0",
    ]
    assert lines[-2:] == [
        "  EXTINT bus 0 irq 0 -> local APIC 0 LINT0",
        "  NMI bus 0 irq 0 -> all local APICs LINT1",
    ]


def test_polarity_and_trigger_are_said_when_they_are_given():
    flags = InterruptFlags(polarity=3, trigger=3)
    line = IoInterrupt(InterruptKind.INT, flags, 1, 9, 2, 9)
    assert str(line) == "INT bus 1 irq 9 (polarity=3|trigger=3) -> I/O APIC 2 pin 9"
    assert str(attrs.evolve(TWO.processors[1], enabled=False)).startswith("processor 1: disabled, signature")
