"""Tables are found as an OS finds them, changed, and placed anew."""

import attrs
import pytest
from acpi_machines import PC, PM, REGION, RSDP, halves, placed, tables

from anyvisor.errors import PlanError
from anyvisor.memory import GuestMemory, Region
from anyvisor.plan import Blob, FirmwareTables
from anyvisor.x86_64.acpi.fadt import Fadt
from anyvisor.x86_64.acpi.madt import Madt, NmiSource
from anyvisor.x86_64.acpi.read import decode_table, read_placed, read_tables
from anyvisor.x86_64.acpi.rsdp import Rsdp
from anyvisor.x86_64.acpi.table import Table
from anyvisor.x86_64.acpi.xsdt import Rsdt, Xsdt

AT = 0x1000


def reader(pieces):
    memory = bytearray(0x10000)
    for address, content in pieces.items():
        memory[address : address + len(content)] = content
    return lambda address, size: bytes(memory[address : address + size])


def test_tables_are_read_from_guest_memory():
    firmware = placed(2)
    with GuestMemory([Region(0, 0x100000)]) as memory:
        for each in firmware.blobs:
            memory.write(each.guest_address, each.content)
        found = read_tables(memory.read, firmware.pointer)
    assert found == read_placed(firmware)
    fadt = next(each for each in found.placed if isinstance(each.table, Fadt))
    assert (
        f"FADT (FACP): revision 6, 276 bytes, OEM ANYVSR ANYVISOR 0x1, creator ANYV 0x1, at {fadt.address:#x}"
        in found.describe()
    )


def test_an_old_rsdp_leads_through_the_rsdt():
    madt = tables().find(Madt).to_bytes()
    pieces = {0: Rsdp(rsdt=AT, revision=0).to_bytes(), AT: Rsdt((0x2000, 0)).to_bytes(), 0x2000: madt}
    found = read_tables(reader(pieces), 0)
    assert [(each.address, each.table.name) for each in found.all_placed] == [(AT, "RSDT"), (0x2000, "MADT")]


@pytest.mark.parametrize(
    ("pieces", "words"),
    [
        ({}, "RSDP: signature at offset 0x0"),
        ({0: Rsdp().to_bytes()}, "RSDP at 0x0 leads to no XSDT and no RSDT"),
        ({0: Rsdp(xsdt=AT).to_bytes()}, "at 0x1000: length 0 is none that a table has"),
        ({0: Rsdp(xsdt=AT).to_bytes(), AT: b"XSDT\0\0\0\x7f"}, "length 2130706432 is none"),
        ({0: Rsdp(xsdt=AT).to_bytes(), AT: Table("DSDT", b"").to_bytes()}, "leads to a DSDT at 0x1000, not to an XSDT"),
        ({0: Rsdp(xsdt=AT).to_bytes(), AT: Xsdt((AT + 0x100,)).to_bytes()}, "at 0x1100: length 0"),
        (
            {0: Rsdp(xsdt=AT).to_bytes(), AT: Xsdt((0x2000,)).to_bytes(), 0x2000: Xsdt((7,)).to_bytes()[:-1] + b"\1"},
            "ACPI table at 0x2000: XSDT: checksum",
        ),
        ({0: Rsdp(xsdt=AT).to_bytes(), AT: b"RSD PTR " + Rsdp().to_bytes()[8:]}, "none that a table has|another RSDP"),
    ],
)
def test_what_is_broken_is_said_with_its_address(pieces, words):
    with pytest.raises(PlanError, match=words):
        read_tables(reader(pieces), 0)


def test_what_leads_to_more_tables_than_a_machine_has_is_refused():
    pieces = {0: Rsdp(xsdt=AT).to_bytes(), 0x4000: Table("OEM1", bytes(0x8000)).to_bytes()}
    assert len(read_tables(reader({**pieces, AT: Xsdt((0x4000,) * 500).to_bytes()}), 0).placed) == 500
    with pytest.raises(PlanError, match="with that at 0x4000 they have more than 16777216 bytes"):
        read_tables(reader({**pieces, AT: Xsdt((0x4000,) * 512).to_bytes()}), 0)


def test_a_fadt_that_leads_to_itself_is_refused():
    fadt = Fadt(dsdt=0x2000, rest=bytes(0x8000)).to_bytes()
    with pytest.raises(PlanError, match="with that at 0x2000 they have more than"):
        read_tables(reader({0: Rsdp(xsdt=AT).to_bytes(), AT: Xsdt((0x2000,)).to_bytes(), 0x2000: fadt}), 0)


def test_memory_that_ends_before_a_table_is_told():
    content = Rsdp(xsdt=AT).to_bytes()
    with pytest.raises(PlanError, match="at 0x1000: the memory that is read ends before it"):
        read_tables(lambda address, size: content[address:][:size], 0)


def test_a_piece_that_was_dropped_is_missed():
    firmware = placed()
    without = FirmwareTables(firmware.pointer, tuple(each for each in firmware.blobs if each.name != "DSDT"))
    with pytest.raises(PlanError, match=r"no ACPI table lies at 0x.*; a piece was dropped, or an address is wrong"):
        read_placed(without)


def test_tables_can_be_changed_added_and_taken_away():
    found = read_placed(placed()).tables
    madt = found.find(Madt)
    nmi = NmiSource(0, 20)
    changed = found.with_table(attrs.evolve(madt, entries=(*madt.entries, nmi))).without("SPCR")
    changed = changed.with_table(Table("OEM1", b"ours"))
    again = read_placed(changed.at(REGION, RSDP)).tables
    assert nmi in again.find(Madt).entries
    assert [each.name for each in again.tables] == ["FADT", "FACS", "DSDT", "MADT", "SSDT", "OEM1"]
    assert again.named("OEM1")[0].content == b"ours"


def test_a_dsdt_that_nothing_leads_to_is_refused():
    with pytest.raises(PlanError, match="nothing leads to the DSDT and FACS; add a FADT"):
        tables().without("FACP").at(REGION, RSDP)


def test_runs_of_processors_share_a_line_of_the_description():
    words = tables(300, numa=halves(300)).describe()
    assert "  processors 0-254: APIC ids 0-254, enabled\n  processors 255-299: x2APIC ids 255-299, enabled\n" in words
    assert "  node 0: APIC ids 0-149, enabled\n" in words
    assert "  node 1: APIC ids 150-254, enabled\n  node 1: x2APIC ids 255-299, enabled\n" in words
    assert "memory 0x0-0xbfffffff (3G), enabled" in words
    assert tables(1).find(Madt).describe().splitlines()[2] == "  processor 0: APIC id 0, enabled"


def test_processors_that_differ_have_a_line_each():
    madt = tables(4).find(Madt)
    first, second, third, *rest = madt.entries
    mixed = attrs.evolve(madt, entries=(first, attrs.evolve(second, flags=0), attrs.evolve(third, apic_id=9), *rest))
    assert mixed.describe().splitlines()[2:6] == [
        "  processor 0: APIC id 0, enabled",
        "  processor 1: APIC id 1, disabled",
        "  processor 2: APIC id 9, enabled",
        "  processor 3: APIC id 3, enabled",
    ]


def test_the_pieces_are_told_in_words():
    found = read_placed(placed(devices=(*PC, PM)))
    words = found.describe()
    for line in (
        "RSDP: revision 2, 36 bytes, OEM ANYVSR, at 0xe0000",
        "  fixed hardware, SCI 9, always in ACPI mode",
        "  pm1a_evt: 32 bits at io 0x600",
        "  reset: write 0x1 to 8 bits at io 0x60c",
        "  boot flags: legacy_devices|i8042|no_vga",
        "  ISA IRQ 9 is interrupt 9, active high, level",
        "  serial port (full 16550), 8 bits at io 0x3f8",
    ):
        assert line in words.splitlines(), line


def test_a_blob_of_several_tables_is_read_too():
    firmware = placed()
    start, end = REGION.start, max(each.region.end for each in firmware.blobs[1:])
    whole = bytearray(end - start)
    for each in firmware.blobs[1:]:
        whole[each.guest_address - start : each.region.end - start] = each.content
    joined = FirmwareTables(firmware.pointer, (firmware.blobs[0], Blob("all", start, bytes(whole))))
    assert read_placed(joined) == read_placed(firmware)


def test_a_table_of_unknown_signature_keeps_its_bytes():
    table = Table("WAET", bytes(range(20)))
    assert decode_table(table.to_bytes()) == table
    assert "20 bytes: 00 01 02" in table.describe()
