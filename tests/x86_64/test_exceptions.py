"""Exceptions in words: Intel SDM Vol. 3, table 6-1 and 6.15."""

import pytest

from anyvisor.exits import GuestException
from anyvisor.x86_64.exceptions import KINDS, describe_error_code, describe_exception, exception_kind

WITH_CODE = {8, 10, 11, 12, 13, 14, 17, 21, 29, 30}
MNEMONICS = "DE DB - BP OF BR UD NM DF - TS NP SS GP PF . MF AC MC XM VE CP"


def test_vectors_have_the_manuals_mnemonics():
    known = [KINDS[vector].mnemonic.removeprefix("#") or "-" if vector in KINDS else "." for vector in range(22)]
    assert " ".join(known) == MNEMONICS


def test_these_have_error_codes_and_no_others():
    assert {vector for vector, kind in KINDS.items() if kind.has_error_code} == WITH_CODE


@pytest.mark.parametrize(
    ("code", "words"),
    [
        (0x0, "read by the supervisor at 0x5000: not mapped"),
        (0x2, "write by the supervisor to 0x5000: not mapped"),
        (0x7, "write by user code to 0x5000: mapped, but not for this"),
        (0x5, "read by user code at 0x5000: mapped, but not for this"),
        (0x11, "instruction fetch by the supervisor at 0x5000: mapped, but not for this"),
        (0x9, "read by the supervisor at 0x5000: a reserved bit is set in a paging entry"),
        (0x21, "read by the supervisor at 0x5000: mapped, but not for this (protection_key)"),
    ],
)
def test_a_page_fault_says_what_the_access_was_and_what_was_wrong(code, words):
    assert describe_error_code(14, code, 0x5000) == words


@pytest.mark.parametrize(
    ("code", "words"),
    [
        (0x33, "IDT entry 6, met while an event was delivered"),
        (0x32, "IDT entry 6"),
        (0x10, "GDT selector 0x10"),
        (0x14, "LDT selector 0x10"),
        (0x1, "no selector, met while an event was delivered"),
        (0x0, ""),
    ],
)
@pytest.mark.parametrize("vector", [10, 11, 12, 13])
def test_an_error_code_with_a_selector_names_table_and_entry(vector, code, words):
    assert describe_error_code(vector, code) == words


def test_an_exception_is_told_in_one_line():
    page_fault = GuestException(14, 2, 0x5000, 0x1000)
    assert describe_exception(page_fault) == (
        "#PF (page fault) at RIP 0x1000, error code 0x2: write by the supervisor to 0x5000: not mapped"
    )
    assert describe_exception(GuestException(6, rip=0)) == "#UD (invalid opcode) at RIP 0x0"
    assert describe_exception(GuestException(13, 0, reason="why")) == "#GP (general protection), error code 0x0: why"
    assert describe_exception(GuestException(11, 0x10, reason="why")).endswith(
        "error code 0x10: GDT selector 0x10; why"
    )


def test_a_vector_that_is_no_exception_is_told_by_its_number():
    assert str(exception_kind(0x20)) == "vector 32"
    assert describe_exception(GuestException(15)) == "vector 15"


@pytest.mark.parametrize("vector", range(256))
def test_any_error_code_can_be_told(vector):
    for code in (0, 1, 0xFFFF, 0x80000000, 0xFFFFFFFF):
        assert describe_exception(GuestException(vector, code, 0))
