"""The AML encoder, judged by what iasl makes of the same terms in ASL."""

import pytest
from aml_judges import compiled_terms, disassemble, needs_acpica

from anyvisor.errors import PlanError
from anyvisor.x86_64.acpi.aml import (
    Buffer,
    Device,
    EisaId,
    Integer,
    Name,
    Package,
    Path,
    Scope,
    String,
    data,
    packed,
)
from anyvisor.x86_64.acpi.aml_methods import Arg, Local, Method, Return, Store

EDGES = [0, 1, 2, 0xFE, 0xFF, 0x100, 0xFFFF, 0x10000, 0xFFFFFFFF, 1 << 32, (1 << 64) - 2, (1 << 64) - 1]

TERMS = {
    **{f"Name (ABCD, {value:#x})": Name("ABCD", value) for value in EDGES},
    'Name (A, "")': Name("A", ""),
    'Name (_B_1, "LNRO0005")': Name("_B_1", "LNRO0005"),
    'Name (_HID, EisaId ("PNP0C02"))': Name("_HID", EisaId("PNP0C02")),
    'Name (_HID, EisaId ("ZZZFFFF"))': Name("_HID", EisaId("ZZZFFFF")),
    'Name (_HID, EisaId ("ACP0000"))': Name("_HID", EisaId("ACP0000")),
    "Name (BUFF, Buffer (3) {1, 2, 255})": Name("BUFF", b"\x01\x02\xff"),
    f"Name (BUFF, Buffer (300) {{{', '.join(str(i % 256) for i in range(300))}}})": Name(
        "BUFF", bytes(i % 256 for i in range(300))
    ),
    'Name (PACK, Package (4) {5, "five", Package (0) {}, Buffer (1) {5}})': Name(
        "PACK", Package(5, "five", Package(), b"\x05")
    ),
    f"Name (PACK, Package (255) {{{', '.join(['7'] * 255)}}})": Name("PACK", Package(*[7] * 255)),
    "Device (DEVX) {}": Device("DEVX"),
    "Scope (\\_SB) {Device (D) {Name (_UID, 3)}}": Scope("\\_SB", Device("D", Name("_UID", 3))),
    "Scope (\\) {Name (N, 2)}": Scope("\\", Name("N", 2)),
    "Device (D0) {Device (D1) {Device (D2) {}}} Scope (D0.D1) {Name (X, 2)} Scope (D0.D1.D2) {Name (^^Y, 2)}": (
        Device("D0", Device("D1", Device("D2"))) + Scope("D0.D1", Name("X", 2)) + Scope("D0.D1.D2", Name("^^Y", 2))
    ),
    "Method (M) {}": Method("M"),
    "Method (M, 2, Serialized) {Store (Arg1, Local7) Return (Local7)}": Method(
        "M", Store(Arg(1), Local(7)), Return(Local(7)), arguments=2, serialized=True
    ),
    "Name (N, 2) Method (_STA, 0, NotSerialized) {Store (0xF, \\N) Return (\\N)}": (
        Name("N", 2) + Method("_STA", Store(0xF, Path("\\N")), Return(Path("\\N")))
    ),
    "Name (N, 2) Name (P, Package (1) {N})": Name("N", 2) + Name("P", Package(Path("N"))),
}


@needs_acpica
@pytest.mark.parametrize("asl", TERMS)
def test_terms_have_the_bytes_that_iasl_gives_them(asl, tmp_path):
    assert compiled_terms(tmp_path, asl).hex(" ") == TERMS[asl].hex(" ")


@needs_acpica
@pytest.mark.parametrize("inside", [57, 58, 59, 4087, 4088, 4089, 4090, 4091, 70000, (1 << 20) + 5])
def test_lengths_grow_a_byte_at_the_edges(inside, tmp_path):
    """A buffer in a device, of sizes around those at which PkgLength needs another byte."""
    body = Scope("\\_SB", Device("D", Name("B", bytes(inside))), Name("LAST", 7))
    asl = disassemble(tmp_path, body)
    assert f"Buffer (0x{inside:0{2 if inside < 256 else 4 if inside < 65536 else 8}X})" in asl
    assert "Name (LAST, 0x07)" in asl


@pytest.mark.parametrize(
    ("content", "lead"),
    [
        (0, "01"),
        (62, "3f"),
        (63, "41 04"),
        (4093, "4f ff"),
        (4094, "81 00 01"),
        ((1 << 20) - 4, "8f ff ff"),
        ((1 << 20) - 3, "c1 00 00 01"),
    ],
)
def test_length_counts_itself(content, lead):
    assert packed(bytes(content))[: -content or None].hex(" ") == lead


def test_length_of_more_than_28_bits_is_refused():
    class Long(bytes):
        """Bytes that only say they are so many: 256 MiB are a lot to join for a test."""

    with pytest.raises(PlanError, match="268435456 bytes"):
        packed(bytes(1 << 27), bytes(1 << 27))


@pytest.mark.parametrize(
    "path", ["", "1ABC", "ABCDE", "abc", "A-B", "A..B", "\\.A", "A.", ".A", "A B", "\\\\A", "^\\A", "Ä"]
)
def test_what_is_no_name_is_refused(path):
    with pytest.raises(PlanError, match="AML name"):
        Path(path)


def test_a_path_has_at_most_255_parts():
    assert Path(".".join(["A"] * 255)).startswith(b"\x2f\xffA___A___")
    with pytest.raises(PlanError, match="256 parts"):
        Path(".".join(["A"] * 256))


@pytest.mark.parametrize("text", ["PNP050", "PNP05011", "pnp0501", "PNP05G1", "LNRO0005", "PN10501", ""])
def test_what_is_no_eisa_id_is_refused(text):
    with pytest.raises(PlanError, match="EISA id"):
        EisaId(text)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Integer(-1), "no sign"),
        (lambda: Integer(1 << 64), "64 bits"),
        (lambda: String("naïve"), "ASCII"),
        (lambda: String("a\0b"), "zero byte"),
        (lambda: Package(*range(256)), "at most 255"),
        (lambda: Package(-1), "no sign"),
        (lambda: Name("A", 1 << 64), "64 bits"),
        (lambda: Arg(7), "0 to 6"),
        (lambda: Local(8), "0 to 7"),
        (lambda: Method("M", arguments=8), "0 to 7"),
        (lambda: Method("M", arguments=-1), "0 to 7"),
        (lambda: Device("TOOLONG"), "TOOLONG"),
    ],
)
def test_what_cannot_be_encoded_is_refused(make, message):
    with pytest.raises(PlanError, match=message):
        make()


def test_python_values_become_data():
    assert data(True) == data(1) == Integer(1) == b"\x01"
    assert data("A") == String("A")
    assert data(b"A") == Buffer(b"A")
    assert data(EisaId("PNP0501")) is not None and data(Path("A")) == b"A___"


def test_aml_shows_its_bytes():
    assert repr(Name("A", 0)) == "<Name: 08 41 5f 5f 5f 00>"
