"""A machine's tables find their places in memory, and lead to each other."""

import itertools

import attrs
import pytest
from acpi_machines import PC, PM, REGION, RSDP, halves, placed, tables, virtio
from hypothesis import given
from hypothesis import strategies as st

from anyvisor.errors import PlanError
from anyvisor.memory import GIB, MIB, Region
from anyvisor.topology import NumaNode
from anyvisor.x86_64.acpi.fadt import Fadt
from anyvisor.x86_64.acpi.read import read_placed
from work import work


@pytest.mark.parametrize("vcpus", [1, 2, 254, 300, 1024])
@pytest.mark.parametrize("reduced", [False, True])
def test_what_the_rsdp_leads_to_is_what_was_placed(vcpus, reduced):
    firmware = placed(vcpus, devices=(*PC, PM, *virtio(32)), numa=halves(vcpus), reduced_hardware=reduced)
    found = read_placed(firmware)
    assert firmware.pointer == RSDP == found.address
    assert {each.address for each in found.all_placed} | {RSDP} == {each.guest_address for each in firmware.blobs}
    assert found.tables.at(REGION, RSDP) == firmware
    fadt = found.tables.find(Fadt)
    assert fadt.dsdt == fadt.x_dsdt
    assert (fadt.firmware_ctrl, fadt.x_firmware_ctrl) == (0 if reduced else REGION.start, 0)


@given(st.integers(1, 40), st.integers(0, 8), st.integers(0, 200), st.booleans())
def test_no_table_overlaps_another_or_leaves_its_region(vcpus, virtios, offset, reduced):
    region = Region(0xA0000 + offset, 0x8000)
    firmware = tables(vcpus, devices=(PM, *virtio(virtios)), reduced_hardware=reduced).at(region, RSDP)
    blobs = sorted((each.region for each in firmware.blobs[1:]), key=lambda each: each.start)
    assert all(region.contains(each.start, each.size_bytes) for each in blobs)
    assert all(before.end <= after.start for before, after in itertools.pairwise(blobs))
    assert all(each.start % 16 == 0 for each in blobs)
    assert all(each.start % 64 == 0 for each in blobs if each.name == "FACS")


def test_a_region_that_is_too_small_is_refused_with_the_sizes_and_the_way_out():
    size = max(each.region.end for each in placed(2).blobs[1:]) - REGION.start
    assert tables(2).at(Region(REGION.start, size), RSDP)
    words = rf"{size} bytes do not fit in the {size - 1} bytes of .*anyvisor_memory_layout"
    with pytest.raises(PlanError, match=words):
        tables(2).at(Region(REGION.start, size - 1), RSDP)


def test_an_rsdp_that_is_not_aligned_is_refused():
    with pytest.raises(PlanError, match="multiple of 16; move it in anyvisor_memory_layout"):
        tables().at(REGION, RSDP + 8)


def test_tables_above_4_gib_have_only_the_wide_addresses():
    firmware = tables().at(Region(5 * GIB, MIB), RSDP)
    fadt = read_placed(firmware).tables.find(Fadt)
    assert (fadt.dsdt, fadt.firmware_ctrl) == (0, 0)
    assert fadt.x_firmware_ctrl == 5 * GIB and fadt.x_dsdt > 5 * GIB


def test_every_piece_has_a_name_of_its_own():
    more = tables().with_table(tables().named("SSDT")[0])
    assert more == tables()
    twice = attrs.evolve(more, tables=(*more.tables, more.tables[-1]))
    assert [each.name for each in twice.at(REGION, RSDP).blobs][-2:] == ["SSDT", "SSDT 2"]


def test_work_and_size_grow_linearly():
    def made(count):
        return tables(count, numa=(NumaNode("4G", range(count)),)).at(Region(0, MIB), RSDP)

    sizes = {count: sum(each.size_bytes for each in made(count).blobs) for count in (512, 1024, 2048, 4096)}
    assert sizes[4096] - sizes[2048] == 2 * (sizes[2048] - sizes[1024]) == 4 * (sizes[1024] - sizes[512])
    assert work(lambda: made(512)) < 5 * work(lambda: made(128))
