"""The outline of AML: of tables that iasl makes, of those of QEMU, and of bytes that are no AML at all."""

import re

import pytest
from aml_judges import HEADER_BYTES, compiled_terms, disassemble, needs_acpica
from hypothesis import given
from hypothesis import strategies as st
from qemu_aml import MACHINES, aml_tables, needs_qemu

from anyvisor.x86_64.acpi.aml import Device, Name, Path, Scope, packed
from anyvisor.x86_64.acpi.aml_outline import aml_outline
from anyvisor.x86_64.acpi.dsdt import processors_aml

ASL = """
External (\\_SB.FAR, DeviceObj)
Name (NUMB, 12)
Name (BIG, 0xFFFFFFFFFFFFFFFF)
Name (TEXT, "a\\"b\\\\")
Name (BUFF, Buffer (4) {1, 2, 3, 4})
Name (PACK, Package (2) {Package (1) {NUMB}, "x"})
Name (MANY, Package (9) {1, 2, 3, 4, 5, 6, 7, 8, 9})
Name (PART, Package (4) {0x12345678})
Alias (NUMB, OTHR)
Mutex (MUTX, 3)
Event (EVNT)
OperationRegion (PORT, SystemIO, 0x600, 0x10)
OperationRegion (THRU, SystemMemory, NUMB, 4)
Field (PORT, ByteAcc, NoLock, Preserve) {INDX, 8, DATA, 8, AAAA, 3}
IndexField (INDX, DATA, ByteAcc, NoLock, Preserve) {BBBB, 8}
BankField (PORT, AAAA, 1, ByteAcc, NoLock, Preserve) {CCCC, 8}
CreateDWordField (BUFF, 0, WORD)
CreateField (BUFF, 3, 2, BITS)
Scope (\\_SB)
{
    Device (DEVA)
    {
        Name (_HID, EisaId ("PNP0C02"))
        Name (_CID, Package (2) {EisaId ("PNP0A03"), "ACPI0007"})
        Name (_UID, 17)
        Name (_ADR, 0x1F0003)
        Name (_CRS, ResourceTemplate () {IO (Decode16, 0x70, 0x70, 1, 2) IRQNoFlags () {8}})
        Method (_STA, 0) {Return (0xF)}
        Device (DEVB) {Name (_HID, "LNRO0005") Method (FUNC, 3, Serialized) {Store (Arg0, Arg1)} Name (LATE, Zero)}
        PowerResource (POWR, 1, 2) {Method (_ON, 0) {}}
    }
    ThermalZone (THRM) {Method (_TMP, 0) {Return (3000)}}
    Processor (CPU0, 1, 0xB010, 6) {Name (_HID, "ACPI0007")}
    Processor (CPU1, 2, 0, 0) {}
}
"""

OUTLINE = r"""
If (14 bytes not read)
Name NUMB 0xc
Name BIG 0xffffffffffffffff
Name TEXT a"b\\
Name BUFF buffer of 4 bytes
Name PACK {{NUMB}, x}
Name MANY package of 9
Name PART {0x12345678}
Alias OTHR of NUMB
Mutex MUTX
Event EVNT
OperationRegion PORT SystemIO 0x600, size 0x10
OperationRegion THRU SystemMemory NUMB, size 4
Field PORT
IndexField INDX DATA
BankField PORT AAAA
CreateField WORD of BUFF 0
CreateField BITS of BUFF 3 2
Scope \_SB
  Device DEVA: _HID PNP0C02, _CID {PNP0A03, ACPI0007}, _UID 17, _ADR 0x1f0003, _CRS ports 0x70-0x71, IRQ 8
    Method _STA of 0 arguments
    Device DEVB: _HID LNRO0005
      Method FUNC of 3 arguments
      Name LATE 0
    PowerResource POWR, level 1, order 2
      Method _ON of 0 arguments
  ThermalZone THRM
    Method _TMP of 0 arguments
  Processor CPU0 1, registers 0xb010 (6 bytes): _HID ACPI0007
  Processor CPU1 2
""".strip()


@needs_acpica
def test_outline_of_every_kind_of_object(tmp_path):
    assert aml_outline(compiled_terms(tmp_path, ASL)) == OUTLINE


@needs_acpica
def test_what_has_to_be_computed_hides_only_the_rest_of_its_list(tmp_path):
    asl = """
    Device (D0) {Name (_UID, 1) OperationRegion (R, SystemIO, Add (1, SizeOf (_UID)), 4) Name (GONE, 5)}
    Device (D1) {Name (_UID, 2)}
    If (LEqual (1, 1)) {Name (MAYB, 5)}
    Name (SEEN, 5)
    """
    lines = aml_outline(compiled_terms(tmp_path, asl)).splitlines()
    assert lines[0] == "Device D0: _UID 1"
    assert re.fullmatch(r"  \(\d+ bytes not read: AML at offset 0x\w+: opcode 0x72 has to be computed\)", lines[1])
    assert lines[2] == "Device D1: _UID 2"
    assert re.match(r"\(\d+ bytes not read|If \(", lines[3])


def test_externals_and_nothings_between_the_others():
    assert (
        aml_outline(b"\x15" + Path("\\_SB.FAR") + b"\x08\x02" + b"\xa3" + Name("A", 1))
        == "External \\_SB.FAR\nName A 1"
    )


def test_a_value_that_has_to_be_computed_counts_from_its_name():
    computed = b"\x08BBBB\x72\x00\x00\x00"
    lines = aml_outline(b"\x5b\x82" + packed(b"DEVA", Name("A", 1), computed)).splitlines()
    assert lines[0] == "Device DEVA: A 1" and lines[1].startswith(
        f"  ({len(computed)} bytes not read: AML at offset 0x12:"
    )


def test_reserved_bits_of_a_length_count_for_nothing():
    assert aml_outline(b"\x10" + b"\x77\x00_SB_\xa3" + Name("A", 1)) == "Scope _SB\nName A 1"


def test_a_name_of_only_fillers_keeps_one():
    assert aml_outline(Name("_", 1)) == "Name _ 1"


# -- QEMU ------------------------------------------------------------------------------------------------------


NAMED = "Device Method Processor OperationRegion Mutex Event PowerResource ThermalZone Scope Name"


def named_in_asl(asl: str) -> list[tuple[str, str]]:
    """Kind and path of each object that iasl's text declares outside methods and conditions, in order."""
    found, hidden_below = [], None
    for line in asl[asl.index("DefinitionBlock") :].splitlines():
        indent = len(line) - len(line.lstrip())
        if hidden_below is not None:
            hidden_below = None if line.strip() == "}" and indent == hidden_below else hidden_below
            continue
        match = re.match(r"\s*(\w+) \(([\\^\w.]*)", line)
        if match and match[1] in NAMED.split():
            found.append((match[1], match[2]))
        if match and match[1] in {"Method", "If"}:
            hidden_below = indent
    return found


def named_in_outline(outline: str) -> list[tuple[str, str]]:
    """The same of an outline; the names on a device's own line are names too."""
    found = []
    for line in outline.splitlines():
        match = re.match(r"\s*(\w+) ([\\^\w.]+)", line)
        if match and match[1] in NAMED.split():
            found.append((match[1], match[2]))
            inline = re.findall(r"(?:^|, )(\w{2,4}|[A-Z_]) ", line.partition(": ")[2]) if match[1] != "Name" else []
            found += [("Name", name) for name in inline if name.upper() == name and name not in {"IRQ", "DMA"}]
    return found


@needs_acpica
@needs_qemu
@pytest.mark.parametrize("machine", MACHINES)
def test_outline_of_qemus_tables_names_what_iasl_names(machine, tmp_path):
    tables = aml_tables(machine, tmp_path)
    assert tables
    for raw in tables:
        asl = disassemble(tmp_path, raw[HEADER_BYTES:], raw[:4])
        outline = aml_outline(raw[HEADER_BYTES:])
        assert "not read: AML" not in outline, outline
        assert named_in_outline(outline) == named_in_asl(asl)
        for name, count in re.findall(r"Method \((\w+), (\d),", asl):
            if ("Method", name) in named_in_outline(outline):
                assert f"Method {name} of {count} argument" in outline


# -- no AML ----------------------------------------------------------------------------------------------------


@given(st.binary(max_size=200))
def test_any_bytes_have_an_outline(junk):
    assert isinstance(aml_outline(junk), str)


WHOLE = Scope("\\_SB", Device("COM1", Name("_UID", 1), Name("BUFF", bytes(70)), Name("TEXT", "word"))) + processors_aml(
    [5]
)


@given(st.integers(0, len(WHOLE) - 1), st.integers(0, 255))
def test_broken_aml_has_an_outline(at, value):
    aml_outline(WHOLE[:at] + bytes([value]) + WHOLE[at + 1 :])


@pytest.mark.parametrize("end", range(1, len(WHOLE)))
def test_aml_cut_short_says_what_was_not_read(end):
    between_terms = len(WHOLE) - len(processors_aml([5]))
    assert ("bytes not read" in aml_outline(WHOLE[:end])) == (end != between_terms)


def test_lists_too_deep_to_be_sane_are_passed_over():
    nested: bytes = Device("D")
    for _ in range(5000):
        nested = b"\x5b\x82" + packed(b"D___", nested)
    lines = aml_outline(nested).splitlines()
    assert len(lines) < 50 and "within each other" in lines[-1]
    value: bytes = b"\x00"
    for _ in range(5000):
        value = b"\x12" + packed(b"\x01", value)
    assert "within each other" in aml_outline(b"\x08PACK" + value)


def test_what_is_inside_lengths_beyond_their_list_is_not_believed():
    inner = b"\x5b\x82\x3fDEVA"
    assert "length of 63 bytes" in aml_outline(b"\x10" + packed(b"_SB_", inner) + bytes(100))
