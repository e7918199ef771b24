"""The tables of a machine follow from what it is made of."""

import attrs
import pytest
from acpi_machines import (
    HPET,
    I8042,
    PC,
    PCIE,
    PM,
    RAM,
    REDUCED_PM,
    RTC,
    SERIAL,
    halves,
    tables,
    virtio,
)
from hypothesis import given
from hypothesis import strategies as st

from anyvisor.errors import PlanError
from anyvisor.memory import GIB, MIB, Region
from anyvisor.plan import DeviceSpec
from anyvisor.topology import NumaNode, Topology
from anyvisor.x86_64.acpi.dsdt import dsdt_aml, processors_aml
from anyvisor.x86_64.acpi.facs import Facs
from anyvisor.x86_64.acpi.fadt import BootFlags, Fadt
from anyvisor.x86_64.acpi.hpet import Hpet
from anyvisor.x86_64.acpi.machine import acpi_tables, ioapic_id
from anyvisor.x86_64.acpi.madt import IoApic as IoApicEntry
from anyvisor.x86_64.acpi.madt import Lapic, LapicNmi, Madt, X2Apic, X2ApicNmi, processor
from anyvisor.x86_64.acpi.mcfg import Mcfg
from anyvisor.x86_64.acpi.slit import Slit
from anyvisor.x86_64.acpi.spcr import Spcr, SpcrInterrupts
from anyvisor.x86_64.acpi.srat import LapicAffinity, MemoryAffinity, Srat, X2ApicAffinity, cut
from anyvisor.x86_64.mpentries import IoApic
from anyvisor.x86_64.mptable import MpTable
from anyvisor.x86_64.topology import apic_ids


def names(found):
    return [each.name for each in found.tables]


# -- which tables there are ------------------------------------------------------------------------------------


def test_devices_and_nodes_bring_their_tables():
    assert names(tables(devices=())) == ["FADT", "DSDT", "MADT", "SSDT"]
    assert names(tables(devices=(PM,))) == ["FADT", "FACS", "DSDT", "MADT", "SSDT"]
    assert names(tables(devices=(SERIAL, REDUCED_PM))) == ["FADT", "DSDT", "MADT", "SPCR", "SSDT"]
    everything = tables(devices=(*PC, PM, HPET, PCIE), numa=halves(2))
    rest = ["SRAT", "SLIT", "SPCR", "HPET", "MCFG", "SSDT"]
    assert names(everything) == ["FADT", "FACS", "DSDT", "MADT", *rest]


def test_without_apics_there_is_no_madt_and_the_console_has_no_io_apic():
    found = tables(1, apics=False)
    assert "MADT" not in names(found)
    assert found.find(Spcr).interrupts.words() == "pic"
    assert tables(1).find(Spcr).interrupts.words() == "pic|io_apic"


@pytest.mark.parametrize("without", [{"reduced_hardware": True}, {"devices": (REDUCED_PM,)}, {"devices": ()}])
def test_reduced_hardware_without_apics_is_refused_since_no_interrupt_would_come(without):
    with pytest.raises(PlanError, match=r"reduced hardware needs APICs.*leave out reduced_hardware"):
        tables(1, apics=False, **without)


def test_aml_is_what_the_devices_and_the_processors_say():
    devices = (*PC, PM, *virtio(3))
    found = tables(3, devices=devices)
    assert found.named("DSDT")[0].content == dsdt_aml(devices)
    assert found.named("SSDT")[0].content == processors_aml(range(3))
    assert {each.revision for each in (*found.named("DSDT"), *found.named("SSDT"))} == {2}


# -- the FADT --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("devices", "wanted", "reduced"),
    [
        ((PM,), False, False),
        ((PM,), True, True),
        ((REDUCED_PM,), False, True),
        ((), False, True),
        ((), True, True),
    ],
)
def test_hardware_is_reduced_where_it_is_wanted_or_there_is_no_other(devices, wanted, reduced):
    found = tables(devices=devices, reduced_hardware=wanted)
    fadt = found.find(Fadt)
    assert fadt.flags.hw_reduced_acpi == reduced
    assert (found.find(Facs) is None) == reduced
    assert bool(fadt.x_pm1a_evt_blk) == bool(fadt.pm1a_cnt_blk) == bool(fadt.sci_int) == (not reduced)
    assert bool(fadt.sleep_control_reg) == bool(fadt.sleep_status_reg) == (reduced and bool(devices))
    sci = [each for each in found.find(Madt).entries if type(each).__name__ == "InterruptOverride"]
    assert [each.gsi for each in sci] == ([] if reduced else [9])


def test_the_fields_follow_a_power_management_device_that_was_moved():
    moved = attrs.evolve(PM, ports=(Region(0xB000, 0x20),), gsi=10)
    found = tables(devices=(moved,))
    fadt = found.find(Fadt)
    assert (fadt.pm1a_evt_blk, fadt.pm1a_cnt_blk, fadt.pm_tmr_blk, fadt.sci_int) == (0xB000, 0xB004, 0xB008, 10)
    assert (fadt.x_pm1a_evt_blk.address, fadt.reset_reg.address) == (0xB000, 0xB00C)
    reduced = tables(devices=(moved,), reduced_hardware=True).find(Fadt)
    assert (reduced.sleep_control_reg.address, reduced.sleep_status_reg.address) == (0xB010, 0xB011)
    assert "ISA IRQ 10 is interrupt 10, active high, level" in found.find(Madt).describe()


@pytest.mark.parametrize(
    ("devices", "reset"),
    [
        ((PM, I8042), (0x60C, 1)),
        ((REDUCED_PM,), (0x60C, 1)),
        ((I8042,), (0x64, 0xFE)),
        ((SERIAL,), None),
    ],
)
def test_the_machine_is_reset_by_what_it_has(devices, reset):
    fadt = tables(devices=devices).find(Fadt)
    assert fadt.flags.reset_reg_sup == (reset is not None)
    assert (fadt.reset_reg.address, fadt.reset_value) == (reset or (0, 0))
    assert fadt.reset_reg.bits == (8 if reset else 0)


def test_boot_flags_say_what_of_a_pc_is_there():
    flags = [tables(devices=devices).find(Fadt).iapc_boot_arch.words() for devices in [(), (I8042,), (RTC,)]]
    assert flags == ["no_vga|no_cmos_rtc", "legacy_devices|i8042|no_vga|no_cmos_rtc", "legacy_devices|no_vga"]
    assert tables(devices=PC).find(Fadt).iapc_boot_arch == BootFlags(0b0111)
    assert (tables(devices=()).find(Fadt).century, tables(devices=PC).find(Fadt).century) == (0, 0x32)


def test_a_fadt_of_an_older_revision_keeps_its_length():
    new = tables().find(Fadt).to_bytes()
    for size in (116, 129, 132, 244, 268, 276):
        old = bytearray(new[:size])
        old[4:8], old[9] = size.to_bytes(4, "little"), 0
        old[9] = -sum(old) % 256
        assert Fadt.decode(bytes(old)).to_bytes() == bytes(old)
    assert len(new) == 276


# -- processors ------------------------------------------------------------------------------------------------


def test_ids_from_255_up_take_the_long_entry():
    assert [type(processor(uid, apic)) for uid, apic in ((0, 0), (254, 254), (254, 255), (255, 100))] == [
        Lapic,
        Lapic,
        X2Apic,
        X2Apic,
    ]
    few, many = tables(255).find(Madt), tables(256).find(Madt)
    assert not any(isinstance(each, X2Apic | X2ApicNmi) for each in few.entries)
    assert [each.apic_id for each in many.entries if isinstance(each, X2Apic)] == [255]
    assert few.entries[-1] == LapicNmi() and many.entries[-2:] == (LapicNmi(), X2ApicNmi())


def test_few_processors_with_large_ids_take_the_long_entry_too():
    sparse = acpi_tables(topology=Topology(sockets=3, cores=129), ram=RAM, devices=(PM,)).find(Madt)
    ids = apic_ids(Topology(sockets=3, cores=129))
    assert sparse.apic_ids == ids
    kinds = {each.apic_id: type(each) for each in sparse.entries if isinstance(each, Lapic | X2Apic)}
    assert all((kinds[each] is X2Apic) == (each > 254) for each in ids)


topologies = st.builds(
    Topology,
    sockets=st.integers(1, 5), dies=st.integers(1, 2), cores=st.integers(1, 7), threads=st.integers(1, 3),
)  # fmt: skip


@given(topologies)
def test_processors_are_numbered_as_everywhere_else(topology):
    madt = acpi_tables(topology=topology, ram=RAM).find(Madt)
    ids = apic_ids(topology)
    assert madt.apic_ids == ids
    assert [each.uid for each in madt.entries if isinstance(each, Lapic | X2Apic)] == list(range(topology.vcpus))


@pytest.mark.parametrize(
    "topology", [Topology(cores=1), Topology(cores=2), Topology(sockets=4, cores=3), Topology(cores=254)]
)
def test_the_mp_table_and_the_madt_agree(topology):
    madt, mptable = acpi_tables(topology=topology, ram=RAM).find(Madt), MpTable.for_topology(topology)
    assert madt.apic_ids == tuple(each.apic_id for each in mptable.processors)
    (theirs,) = (each for each in mptable.entries if isinstance(each, IoApic))
    (ours,) = (each for each in madt.entries if isinstance(each, IoApicEntry))
    assert (ours.id, ours.address, ours.gsi_base) == (theirs.id, theirs.address, 0)


def test_the_io_apic_has_a_free_id_as_long_as_there_is_one():
    assert ioapic_id(range(2)) == 2
    assert ioapic_id(range(254)) == 254
    assert ioapic_id((*range(10), *range(12, 255))) == 10
    assert ioapic_id(range(300)) == 0


# -- NUMA ------------------------------------------------------------------------------------------------------


def test_nodes_share_out_the_ram_over_the_gap():
    found = tables(4, numa=halves(4))
    memory = [each for each in found.find(Srat).entries if isinstance(each, MemoryAffinity)]
    assert [(each.node, each.start, each.size_bytes) for each in memory] == [
        (0, 0, 3 * GIB),
        (0, 4 * GIB, GIB // 2),
        (1, 4 * GIB + GIB // 2, GIB // 2),
    ]
    cpus = [each for each in found.find(Srat).entries if isinstance(each, LapicAffinity)]
    assert [(each.node, each.apic_id) for each in cpus] == [(0, 0), (0, 1), (1, 2), (1, 3)]
    assert all(each.flags.enabled for each in found.find(Srat).entries)
    assert found.find(Slit).distances == ((10, 31), (31, 10))


def test_nodes_without_memory_or_vcpus_and_without_distances():
    nodes = (NumaNode("4G"), NumaNode(0, (0, 1)), NumaNode(0))
    found = tables(2, numa=nodes)
    assert [(type(each).__name__, each.node) for each in found.find(Srat).entries] == [
        ("MemoryAffinity", 0),
        ("MemoryAffinity", 0),
        ("LapicAffinity", 1),
        ("LapicAffinity", 1),
    ]
    assert found.find(Slit).distances == ((10, 20, 20), (20, 10, 20), (20, 20, 10))


def test_a_node_beyond_255_is_read_and_written():
    entry = LapicAffinity(0x123456F8, 3)
    assert entry.to_bytes() == bytes.fromhex("00 10 f8 03 01000000 00 563412 00000000")
    assert LapicAffinity.from_bytes(entry.to_bytes()) == entry
    assert X2ApicAffinity(1, 300).to_bytes() == bytes.fromhex("02 18 0000 01000000 2c010000 01000000 00000000 00000000")


regions = st.lists(st.integers(1, 50), min_size=1, max_size=4).map(
    lambda sizes: [Region(100 * index, size) for index, size in enumerate(sizes)]
)


@given(regions, st.data())
def test_ram_is_dealt_out_whole_and_in_order(ram, data):
    total = sum(each.size_bytes for each in ram)
    ends = sorted(data.draw(st.lists(st.integers(0, total), max_size=4)))
    sizes = [end - start for start, end in zip((0, *ends), (*ends, total), strict=True)]
    nodes = cut(ram, sizes)
    assert [sum(each.size_bytes for each in node) for node in nodes] == sizes
    pieces = [each for node in nodes for each in node]
    addresses = [address for each in pieces for address in range(each.start, each.end)]
    assert addresses == [address for each in ram for address in range(each.start, each.end)]


def test_a_row_of_distances_that_is_too_short_is_refused():
    with pytest.raises(PlanError, match=r"node 1 has the distances \(20,\); give 2"):
        Slit(((10, 20), (20,))).to_bytes()


# -- devices ---------------------------------------------------------------------------------------------------


def test_the_console_is_the_first_serial_port():
    second = DeviceSpec("serial", "serial1", ports=(Region(0x2F8, 8),), gsi=3)
    first, other = tables().find(Spcr), tables(devices=(second, SERIAL)).find(Spcr)
    assert (first.address.address, first.irq, first.gsi) == (0x3F8, 4, 4)
    assert (other.address.address, other.irq, other.gsi) == (0x2F8, 3, 3)
    polled = tables(devices=(attrs.evolve(SERIAL, gsi=None),)).find(Spcr)
    assert (polled.interrupts, polled.irq) == (0, 0)


def test_a_console_with_an_interrupt_that_isa_has_not_is_not_wired_to_the_8259s():
    port = attrs.evolve(SERIAL, gsi=300)
    spcr = tables(devices=(port,)).find(Spcr)
    assert (spcr.interrupts, spcr.irq, spcr.gsi) == (SpcrInterrupts(io_apic=True), 0, 300)


@pytest.mark.parametrize("kind", ["acpi-pm", "hpet", "pcie", "serial", "i8042"])
def test_a_device_without_ports_or_memory_brings_no_table(kind):
    found = tables(devices=(DeviceSpec(kind, kind),))
    assert [each.name for each in found.tables] == ["FADT", "DSDT", "MADT", "SSDT"]


def test_timers_and_configuration_space_are_where_the_devices_are():
    small = DeviceSpec("pcie", "pcie", mmio=(Region(0xB0000000, 16 * MIB),))
    found = tables(devices=(HPET, small))
    assert found.find(Hpet).address.address == 0xFED00000
    (space,) = found.find(Mcfg).spaces
    assert (space.start, space.segment, space.first_bus, space.last_bus) == (0xB0000000, 0, 0, 15)
    tiny = DeviceSpec("pcie", "pcie", mmio=(Region(0xB0000000, MIB - 1),))
    with pytest.raises(PlanError, match="no room for the configuration space of one bus"):
        tables(devices=(tiny,))
