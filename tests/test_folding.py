"""Long descriptions are made short, and say the same."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from anyvisor.folding import fold, ranges


def lines(form, numbers):
    return "\n".join(form.format(number) for number in numbers)


def test_lines_that_count_on_become_one():
    text = "title\n" + lines("  processor {0}: enabled, pin {0}", range(254)) + "\nend"
    assert fold(text) == "title\n  processor 0-253: enabled, pin 0-253\nend"


def test_numbers_that_stay_the_same_stay_as_they_are():
    assert fold(lines("irq {0} -> pin 7 of 24", range(4))) == "irq 0-3 -> pin 7 of 24"


def test_numbers_with_holes_become_ranges():
    assert fold(lines("APIC id {0}", [0, 1, 2, 4, 5, 6])) == "APIC id 0-2, 4-6"
    assert fold(lines("APIC id {0}", range(0, 40, 2))) == "APIC id 0, 2, 4, 6, ... 38 (20 numbers)"


def test_hexadecimal_numbers_keep_their_step():
    assert fold(lines("at {0:#x}", range(0, 0x5000, 0x1000))) == "at 0x0, 0x1000 ... 0x4000"
    uneven = lines("at {0:#x}", [0, 0x1000, 0x3000])
    assert fold(uneven) == uneven


def test_names_that_count_in_hexadecimal_count_on():
    assert fold(lines("Device C{0:03X}: _UID {0}", range(300))) == "Device C000-C12B: _UID 0-299"


def test_a_name_does_not_go_on_as_one_of_another_letter():
    text = "Device A001\nDevice B002\nDevice C003"
    assert fold(text) == text


def test_paragraphs_are_folded_whole():
    text = "\n".join(f"CPU {number}:\n  EBX {number << 24:#010x}\n  same 5" for number in range(1, 6))
    assert fold(text) == "CPU 1-5:\n  EBX 0x01000000, 0x02000000 ... 0x05000000\n  same 5"


def test_paragraphs_that_differ_inside_stay_apart_and_are_folded_inside():
    inner = lines("  pin {0}", range(5))
    text = f"A:\n{inner}\n  end\nA:\n{inner}"
    assert fold(text) == "A:\n  pin 0-4\n  end\nA:\n  pin 0-4"


def test_two_lines_are_left_alone():
    assert fold("row 1\nrow 2") == "row 1\nrow 2"


def test_a_run_ends_where_a_number_begins_to_change():
    text = "cpu 0 node 0\ncpu 1 node 0\ncpu 2 node 0\ncpu 3 node 1\ncpu 4 node 1\ncpu 5 node 1"
    assert fold(text) == "cpu 0-2 node 0\ncpu 3-5 node 1"


def test_falling_and_repeated_numbers_are_not_folded():
    for numbers in ([3, 2, 1], [1, 2, 1, 2], [1, 1, 2, 2]):
        text = lines("row {0}", numbers)
        assert fold(text) == text


def test_the_same_line_again_and_again_is_said_once():
    assert fold("nothing\nnothing\nnothing") == "nothing"


def test_columns_of_other_widths_are_alike():
    assert fold("1   ten\n10  ten\n11  ten") == "1, 10-11   ten"


@pytest.mark.parametrize(
    ("numbers", "text"), [([], ""), ([7], "7"), ([1, 0, 2, 2], "0-2"), ([0, 2, 3, 9], "0, 2-3, 9")]
)
def test_ranges(numbers, text):
    assert ranges(numbers) == text


@given(
    st.lists(st.sampled_from(["a 1", "a 2", "a 3", "  b 0x10", "  b 0x20", "  b 0x30", "c", "    d 9"]), max_size=40)
)
def test_folding_loses_no_word_and_never_grows(rows):
    text = "\n".join(rows)
    short = fold(text)
    assert len(short.splitlines()) <= len(text.splitlines())
    assert set(re.findall(r"[a-d]", short)) == set(re.findall(r"[a-d]", text))
    assert fold(short) == short or len(fold(short)) <= len(short)


@given(st.lists(st.text(max_size=30), max_size=30))
def test_any_text_can_be_folded(rows):
    fold("\n".join(rows))
