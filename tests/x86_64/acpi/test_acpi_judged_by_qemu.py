"""QEMU's tables, as its firmware leaves them in memory, are read and written again to the byte.

Its machines are compared with ours where they are made of the same things.
"""

from pathlib import Path

import attrs
import pytest
from acpi_machines import PM, tables
from acpi_qemu import MACHINES, Qemu, needs_qemu

from anyvisor.memory import GIB, MIB, Region
from anyvisor.topology import NumaNode, Topology
from anyvisor.x86_64.acpi.fadt import Fadt
from anyvisor.x86_64.acpi.hpet import Hpet
from anyvisor.x86_64.acpi.machine import INTEL_HPET, acpi_tables
from anyvisor.x86_64.acpi.madt import InterruptOverride, IoApic, Lapic, LapicNmi, Madt, X2Apic, X2ApicNmi
from anyvisor.x86_64.acpi.mcfg import Ecam, Mcfg
from anyvisor.x86_64.acpi.read import decode_table, read_placed, read_tables
from anyvisor.x86_64.acpi.slit import Slit
from anyvisor.x86_64.acpi.srat import LapicAffinity, MemoryAffinity, Srat, X2ApicAffinity
from anyvisor.x86_64.acpi.table import Table

DATA = Path(__file__).parent / "data"


@attrs.frozen
class Judged:
    """What one of QEMU's machines has: the tables as we read them, and their bytes by address."""

    found: object
    memory: dict

    def get(self, kind):
        return self.found.tables.find(kind)


@pytest.fixture(scope="module")
def machines(tmp_path_factory):
    """A function that gives one of the machines, started when it is first asked for."""
    known = {}

    def judged(name):
        if name not in known:
            qemu = Qemu(MACHINES[name], tmp_path_factory.mktemp(name))
            try:
                memory = {}

                def read(address, size):
                    memory[address] = qemu.read(address, size)
                    return memory[address]

                known[name] = Judged(read_tables(read, qemu.wait_for_rsdp()), memory)
            finally:
                qemu.close()
        return known[name]

    return judged


every_machine = pytest.mark.parametrize("name", MACHINES)


@needs_qemu
@every_machine
def test_every_table_is_read_and_written_again_to_the_byte(machines, name):
    judged = machines(name)
    for each in judged.found.all_placed:
        content = each.table.to_bytes()
        assert judged.memory[each.address] == content, each.table.name
        assert decode_table(content) == each.table
    pointer = judged.found.rsdp.to_bytes()
    assert judged.memory[judged.found.address][: len(pointer)] == pointer


@needs_qemu
@every_machine
def test_only_the_tables_that_are_aml_or_qemus_own_stay_bytes(machines, name):
    judged = machines(name)
    raw = [each.signature for each in judged.found.tables.tables if isinstance(each, Table)]
    assert set(raw) <= {"DSDT", "SSDT", "WAET"}
    assert "DSDT" in raw
    madt = judged.get(Madt)
    known = (Lapic, IoApic, InterruptOverride, LapicNmi)
    assert all(isinstance(each, known) for each in madt.entries)


@needs_qemu
@every_machine
def test_the_walk_finds_what_the_signatures_in_memory_say(machines, name):
    judged = machines(name)
    for each in judged.found.all_placed:
        assert judged.memory[each.address][:4] == each.table.signature.encode()
    by_fadt = {"DSDT", *([] if name == "microvm" else ["FACS"])}
    listed = len(judged.found.root.table.tables)
    assert len(judged.found.placed) == listed + len(by_fadt)


@needs_qemu
def test_placed_anew_qemus_tables_are_the_same_but_for_addresses(machines):
    judged = machines("q35-numa")
    again = read_placed(judged.found.tables.at(Region(0x100000, 1 * MIB), rsdp=0xE0000))
    changed = {"FACP"}
    for before, after in zip(judged.found.tables.tables, again.tables.tables, strict=True):
        assert before == after or before.signature in changed
    fadt, dsdt = again.tables.find(Fadt), again.tables.named("DSDT")[0]
    assert next(each.table for each in again.placed if each.address == fadt.dsdt_address) == dsdt
    assert again.rsdp.xsdt == again.root.address


# -- what they say ----------------------------------------------------------------------------------------------


@needs_qemu
def test_the_processors_and_interrupts_are_those_of_the_command_line(machines):
    madt = machines("pc").get(Madt)
    processors = [(each.uid, each.apic_id, each.flags.state) for each in madt.entries if isinstance(each, Lapic)]
    assert processors == [(n, n, "enabled" if n < 3 else "disabled") for n in range(5)]
    assert madt.apic_ids == (0, 1, 2)
    assert machines("pc-sparse").get(Madt).apic_ids == tuple(tables_of(sockets=2, cores=3).find(Madt).apic_ids)
    assert len(machines("q35-255").get(Madt).apic_ids) == 1


def tables_of(**topology):
    return acpi_tables(topology=Topology(**topology), ram=(Region(0, 64 * MIB),), devices=(PM,))


@needs_qemu
def test_our_sci_nmi_and_chips_are_described_as_qemus_are(machines):
    theirs, ours = machines("pc").get(Madt), tables(3).find(Madt)
    assert (ours.lapic_address, ours.flags) == (theirs.lapic_address, theirs.flags)
    assert [each for each in theirs.entries if isinstance(each, LapicNmi)] == [LapicNmi()]
    assert LapicNmi() in ours.entries
    sci = next(each for each in ours.entries if isinstance(each, InterruptOverride))
    assert sci in theirs.entries
    (chip,) = (each for each in ours.entries if isinstance(each, IoApic))
    assert attrs.evolve(chip, id=0) in theirs.entries


@needs_qemu
def test_our_fixed_hardware_is_described_as_qemus_is(machines):
    theirs, ours = machines("pc").get(Fadt), tables().find(Fadt)
    for name in ("pm1_evt_len", "pm1_cnt_len", "pm_tmr_len", "sci_int", "pm1a_evt_blk", "pm1a_cnt_blk", "pm_tmr_blk"):
        assert getattr(ours, name) == getattr(theirs, name), name
    q35 = machines("q35").get(Fadt)
    assert (theirs.revision, q35.revision) == (1, 3)
    for name in ("x_pm1a_evt_blk", "x_pm1a_cnt_blk", "x_pm_tmr_blk"):
        assert (getattr(ours, name).space, getattr(ours, name).bits) == (
            getattr(q35, name).space,
            getattr(q35, name).bits,
        ), name
    assert q35.flags.reset_reg_sup and str(q35.reset_reg) == "8 bits at io 0xcf9"
    assert ours.reset_reg == attrs.evolve(q35.reset_reg, address=0x60C, access=1)


@needs_qemu
def test_microvms_hardware_is_reduced_as_ours_can_be(machines):
    judged = machines("microvm")
    theirs, ours = judged.get(Fadt), tables(reduced_hardware=True).find(Fadt)
    assert theirs.flags.hw_reduced_acpi and ours.flags.hw_reduced_acpi
    assert theirs.facs_address == 0 and not judged.found.tables.named("FACS")
    for each in (theirs, ours):
        assert each.sleep_control_reg.bits == each.sleep_status_reg.bits == each.reset_reg.bits == 8
    zero = ("sci_int", "smi_cmd", "pm1a_evt_blk", "pm1a_cnt_blk", "pm_tmr_blk", "pm1_evt_len", "x_pm_tmr_blk")
    for name in zero:
        assert getattr(theirs, name) == getattr(ours, name), name
    assert not ours.x_pm_tmr_blk


@needs_qemu
def test_nodes_are_those_of_the_command_line_and_ours_are_described_alike(machines):
    srat, slit = machines("q35-numa").get(Srat), machines("q35-numa").get(Slit)
    nodes = (NumaNode("48M", (0, 1), (10, 31)), NumaNode("16M", (2, 3), (31, 10)))
    ram = (Region(0, 0xA0000), Region(MIB, 63 * MIB))  # QEMU leaves the hole below 1 MiB out
    wide = (NumaNode(48 * MIB - 0x60000, (0, 1)), NumaNode("16M", (2, 3)))
    ours = acpi_tables(topology=Topology(cores=4), ram=ram, numa=wide).find(Srat)
    for kind in (LapicAffinity, MemoryAffinity):
        theirs = [each for each in srat.entries if isinstance(each, kind) and each.flags]
        assert theirs == [each for each in ours.entries if isinstance(each, kind)]
    assert slit == attrs.evolve(placed_slit(nodes), origin=slit.origin)


def placed_slit(nodes):
    return acpi_tables(topology=Topology(cores=4), ram=(Region(0, 64 * MIB),), numa=nodes).find(Slit)


@needs_qemu
def test_the_event_timers_are_described_as_ours_are(machines):
    theirs = machines("q35").get(Hpet)
    assert (theirs.block, theirs.address.address) == (INTEL_HPET, 0xFED00000)
    assert machines("pc-no-hpet").get(Hpet) is None


@needs_qemu
def test_the_configuration_space_of_q35_is_found(machines):
    (space,) = machines("q35").get(Mcfg).spaces
    assert space == Ecam.covering(Region(space.start, 256 * MIB))
    assert machines("pc").get(Mcfg) is None


# -- more processors than QEMU emulates by itself ---------------------------------------------------------------


def dumped(name):
    """A table of `-M q35 -accel kvm -smp 2,maxcpus=280` with two nodes, taken from QEMU 7.2 through fw_cfg."""
    content = (DATA / f"qemu_q35_280_processors_{name}.bin").read_bytes()
    table = decode_table(content)
    assert table.to_bytes() == content
    return table


def test_x2apic_entries_of_qemu_are_read_and_written_again_to_the_byte():
    madt = dumped("apic")
    wide = [each for each in madt.entries if isinstance(each, X2Apic)]
    assert [(each.apic_id, each.uid) for each in wide] == [(n, n) for n in range(255, 280)]
    assert X2ApicNmi() in madt.entries
    ours = tables(280).find(Madt)
    assert [type(each) for each in ours.entries[:280]] == [type(each) for each in madt.entries[:280]]
    assert X2ApicNmi() in ours.entries


def test_x2apic_affinities_of_qemu_are_those_that_we_make():
    theirs = [each for each in dumped("srat").entries if not isinstance(each, MemoryAffinity)]
    nodes = (NumaNode(1 * GIB, range(140)), NumaNode(1 * GIB, range(140, 280)))
    ours = acpi_tables(topology=Topology(cores=280), ram=(Region(0, 2 * GIB),), numa=nodes).find(Srat)
    assert [each for each in ours.entries if not isinstance(each, MemoryAffinity)] == theirs
    assert sum(isinstance(each, X2ApicAffinity) for each in theirs) == 25
