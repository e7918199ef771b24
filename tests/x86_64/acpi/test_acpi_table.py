"""What tables share: header, checksum, reading and refusing."""

import struct

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from anyvisor.errors import PlanError
from anyvisor.x86_64.acpi.facs import Facs, FacsFlags
from anyvisor.x86_64.acpi.fadt import Fadt
from anyvisor.x86_64.acpi.generic_address import GenericAddress
from anyvisor.x86_64.acpi.madt import Madt
from anyvisor.x86_64.acpi.read import KINDS, decode_table
from anyvisor.x86_64.acpi.rsdp import Rsdp
from anyvisor.x86_64.acpi.table import Origin, Table
from anyvisor.x86_64.acpi.xsdt import Rsdt, Xsdt


def raw_table(signature, body, *, revision=1, size=None):
    """A table with a right checksum, made without the code under test."""
    size = 36 + len(body) if size is None else size
    raw = bytearray(struct.pack("<4sIBB6s8sI4sI", signature, size, revision, 0, b"OEM\0\0\0", b"TABLE", 7, b"MAKE", 9))
    raw += body
    raw[9] = -sum(raw) % 256
    return bytes(raw)


def test_a_table_to_the_byte():
    table = Table("OEM1", b"\x01\x02", revision=3, origin=Origin("ME", "MINE", 0x10, "CC", 0x20))
    header = b"OEM1\x26\x00\x00\x00\x03" + b"\x00" + b"ME    MINE    \x10\x00\x00\x00CC  \x20\x00\x00\x00"
    expected = bytearray(header + b"\x01\x02")
    expected[9] = -sum(expected) % 256
    assert table.to_bytes() == bytes(expected)
    assert Table.decode(table.to_bytes()).content == b"\x01\x02"


def test_ids_keep_what_fills_them():
    content = raw_table(b"OEMX", b"abc")
    table = decode_table(content)
    assert (table.origin.oem_id, table.origin.oem_table_id) == ("OEM\0\0\0", "TABLE\0\0\0")
    assert table.to_bytes() == content
    assert "OEM OEM TABLE 0x7, creator MAKE 0x9" in table.describe()


def test_bytes_after_the_end_are_left_aside():
    content = Xsdt((0x1000, 0x2000)).to_bytes()
    assert Xsdt.decode(content + b"more") == Xsdt((0x1000, 0x2000))


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "ends at offset 0x0, in its header of 36 bytes"),
        (Xsdt((1,)).to_bytes()[:35], "ends at offset 0x23, in its header"),
        (Xsdt((1,)).to_bytes()[:43], "length at offset 0x4 is 44, not 36 to the 43 bytes there are"),
        (raw_table(b"XSDT", b"", size=35), "length at offset 0x4 is 35"),
        (Xsdt((1,)).to_bytes()[:-1] + b"\x01", r"checksum at offset 0x9 is 0x\w\w, not 0x\w\w"),
        (raw_table(b"XSDT", bytes(12)), "XSDT ends at offset 0x30, in its fields"),
        (raw_table(b"HPET", bytes(19)), "HPET ends at offset 0x37, in its fields"),
        (raw_table(b"SPCR", bytes(43)), "SPCR ends at offset 0x4f, in its fields"),
        (raw_table(b"APIC", bytes(7)), "MADT ends at offset 0x2b, in its fields"),
        (raw_table(b"APIC", bytes(8) + b"\x00\x08"), "MADT: entry at offset 0x2c has the length 8, with 2 bytes left"),
        (raw_table(b"APIC", bytes(8) + b"\x00\x01"), "MADT: entry at offset 0x2c has the length 1"),
        (raw_table(b"APIC", bytes(8) + b"\x00"), "MADT: entry at offset 0x2c has the length 0, with 1 bytes left"),
        (raw_table(b"SRAT", bytes(12) + b"\x02\x00"), "SRAT: entry at offset 0x30 has the length 0"),
        (raw_table(b"SLIT", b"\x02" + bytes(10)), "SLIT: 2 nodes at offset 0x24 do not fit its length of 47 bytes"),
        (raw_table(b"MCFG", bytes(23)), "MCFG ends at offset 0x3b, within a configuration space"),
        (raw_table(b"FACP", bytes(79)), "FADT ends at offset 0x73; even the oldest has 116 bytes"),
        (b"FACS" + bytes(59), "FACS ends at offset 0x3f; it has 64 bytes"),
        (b"FACS" + bytes(60), "of 0 bytes at offset 0x0"),
        (b"RSD PTR " + bytes(11), "RSDP ends at offset 0x13"),
        (Rsdp(xsdt=1).to_bytes()[:35], "RSDP ends at offset 0x23; one of revision 2 has 36 bytes"),
        (Rsdp(xsdt=1).to_bytes()[:-1] + b"\x01", "RSDP: checksum at offset 0x20"),
        (Rsdp(xsdt=1).to_bytes().replace(b"ANYV", b"ANYW"), "RSDP: checksum at offset 0x8"),
    ],
)
def test_a_broken_table_is_refused_with_the_offset(content, words):
    with pytest.raises(PlanError, match=words):
        decode_table(content)


def test_a_table_of_another_kind_is_refused():
    for kind, content in ((Madt, Xsdt().to_bytes()), (Rsdp, b"RSD PTX " + bytes(28)), (Facs, Rsdp().to_bytes() * 2)):
        with pytest.raises(PlanError, match="not"):
            kind.decode(content)


@pytest.mark.parametrize(
    "table",
    [
        Madt(lapic_address=1 << 32),
        Rsdt((1 << 32,)),
        Fadt(reset_reg=GenericAddress.io(1 << 64, 8)),
        Fadt(pm1_evt_len=256),
        Table("DSDT", b"", revision=256),
        Facs(hardware_signature=1 << 32),
        Rsdp(rsdt=1 << 32),
    ],
)
def test_a_number_that_is_too_big_is_refused_by_the_tables_name(table):
    with pytest.raises(PlanError, match=f"^{table.name}: a value does not fit in its place"):
        table.to_bytes()


@pytest.mark.parametrize("origin", [Origin(oem_id="SEVENLT"), Origin(creator_id="ABCDE"), Origin(oem_table_id="λ")])
def test_an_id_that_is_too_long_is_refused(origin):
    with pytest.raises(PlanError, match="shorten it"):
        Table("DSDT", b"", origin=origin).to_bytes()


@given(st.sampled_from(sorted(KINDS)), st.binary(max_size=400), st.integers(0, 255))
def test_whatever_is_read_is_written_again_to_the_byte(signature, body, revision):
    content = raw_table(signature.encode(), body, revision=revision)
    try:
        table = decode_table(content)
    except PlanError:
        return
    assert table.to_bytes() == content
    assert table.describe()


entries = st.lists(st.tuples(st.integers(0, 12), st.binary(max_size=30)), max_size=6)


@given(st.sampled_from([(b"APIC", 8), (b"SRAT", 12)]), entries)
def test_whatever_entries_are_read_are_written_again_to_the_byte(kind, found):
    signature, start = kind
    body = bytes(start) + b"".join(bytes([number, 2 + len(rest)]) + rest for number, rest in found)
    table = decode_table(raw_table(signature, body))
    assert table.to_bytes() == raw_table(signature, body)
    assert len(table.entries) == len(found)
    assert table.describe()


@given(st.binary(min_size=240, max_size=300))
def test_any_fadt_is_read_and_written_again_to_the_byte(body):
    content = raw_table(b"FACP", body)
    assert decode_table(content).to_bytes() == content


@given(st.binary(min_size=56, max_size=70))
def test_any_facs_is_read_and_written_again_to_the_byte(rest):
    content = b"FACS" + struct.pack("<I", 8 + len(rest)) + rest
    assert decode_table(content).to_bytes() == content


# -- RSDP, FACS ------------------------------------------------------------------------------------------------


def test_the_rsdp_to_the_byte():
    first = b"RSD PTR \xfcANYVSR\x02\x00\x00\x00\x00"
    rest = b"\x24\x00\x00\x00" + (0x123456789A).to_bytes(8, "little")
    found = Rsdp(xsdt=0x123456789A).to_bytes()
    assert (found[:20], found[20:32], found[33:]) == (first, rest, bytes(3))
    assert sum(found) % 256 == sum(found[:20]) % 256 == 0
    assert Rsdp.decode(found) == Rsdp(xsdt=0x123456789A)


@pytest.mark.parametrize("revision", [0, 1])
def test_the_rsdp_of_acpi_1_has_20_bytes_and_no_xsdt(revision):
    old = Rsdp(rsdt=0x7FE0000, revision=revision, oem_id="BOCHS ")
    assert len(old.to_bytes()) == 20
    assert sum(old.to_bytes()) % 256 == 0
    assert Rsdp.decode(old.to_bytes() + bytes(range(16))) == old
    assert "RSDT at 0x7fe0000" in old.describe()


def test_the_facs_to_the_byte():
    assert Facs().to_bytes() == b"FACS\x40" + bytes(27) + b"\x02" + bytes(31)
    awake = Facs(waking_vector=0x1234, flags=FacsFlags(wake_64bit=True), x_waking_vector=1 << 40)
    assert Facs.decode(awake.to_bytes()) == awake


def test_a_generic_address_to_the_byte():
    assert GenericAddress.io(0xCF9, 8).to_bytes() == b"\x01\x08\x00\x01\xf9\x0c" + bytes(6)
    assert GenericAddress.memory(0xFED00000, 64).to_bytes() == b"\x00\x40\x00\x04\x00\x00\xd0\xfe" + bytes(4)
    assert str(attrs.evolve(GenericAddress.io(0x600, 3), bit_offset=2)) == "3 bits at io 0x600 from bit 2"
    assert str(GenericAddress(0xC0, 8, address=1)) == "8 bits at address space 0xc0 0x1"
