"""Values as rows of text."""

from anyvisor.difference.rows import numbered, row_changes, rows_of, word
from anyvisor.memory import Region
from anyvisor.plan import DeviceSpec
from anyvisor.x86_64.control import Cr0

SERIAL = DeviceSpec("serial", "serial0", ports=(Region(0x3F8, 8),), gsi=4, settings={"console": "serial0"})


def test_rows_are_compared_by_name():
    before = {"a": "1", "b": {"x": "1", "y": "2"}, "gone": {"": "kind", "z": "9"}}
    after = {"b": {"x": "1", "y": "3"}, "a": "1", "new": "text"}
    assert [str(change) for change in row_changes(before, after)] == ["b y 2 -> 3", "- gone kind, z 9", "+ new text"]


def test_words_are_those_of_the_field():
    assert [word(each) for each in (True, 16, Cr0(1), b"\1\2", (1, "a"), None, 1.5)] == [
        "yes", "0x10", "0x1 pe", "0102", "(0x1, a)", "none", "1.5",
    ]  # fmt: skip
    assert rows_of(SERIAL)["settings.console"] == "serial0"
    assert rows_of(SERIAL)["ports"] == "(0x3f8-0x3ff)"
    assert list(numbered(["a", "b", "a", "a"])) == ["a", "b", "a #2", "a #3"]
