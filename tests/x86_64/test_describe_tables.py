"""The tables of a plan are found as a guest finds them, and told in words, by every boot protocol."""

import struct

import pytest

from anyvisor import Capability, generic_facts
from anyvisor.config import NumaNode
from anyvisor.memory import GIB, MIB, Region
from anyvisor.x86_64.acpi.rsdp import Rsdp
from anyvisor.x86_64.describe import describe, landmarks
from anyvisor.x86_64.firmware_tables import Firmware, find_rsdp
from anyvisor.x86_64.handed_over import find_handed_over
from seen_plans import PROTOCOLS, made, with_content, with_piece, without


def sections(plan):
    return {each.title: each for each in describe(plan, generic_facts())}


def text(plan, title):
    return sections(plan)[title].text


# -- what kernels are told -------------------------------------------------------------------------------------

TOLD = {
    "linux64": ("Linux", "zero page", 0x7000, "long"),
    "linux32": ("Linux", "zero page", 0x7000, "protected"),
    "pvh": ("PVH", "PVH start info", 0x6000, "protected"),
    "multiboot": ("multiboot", "multiboot information", 0x6000, "protected"),
}


@pytest.mark.parametrize("protocol", TOLD)
def test_what_the_kernel_is_told_is_found_by_its_registers(tmp_path, protocol):
    (tmp_path / "initrd.img").write_bytes(b"i" * 5000)
    plan = made(tmp_path, protocol, initrd=tmp_path / "initrd.img", command_line="answer=42", memory=64 * MIB)
    name, place, address, mode = TOLD[protocol]
    told = find_handed_over(plan)
    assert (told.protocol, told.place.name, told.place.start) == (name, place, address)
    assert told.command_line.endswith("answer=42")
    assert [(each.start, each.size_bytes) for each in told.initrds] == [(plan.blob("initrd").guest_address, 5000)]
    assert [each.type.name for each in told.memory_map] == ["RAM", "RESERVED", "RAM"]
    assert told.memory_map[-1].end == 64 * MIB
    assert told.structure.to_bytes() == plan.read(address, len(told.structure.to_bytes()))

    shown = text(plan, "Boot parameters").splitlines()
    assert shown[0].endswith(f"in {mode} mode")
    assert shown[1] == f"protocol     {name}"
    assert "answer=42'" in shown[2]
    assert "(5000)" in shown[3]
    assert shown[4].split() == [*place.split(), "at", f"{address:#x}"]
    assert any("0x00000009e000-0x0000000fffff  RESERVED" in line for line in shown)


def test_a_flat_binary_is_told_nothing_and_that_is_said(tmp_path):
    plan = made(tmp_path, "raw")
    assert find_handed_over(plan) is None
    assert "no parameters: neither RSI (0x0) nor EBX (0x0) leads to any" in text(plan, "Boot parameters")


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize("tables", ["acpi", "mptable", "both", "none"])
def test_every_section_can_be_read_whatever_the_protocol_and_tables(tmp_path, protocol, tables):
    found = sections(made(tmp_path, protocol, tables=tables, vcpus=3))
    assert not [each for each in found.values() if "cannot be read" in each.text]
    assert (found["ACPI tables"].text == "none") == (tables in {"mptable", "none"})
    assert (found["MP table"].text == "none") == (tables in {"acpi", "none"})
    assert (found["SMBIOS tables"].text == "none") == (tables == "none")
    if tables in {"acpi", "both"}:
        assert "processors 0-2: APIC ids 0-2, enabled" in found["ACPI tables"].text
        assert "Device C002: _HID ACPI0007, _UID 2" in found["ACPI tables"].text
        assert found["ACPI tables"].value.rsdp.xsdt
    if tables in {"mptable", "both"}:
        assert "processor 2: enabled" in found["MP table"].text
        assert len(found["MP table"].value.table.processors) == 3


# -- where firmware's tables are looked for --------------------------------------------------------------------


def test_the_rsdp_is_where_the_boot_protocol_says(tmp_path):
    """A second RSDP of another place: only the zero page leads to it."""
    plan = made(tmp_path)
    rsdp = plan.read(0xE0000, 36)
    page = bytearray(plan.blob("zero page").content)
    struct.pack_into("<Q", page, 0x70, 0x50000)
    moved = with_piece(with_content(without(plan, "RSDP"), "zero page", bytes(page)), "elsewhere", 0x50000, rsdp)
    assert find_rsdp(moved.read) is None
    assert Firmware(moved).acpi.address == 0x50000


@pytest.mark.parametrize("address", [0xE0010, 0xFFFC0, 0x9FC40])
def test_without_a_word_of_it_the_rsdp_is_looked_for(tmp_path, address):
    plan = made(tmp_path, "multiboot")
    moved = with_piece(without(plan, "RSDP"), "elsewhere", address, plan.read(0xE0000, 36).ljust(32))
    assert find_handed_over(plan).rsdp == 0
    assert Firmware(plan).acpi.address == 0xE0000
    assert Firmware(moved).acpi.address == address


def test_a_broken_rsdp_is_passed_over_when_it_is_looked_for(tmp_path):
    plan = made(tmp_path, "multiboot")
    broken = bytearray(plan.read(0xE0000, 36))
    broken[8] ^= 1
    assert Firmware(with_content(plan, "RSDP", bytes(broken))).acpi is None
    later = with_piece(with_content(plan, "RSDP", bytes(broken)), "sound", 0xE0100, plan.read(0xE0000, 36))
    assert Firmware(later).acpi.address == 0xE0100


def test_an_rsdp_that_is_not_on_a_paragraph_is_not_seen(tmp_path):
    plan = made(tmp_path, "multiboot")
    moved = with_piece(without(plan, "RSDP"), "elsewhere", 0xE0008, plan.read(0xE0000, 36))
    assert find_rsdp(moved.read) is None


def test_acpi_1_0_s_rsdp_of_20_bytes_is_found(tmp_path):
    plan = made(tmp_path, "multiboot")
    short = Rsdp(rsdt=0x50000, revision=0).to_bytes()
    assert find_rsdp(with_content(plan, "RSDP", short).read) == 0xE0000


@pytest.mark.parametrize(
    ("name", "section"),
    [("MADT", "ACPI tables"), ("DSDT", "ACPI tables"), ("mp table", "MP table"), ("SMBIOS tables", "SMBIOS tables")],
)
def test_a_broken_table_is_told_by_the_reason_and_hides_no_other(tmp_path, name, section):
    plan = made(tmp_path, tables="both")
    content = bytearray(plan.blob(name).content)
    content[8:12] = b"\xff\xff\xff\xff"
    if name == "SMBIOS tables":
        content[1] = 3
    found = sections(with_content(plan, name, bytes(content)))
    assert found[section].text.startswith("cannot be read: ")
    unread = {title for title, each in found.items() if each.text.startswith("cannot be read")}
    assert unread <= {section, "NUMA"}  # NUMA nodes are in ACPI tables


def test_aml_that_is_not_understood_is_told_as_such(tmp_path):
    from anyvisor.x86_64.acpi.table import Table

    plan = made(tmp_path)
    size = len(plan.blob("DSDT").content)
    damaged = Table("DSDT", b"\xa4" * (size - 36), revision=2).to_bytes()
    shown = text(with_content(plan, "DSDT", damaged), "ACPI tables")
    assert f"({size - 36} bytes not read: " in shown


# -- NUMA, and what a picture shows ----------------------------------------------------------------------------


def test_numa_nodes_are_read_from_the_srat_and_the_slit(tmp_path):
    nodes = (NumaNode(2 * GIB, "0-1", (10, 20)), NumaNode(2 * GIB, "2-3", (20, 10)))
    plan = made(tmp_path, memory=4 * GIB, vcpus=4, numa=nodes, overcommit=True)
    assert text(plan, "NUMA").splitlines() == [
        "node 0: APIC ids 0-1, 2G at 0x0-0x7fffffff, distances 10 20",
        "node 1: APIC ids 2-3, 2G at 0x80000000-0xbfffffff, 0x100000000-0x13fffffff, distances 20 10",
    ]
    assert text(made(tmp_path), "NUMA") == "none: all memory is as near to every processor"


@pytest.mark.parametrize("tables", ["acpi", "mptable"])
def test_a_picture_s_landmarks_are_what_the_guest_is_told(tmp_path, tables):
    found = landmarks(made(tmp_path, tables=tables))
    assert [(each.start, each.end) for each in found.reserved] == [(0x9E000, MIB)]
    assert found.devices == (Region(0xFEC00000, 0x1000, "I/O APIC"), Region(0xFEE00000, 0x1000, "local APICs"))


def test_landmarks_of_a_broken_plan_are_left_out(tmp_path):
    plan = made(tmp_path)
    page = bytearray(plan.blob("zero page").content)
    page[0x1E8] = 255  # more memory map entries than there can be
    found = landmarks(with_content(plan, "zero page", bytes(page)))
    assert (found.reserved, found.devices) == ((), ())


def test_a_machine_without_interrupt_controllers_has_no_such_landmarks(tmp_path):
    assert landmarks(made(tmp_path, tables="none")).devices == ()
    assert Capability.IRQCHIP in generic_facts().capabilities
