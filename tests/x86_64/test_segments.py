import struct

import attrs
import pytest
from any_segments import segments
from hypothesis import given
from hypothesis import strategies as st

from anyvisor.errors import PlanError
from anyvisor.x86_64.gdt import BYTE, Segment
from anyvisor.x86_64.state import SegmentRegister


@pytest.mark.parametrize(
    ("segment", "descriptor"),
    [
        (Segment.code(bits=32, conforming=True, readable=False), 0x00CF9D000000FFFF),
        (Segment.code(bits=16, granularity=BYTE, limit_bytes=0xFFFF, base=0xF0000), 0x00009B0F0000FFFF),
        (Segment.code(bits=64, privilege=3, accessed=False), 0x00AFFA000000FFFF),
        (Segment.data(privilege=3, writable=False, available=True), 0x00DFF1000000FFFF),
        (Segment.data(expand_down=True), 0x00C0970000000000),
        (Segment.data(base=0x12345678, granularity=BYTE, limit_bytes=0xABCDE), 0x124A93345678BCDE),
        (Segment.tss(bits=32, granularity=BYTE, limit_bytes=0x67, present=False), 0x0000090000000067),
        (Segment.tss(bits=16, busy=True, granularity=BYTE, limit_bytes=0x2B), 0x000083000000002B),
        (Segment.ldt(bits=32, granularity=BYTE, limit_bytes=7), 0x0000820000000007),
    ],
)
def test_words_become_the_manuals_bits(segment, descriptor):
    assert segment.descriptor == descriptor
    assert Segment.from_descriptor(descriptor) == segment


def test_a_long_mode_tss_holds_a_base_of_64_bits():
    tss = Segment.tss(base=0xFFFF_8123_4567_89AB, granularity=BYTE, limit_bytes=0x67)
    assert tss.to_bytes() == struct.pack("<2Q", 0x4500_8967_89AB_0067, 0xFFFF_8123)
    assert Segment.from_descriptor(tss.descriptor, tss.upper) == tss


@given(segments)
def test_a_segment_survives_its_descriptor_and_back(segment):
    assert Segment.from_descriptor(segment.descriptor, segment.upper) == segment


@given(segments, st.integers(0, 0xFFFF))
def test_a_segment_survives_a_register_and_back(segment, selector):
    register = segment.register(selector)
    assert register.selector == selector
    assert register.unusable is not segment.present
    assert Segment.from_register(register) == segment


@given(st.integers(0, 2**64 - 1))
def test_any_descriptor_is_read_back_to_the_bit_or_refused(number):
    try:
        segment = Segment.from_descriptor(number)
    except PlanError:
        assert not number >> 44 & 1 or number >> 53 & 3 == 3, "only system types and L with D are refused"
    else:
        assert segment.descriptor == number


def test_32_bit_system_segments_are_told_by_the_mode():
    tss = Segment.tss(bits=32, busy=True)
    assert Segment.from_register(tss.register(0x20), long_mode=False) == tss
    assert Segment.from_register(tss.register(0x20)) == Segment.tss(bits=64, busy=True)


@pytest.mark.parametrize(
    ("make", "why"),
    [
        (lambda: attrs.evolve(Segment.code(bits=64), db=True), "L and D are both set"),
        (lambda: Segment.code(bits=8), "no 8-bit code segment; use one of 64, 32, 16 bits"),
        (lambda: Segment.data(bits=64), "no 64-bit data segment; use one of 32, 16 bits"),
        (lambda: Segment.ldt(bits=16), "no 16-bit LDT segment"),
        (lambda: Segment.code(limit_bytes=0xFFFF_F000), "0xfffff000 is not the last byte of a 4 KiB page"),
        (
            lambda: Segment.code(limit_bytes=0x1_0000_0FFF),
            "0x100000fff is not the last byte of a 4 KiB page below 4",
        ),
        (lambda: Segment.code(limit_bytes=-1), "limit -0x1 is not the last"),
        (
            lambda: Segment.data(granularity=BYTE, limit_bytes=1 << 20),
            "does not fit in 20 bits; use granularity PAGE",
        ),
        (lambda: Segment.data(granularity=BYTE, limit_bytes=-1), "does not fit in 20 bits"),
        (lambda: Segment.data(base=1 << 32), "base 0x100000000 does not fit; only 16-byte descriptors"),
        (lambda: Segment.tss(bits=32, base=1 << 32), "base 0x100000000 does not fit"),
        (lambda: Segment.tss(base=1 << 64), "base 0x10000000000000000 does not fit"),
        (lambda: Segment.data(base=-1), "base -0x1 does not fit"),
        (lambda: Segment.code(privilege=4), "privilege level 4 does not exist"),
        (lambda: Segment.code(privilege=-1), "privilege level -1 does not exist"),
        (lambda: Segment(type=16, s=True), "type 16 does not fit in 4 bits"),
        (lambda: Segment(type=0xE, present=True), "system type 0xe is a gate"),
        (lambda: Segment(present=True), "system type 0x0 is a gate or reserved"),
        (lambda: attrs.evolve(Segment.data(), wide=True), "only system descriptors"),
        (lambda: attrs.evolve(Segment.tss(bits=16), wide=True), "system type 0x1 has no 16-byte descriptor"),
        (
            lambda: Segment.from_descriptor(0x0000_8900_0000_0067, 1 << 40),
            "reserved bits are set in its upper half",
        ),
        (
            lambda: Segment.from_register(SegmentRegister(base=1 << 40, s=True, type=3, present=True)),
            "does not fit",
        ),
    ],
)
def test_segments_that_cannot_be_are_refused_with_the_reason(make, why):
    with pytest.raises(PlanError, match=why):
        make()


@pytest.mark.parametrize(
    ("make", "what"),
    [
        (lambda: Segment.data(conforming=True), "conforming"),
        (lambda: Segment.code(writable=True), "writable"),
        (lambda: Segment.tss(readable=True), "readable"),
        (lambda: Segment.ldt(busy=True), "busy"),
        (lambda: Segment.code(privilige=3), "privilige"),
    ],
)
def test_segments_take_no_word_that_means_nothing_to_their_kind(make, what):
    with pytest.raises(PlanError, match=f"this kind of segment has no {what}; every kind has base, limit_bytes, "):
        make()


@pytest.mark.parametrize(
    ("segment", "words"),
    [
        (Segment.null(), "null"),
        (Segment.code(), "code64 accessed|readable|executable"),
        (Segment.code(bits=16, readable=False, accessed=False), "code16 executable"),
        (Segment.data(writable=False, accessed=False), "data32"),
        (
            Segment.data(bits=16, expand_down=True, present=False),
            "data16 accessed|writable|expand_down not present",
        ),
        (Segment.tss(), "tss64"),
        (Segment.tss(bits=32, busy=True), "tss32 busy"),
        (Segment.tss(bits=16), "tss16"),
        (Segment.ldt(present=False), "ldt64 not present"),
    ],
)
def test_a_segment_says_what_it_is(segment, words):
    assert segment.words == words
