import uuid

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from anyvisor.errors import PlanError
from anyvisor.x86_64.smbios import (
    BaseboardInformation,
    ChassisInformation,
    MemoryDevice,
    ProcessorInformation,
    RawStructure,
    SystemInformation,
)
from anyvisor.x86_64.smbios.structure import StringSet
from anyvisor.x86_64.smbios.system import WakeUp
from anyvisor.x86_64.smbios.tables import KNOWN
from anyvisor.x86_64.smbios.wire import NO_UUID, WIRE

UUID = uuid.UUID("00112233-4455-6677-8899-aabbccddeeff")
texts = st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=12)


def values_of(wire):
    """A strategy for the values of one declared field."""
    if wire.is_text:
        return texts
    size_bytes = wire.size({"contained_count": 0, "element_count": 0, "element_bytes": 0})
    if isinstance(wire.unpack(bytes(size_bytes)), uuid.UUID):
        return st.uuids()
    return st.integers(0, (1 << 8 * size_bytes) - 1)


@st.composite
def structures(draw):
    """Any structure of a known type, without what is counted in it."""
    kind = draw(st.sampled_from(list(KNOWN.values())))
    wires = {field.name: field.metadata[WIRE] for field in attrs.fields(kind) if WIRE in field.metadata}
    counted = {"contained_count", "contained", "element_count", "element_bytes", "elements"}
    values = {name: draw(values_of(wire)) for name, wire in wires.items() if name not in counted}
    return kind(handle=draw(st.integers(0, 0xFFFF)), tail=draw(st.binary(max_size=20)), **values)


raws = st.builds(
    RawStructure,
    st.integers(0, 255),
    st.integers(0, 0xFFFF),
    st.binary(max_size=251),
    st.lists(texts.filter(bool), max_size=5).map(tuple),
)


@given(structures())
def test_a_structure_survives_bytes_and_back(structure):
    assert type(structure).decode(b"before" + structure.to_bytes() + b"after", 6) == structure


@given(raws)
def test_a_raw_structure_survives_bytes_and_back(raw):
    assert RawStructure.decode(raw.to_bytes() + b"after") == raw
    assert len(raw.to_bytes()) == raw.size_bytes


@given(raws)
def test_whatever_a_structure_holds_it_has_the_same_bytes_again(raw):
    for kind in KNOWN.values():
        assert kind.from_raw(attrs.evolve(raw, type=kind.TYPE)).to_bytes()[1:] == raw.to_bytes()[1:]


@given(st.binary(max_size=120), st.integers(4, 60))
def test_any_bytes_are_a_structure_with_the_same_bytes_or_a_plan_error(data, length):
    for content in (data, data[:1] + bytes([length]) + data[2:] + b"\0\0"):
        try:
            raw = RawStructure.decode(content)
        except PlanError:
            continue
        assert raw.to_bytes() == content[: raw.size_bytes]


def test_system_information_to_the_byte():
    made = SystemInformation(handle=0x0100, manufacturer="ACME", product="Anvil", serial="7", uuid=UUID, family="Iron")
    assert made.to_bytes() == (
        b"\x01\x1b\x00\x01" + b"\x01\x02\x00\x03"
        + bytes.fromhex("33221100 5544 7766 8899aabbccddeeff") + b"\x06\x00\x04"
        + b"ACME\0Anvil\x007\0Iron\0\0"
    )  # fmt: skip


def test_without_strings_two_nuls_follow():
    assert RawStructure(127, 0x7F00).to_bytes() == b"\x7f\x04\x00\x7f\0\0"
    assert SystemInformation().to_bytes().endswith(bytes(16) + b"\x06\0\0\0\0")


def test_equal_texts_are_one_string():
    made = SystemInformation(manufacturer="X", product="X", serial="Y")
    assert made.to_bytes()[4:8] == b"\x01\x01\x00\x02"
    assert made.to_bytes().endswith(b"X\0Y\0\0")


def test_strings_that_were_found_keep_their_order_and_numbers():
    raw = RawStructure(1, 5, b"\x03\x01\x00\x09" + bytes(16) + b"\x06\x00\x00", ("Anvil", "nobody's", "ACME"))
    found = SystemInformation.decode(raw.to_bytes())
    assert (found.manufacturer, found.product, found.version, found.serial) == ("ACME", "Anvil", "", "")
    assert found.to_bytes() == raw.to_bytes()
    renamed = attrs.evolve(found, product="Hammer")
    assert renamed.to_bytes().endswith(b"ACME\0Hammer\0\0")
    assert SystemInformation.decode(renamed.to_bytes()).product == "Hammer"


def test_strings_that_are_as_they_would_be_made_are_not_kept_apart():
    made = SystemInformation(manufacturer="ACME", product="Anvil")
    assert SystemInformation.decode(made.to_bytes()).string_set is None
    assert StringSet.of(["a", "", "b", "a"]) == StringSet(("a", "b"), (1, 0, 2, 1))


def test_strings_that_are_no_utf8_come_through():
    raw = b"\x01\x05\x00\x00\x01" + b"\xff\xfeACME\xe9\0\0"
    found = SystemInformation.decode(raw)
    assert found.manufacturer.endswith("\udce9")
    assert found.to_bytes() == raw


def test_an_older_shorter_structure_reads_as_zeros_and_stays_short():
    old = RawStructure(1, 0, b"\x01\x02\x00\x00", ("ACME", "Anvil"))  # 2.0 had neither UUID nor wake-up
    found = SystemInformation.decode(old.to_bytes())
    assert (found.product, found.uuid, found.wake_up, found.formatted_bytes) == ("Anvil", NO_UUID, 0, 8)
    assert found.to_bytes() == old.to_bytes()


def test_a_newer_longer_structure_keeps_its_tail():
    made = MemoryDevice(handle=1, array=2, locator="A1")
    newer = attrs.evolve(made.to_raw(), body=made.to_raw().body + b"\x12\x34")
    found = MemoryDevice.decode(newer.to_bytes())
    assert (found.locator, found.tail) == ("A1", b"\x12\x34")
    assert found.to_bytes() == newer.to_bytes()
    assert "and 2 bytes of a newer version: 12 34" in found.describe()


def test_what_is_counted_in_a_structure_is_read_by_its_count():
    board = BaseboardInformation(contained_count=2, contained=b"\x00\x04\x01\x04", location="slot")
    assert BaseboardInformation.decode(board.to_bytes()) == board
    chassis = ChassisInformation(element_count=2, element_bytes=3, elements=b"abcdef", sku="SKU")
    found = ChassisInformation.decode(chassis.to_bytes())
    assert (found.elements, found.sku) == (b"abcdef", "SKU")


def test_a_count_that_lies_leaves_the_bytes_alone():
    raw = RawStructure(3, 0, bytes(15) + b"\xff\xff" + b"ab", ("x",))
    assert ChassisInformation.decode(raw.to_bytes()).to_bytes() == raw.to_bytes()


def test_numbers_that_no_enum_knows_stay_numbers():
    assert SystemInformation(wake_up=6).wake_up is WakeUp.POWER_SWITCH
    assert SystemInformation(wake_up=200).wake_up == 200
    assert "wake up: 200" in SystemInformation(wake_up=200).describe()


def test_a_description_has_words_and_leaves_out_what_is_empty():
    text = ProcessorInformation(handle=0x400, socket="CPU 0", processor_id=0xABC).with_counts(2, 4).describe()
    assert text.startswith("handle 0x0400, type 4, Processor Information: CPU 0 with 2 cores, 4 threads\n")
    assert "  processor id: 0xabc\n" in text
    assert "  l1 cache: none\n" in text
    assert "voltage" not in text
    assert RawStructure(221, 9, b"\x01", ("maker",)).describe() == "handle 0x0009, type 221: 01\n  string 1: maker"


def test_a_uuid_of_all_zeros_or_all_ones_is_none():
    assert SystemInformation(uuid=UUID).has_uuid
    assert not SystemInformation().has_uuid
    assert not SystemInformation(uuid=uuid.UUID(int=(1 << 128) - 1)).has_uuid


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (b"", "at offset 0x0: the table ends at 0x0, in its header"),
        (b"\x01\x1b\x00", "the table ends at 0x3, in its header"),
        (b"\x01\x03\x00\x00\0\0", "its length 3 is less than its header's 4"),
        (b"\x7f\x04\x00\x00", "type 127 at offset 0x0: its strings have no end"),
        (b"\x7f\x04\x00\x00\0", "its strings have no end"),
        (b"\x01\x1b\x00\x00" + bytes(10), "type 1 at offset 0x0: its strings have no end"),
        (b"\x01\x05\x00\x00\x01ACME\0", "its strings have no end"),
        (b"\x02\x04\x00\x00\0\0", "has type 2; a System Information is 1"),
    ],
)
def test_broken_structures_are_refused_with_the_offset(data, why):
    with pytest.raises(PlanError, match=why):
        SystemInformation.decode(data)


@pytest.mark.parametrize(
    ("make", "why"),
    [
        (lambda: SystemInformation(wake_up=256), "System Information: wake_up=256 does not fit"),
        (lambda: SystemInformation(wake_up=-1), "wake_up=-1 does not fit"),
        (lambda: SystemInformation(uuid="text"), "uuid='text' does not fit"),
        (lambda: SystemInformation(product=5), "SMBIOS product: 5 is not text"),
        (lambda: SystemInformation(product="a\0b"), "have a NUL or an empty one"),
        (lambda: SystemInformation(product="\ud800"), "cannot be written as UTF-8"),
        (lambda: SystemInformation(handle=1 << 16), "handle 65536"),
        (lambda: BaseboardInformation(contained_count=2, contained=b"\0\0"), "contained has 2 bytes, its count 4"),
        (lambda: ChassisInformation(elements=b"\0"), "elements has 1 bytes, its count 0"),
        (lambda: MemoryDevice(tail=bytes(200)), "288 bytes: these go to 255"),
        (lambda: RawStructure(256, 0), "type 256"),
        (lambda: RawStructure(0, 0, bytes(252)), "252 bytes: these go to 255, 65535 and 251"),
        (lambda: RawStructure(0, 0, b"", ("a", "", "b")), "have a NUL or an empty one"),
    ],
)
def test_values_that_do_not_fit_are_refused_at_birth(make, why):
    with pytest.raises(PlanError, match=why):
        make()
