"""The byte that makes the others sum to 0."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from anyvisor.errors import PlanError
from anyvisor.x86_64.checksum import check_sum, with_checksum


def test_the_checksum_makes_good_for_whatever_was_in_its_place():
    assert with_checksum(b"\x01\x02\x03", 1) == b"\x01\xfc\x03"
    assert with_checksum(b"\x01\xfc\x03", 1) == b"\x01\xfc\x03"


@given(st.binary(min_size=1, max_size=40), st.data())
def test_only_the_right_byte_is_taken(data, draw):
    offset = draw.draw(st.integers(0, len(data) - 1))
    right = with_checksum(data, offset)
    check_sum("table", right, offset)
    if data != right:
        said = f"table: checksum at offset {offset:#x} is {data[offset]:#04x}, not {right[offset]:#04x}"
        with pytest.raises(PlanError, match=said):
            check_sum("table", data, offset)
