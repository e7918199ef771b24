import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from anyvisor.bits import Bits
from anyvisor.errors import PlanError
from anyvisor.states import Change
from anyvisor.x86_64.lapic import DeliveryMode, Lapic, LocalVector, boot_lapic

FIELDS = {each.name: each for each in attrs.fields(Lapic)}
BITMAPS = {"in_service", "trigger_mode", "interrupt_request"}
OFFSETS = {
    "id": 0x20, "version": 0x30, "task_priority": 0x80, "spurious_vector": 0xF0, "icr_low": 0x300,
    "timer": 0x320, "lint0": 0x350, "lint1": 0x360, "error": 0x370, "divide_configuration": 0x3E0,
}  # fmt: skip

lapics = st.builds(Lapic, **{name: st.integers(0, 2 ** (256 if name in BITMAPS else 32) - 1) for name in FIELDS})


@given(lapics)
def test_every_register_survives_the_page_and_back(lapic):
    page = lapic.to_bytes()
    assert len(page) == 1024
    assert Lapic.from_bytes(page) == lapic
    assert Lapic.from_bytes(page + bytes(3072)) == lapic


@pytest.mark.parametrize(("name", "offset"), OFFSETS.items())
def test_registers_lie_where_the_manual_has_them(name, offset):
    page = attrs.evolve(Lapic.from_bytes(bytes(1024)), **{name: 0x87654321}).to_bytes()
    assert page[offset : offset + 4] == b"\x21\x43\x65\x87"
    assert page.count(0) == 1020


def test_vector_bitmaps_take_a_word_every_sixteen_bytes():
    page = attrs.evolve(Lapic.from_bytes(bytes(1024)), interrupt_request=1 << 33 | 1 << 255).to_bytes()
    assert page[0x210] == 2
    assert page[0x273] == 0x80
    assert sum(page) == 0x82


def test_a_page_that_is_too_short_is_refused():
    with pytest.raises(ValueError, match="has 1024 bytes, not 1023"):
        Lapic.from_bytes(bytes(1023))


def test_no_two_registers_share_a_place():
    pages = {attrs.evolve(Lapic.from_bytes(bytes(1024)), **{name: 1}).to_bytes() for name in FIELDS}
    assert len(pages) == len(FIELDS)


def test_the_boot_processor_takes_extint_on_lint0_and_nmi_on_lint1():
    lapic = boot_lapic(boot_processor=True).apply(Lapic())
    assert (lapic.lint0, lapic.lint1) == (0x700, 0x400)


def test_application_processors_have_lint0_masked():
    lapic = boot_lapic(boot_processor=False).apply(Lapic())
    assert (lapic.lint0, lapic.lint1) == (0x10700, 0x400)


def test_the_pins_are_all_that_a_boot_changes():
    before = Lapic(id=7 << 24, timer=LocalVector(vector=0x31), error=LocalVector(vector=0xFE))
    after = boot_lapic(boot_processor=True).apply(before)
    assert attrs.evolve(after, lint0=before.lint0, lint1=before.lint1) == before


def test_registers_of_a_new_apic_are_masked_and_its_software_is_off():
    lapic = Lapic()
    for name in ("timer", "thermal", "performance", "lint0", "lint1", "error"):
        assert getattr(lapic, name) == 0x10000, name
    assert lapic.spurious_vector == 0xFF
    assert lapic.destination_format == 0xFFFFFFFF


def test_local_vectors_are_read_and_written_by_name():
    vector = LocalVector(vector=0xEC, delivery_mode=DeliveryMode.NMI, masked=True, timer_mode=2)
    assert vector == 0x504EC
    assert vector.delivery_mode is DeliveryMode.NMI
    assert LocalVector(0x300).delivery_mode == 3  # reserved: a number is all it is
    assert isinstance(Lapic(lint0=0x700).lint0, Bits)


def test_a_change_to_a_register_that_is_not_there_is_refused():
    with pytest.raises(PlanError, match=r"Lapic has no field lint2; it has .*lint0, lint1"):
        Change(Lapic, lint2=0)
