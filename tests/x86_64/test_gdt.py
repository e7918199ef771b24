import struct

import pytest
from any_segments import segments
from hypothesis import given
from hypothesis import strategies as st

from anyvisor.errors import PlanError
from anyvisor.x86_64.gdt import BOOT_GDT, FLAT32_GDT, Gdt, Segment
from anyvisor.x86_64.state import SegmentRegister

FLAT = 0xFFFF_FFFF

gdts = st.lists(segments, max_size=12).map(lambda more: Gdt(Segment.null(), *more))


def test_the_boot_gdt_has_the_flags_that_everybody_boots_linux_with():
    assert [segment.flags for segment in BOOT_GDT][2:] == [0xA09B, 0xC093, 0x808B]


def test_the_boot_gdt_has_the_selectors_of_the_boot_protocol():
    assert [BOOT_GDT.selector(index) for index in (2, 3, 4)] == [0x10, 0x18, 0x20]


def test_the_boot_gdt_in_memory():
    words = [0, 0, 0x00AF9B000000FFFF, 0x00CF93000000FFFF, 0x008F8B000000FFFF, 0]
    assert BOOT_GDT.to_bytes() == struct.pack("<6Q", *words)


def test_the_flat_32_bit_gdt_in_memory():
    words = [0, 0, 0x00CF9B000000FFFF, 0x00CF93000000FFFF, 0x00008B0000000067]
    assert FLAT32_GDT.to_bytes() == struct.pack("<5Q", *words)
    assert FLAT32_GDT.limit_bytes == 39


def test_gdtr_covers_both_halves_of_a_long_mode_tss():
    assert BOOT_GDT.limit_bytes == 47 == len(BOOT_GDT.to_bytes()) - 1


def test_registers_have_limits_in_bytes_however_the_descriptor_counts():
    assert BOOT_GDT.register(0x10).limit == FLAT
    assert FLAT32_GDT.register(0x20).limit == 0x67


def test_a_code_register_is_what_the_processor_would_load():
    assert BOOT_GDT.register(0x10) == SegmentRegister(
        base=0,
        limit=FLAT,
        selector=0x10,
        type=11,
        s=True,
        dpl=0,
        present=True,
        avl=False,
        l=True,
        db=False,
        g=True,
    )


def test_the_task_register_holds_a_busy_tss():
    register = BOOT_GDT.register(0x20)
    assert (register.type, register.s, register.present) == (0xB, False, True)


@given(gdts)
def test_a_table_survives_memory_and_back(gdt):
    table = gdt.to_bytes()
    assert len(table) == gdt.limit_bytes + 1
    assert Gdt.from_bytes(table) == gdt


@given(gdts)
def test_every_selector_leads_to_its_segment_and_its_bytes(gdt):
    for index, segment in enumerate(gdt):
        for rpl in range(4):
            selector = gdt.selector(index, rpl)
            assert gdt.segment(selector) == segment
            assert gdt.register(selector) == segment.register(selector)
        start = gdt.selector(index)
        assert gdt.to_bytes()[start : start + 8 * segment.slots] == segment.to_bytes()


@given(st.binary(max_size=96))
def test_any_bytes_are_a_table_or_a_plan_error(table):
    try:
        gdt = Gdt.from_bytes(table)
    except PlanError:
        return
    assert gdt.to_bytes()[8:] == table[8:]


def test_a_table_is_a_sequence_of_segments():
    assert len(BOOT_GDT) == 5
    assert BOOT_GDT[3] == Segment.data()
    assert [segment.words for segment in BOOT_GDT][:2] == ["null", "null"]


def test_in_protected_mode_a_tss_takes_one_slot():
    assert Gdt.from_bytes(FLAT32_GDT.to_bytes(), long_mode=False) == FLAT32_GDT


def test_what_lies_in_slot_0_does_not_count():
    table = struct.pack("<HIH", 15, 0x100500, 0) + Segment.code(bits=32).to_bytes()
    assert Gdt.from_bytes(table) == Gdt(Segment.null(), Segment.code(bits=32))


@pytest.mark.parametrize(
    ("selector", "why"),
    [
        (
            0x28,
            "selector 0x28 selects nothing in the GDT; the GDT has 0x0, 0x8, 0x10, 0x18, 0x20",
        ),  # the TSS's half
        (0x30, "selects nothing"),
        (0x14, "selector 0x14 means the LDT, not the GDT"),
        (-8, "selects nothing"),
    ],
)
def test_selectors_that_select_nothing_are_refused(selector, why):
    with pytest.raises(PlanError, match=why):
        BOOT_GDT.register(selector)


@pytest.mark.parametrize(("index", "rpl"), [(5, 0), (-1, 0), (2, 4), (2, -1)])
def test_there_are_selectors_only_for_segments_there_are(index, rpl):
    with pytest.raises(PlanError, match="the GDT has segments 0 to 4, privilege levels 0 to 3"):
        BOOT_GDT.selector(index, rpl)


def test_a_table_starts_with_a_null_segment():
    for parts in ([], [Segment.code()]):
        with pytest.raises(PlanError, match=r"start it with Segment\.null"):
            Gdt(*parts)


def test_a_table_holds_what_selectors_can_reach():
    full = Gdt(*[Segment.null()] * 8192)
    assert full.limit_bytes == 0xFFFF
    assert full.selector(8191) == 0xFFF8
    with pytest.raises(PlanError, match="at most 8192 slots, this one has 8193"):
        Gdt(*[Segment.null()] * 8191, Segment.tss())


@pytest.mark.parametrize(
    ("table", "why"),
    [
        (b"", "0 bytes are no GDT"),
        (bytes(12), "12 bytes are no GDT; its entries have 8 bytes each"),
        (BOOT_GDT.to_bytes()[:40], "selector 0x20: the table ends in the middle of a 16-byte descriptor"),
        (
            bytes(8) + struct.pack("<Q", 0x00008E0000000000),
            "selector 0x8: descriptor|selector 0x8: the table ends",
        ),
        (bytes(8) + struct.pack("<2Q", 0x00008C0000000000, 0), r"selector 0x8: .*system type 0xc is a gate"),
        (bytes(16) + struct.pack("<Q", 0x00EF9B000000FFFF), r"selector 0x10: .*L and D are both set"),
    ],
)
def test_broken_tables_are_refused_naming_the_entry(table, why):
    with pytest.raises(PlanError, match=why):
        Gdt.from_bytes(table)


def test_the_description_names_every_segment_with_its_selector():
    lines = BOOT_GDT.describe().splitlines()
    assert len(lines) == 6
    assert lines[3].split() == ["2", "0x0010", "0x0000000000000000", "0xffffffff", "0", "0xa09b", "code64",
                                "accessed|readable|executable"]  # fmt: skip
    assert lines[5].endswith("0x808b  tss64 busy")
