"""Values whose fields each have a place in memory."""

import struct

import attrs
import pytest

from anyvisor.x86_64.records import U8, U16, U32, U64, offsets, pack, raw, unpack


@attrs.frozen
class Sample:
    small: int = attrs.field(default=1, metadata=U8)
    note: str = "in no place"
    padded: int = attrs.field(default=2, metadata={"shape": "3xH2x"})
    text: bytes = attrs.field(default=b"abc", metadata=raw(3))
    wide: int = attrs.field(default=3, metadata=U64)


def test_fields_lie_one_behind_the_other_little_endian_and_padding_is_nobodys():
    data = pack(Sample())
    assert data == b"\x01" + bytes(3) + b"\x02\x00" + bytes(2) + b"abc" + b"\x03" + bytes(7)
    assert offsets(Sample) == {"small": 0, "padded": 4, "text": 8, "wide": 11}
    assert Sample(**unpack(Sample, data + b"more")) == Sample()


def test_widths_are_what_their_names_say():
    assert [struct.calcsize(f"<{each['shape']}") for each in (U8, U16, U32, U64, raw(24))] == [1, 2, 4, 8, 24]


def test_what_does_not_fit_or_is_cut_short_is_an_error():
    with pytest.raises(struct.error):
        pack(Sample(small=256))
    with pytest.raises(struct.error):
        unpack(Sample, bytes(18))
