"""Decoded values as JSON: everything in them, by name."""

import enum
import json

import attrs

from anyvisor.bits import Bits, bit
from anyvisor.section import Section, plain


class Colour(enum.IntEnum):
    RED = 1


class Flags(Bits):
    on = bit(0)
    off = bit(1)


@attrs.frozen
class Inner:
    data: bytes


@attrs.frozen
class Outer:
    number: int
    flags: Flags
    colour: Colour
    parts: tuple[Inner, ...]
    names: dict
    nothing: None = None


def test_every_field_is_there_by_name():
    value = Outer(7, Flags(on=True), Colour.RED, (Inner(b"\x01\xff"),), {3: "x"})
    assert plain(value) == {
        "is": "Outer",
        "number": 7,
        "flags": {"number": 1, "set": "on"},
        "colour": "RED",
        "parts": [{"is": "Inner", "data": "01ff"}],
        "names": {"3": "x"},
        "nothing": None,
    }


def test_numbers_of_other_classes_are_numbers():
    class Handle(int):
        def __str__(self):
            return "handle"

    assert json.dumps(plain(Handle(5))) == "5"


def test_a_section_is_its_title_its_lines_and_its_value():
    section = Section("Title", "row 0\nrow 1\nrow 2", Inner(b""))
    assert section.to_data() == {
        "title": "Title",
        "text": ["row 0", "row 1", "row 2"],
        "value": {"is": "Inner", "data": ""},
    }
    assert section.short == "row 0-2"


def test_what_a_terminal_would_obey_and_what_cannot_be_encoded_is_escaped():
    section = Section("T", "bell \x07, escape \x1b[2J, turned \u202e, half \udc80, tab \t\nnext line ü", ["\udc80\x1b"])
    assert section.text == "bell \\x07, escape \\x1b[2J, turned \\u202e, half \\udc80, tab \\t\nnext line ü"
    json.dumps(section.to_data(), ensure_ascii=False).encode("utf-8")
