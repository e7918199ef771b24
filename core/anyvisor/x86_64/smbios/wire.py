"""How the fields of an SMBIOS structure lie in memory: numbers, string numbers, UUIDs, counted lists.

Structures are attrs classes whose fields are declared with the functions in here, in the order of their bytes.
"""

from __future__ import annotations

import enum
import uuid as uuids
from collections.abc import Callable
from typing import Any

import attrs

from anyvisor.errors import PlanError

WIRE = "anyvisor smbios"
"""The key under which a field's metadata says how it lies in memory."""
NO_UUID = uuids.UUID(int=0)


class Handle(int):
    """A structure's number, by which others refer to it; two numbers mean that there is none to refer to."""

    def __str__(self) -> str:
        words = {0xFFFE: "not provided", 0xFFFF: "none"}
        return words.get(int(self), f"{int(self):#06x}")


class Hex(int):
    """A number that is read in base 16."""

    def __str__(self) -> str:
        return f"{int(self):#x}"


@attrs.frozen
class Wire:
    """Some bytes of a structure: how many (it may depend on fields before it), and both ways between them and a value.

    `is_text` marks a string's number, whose value is the string itself. `unit` follows the value in words.
    """

    size: Callable[[dict[str, Any]], int]
    pack: Callable[[Any], bytes]
    unpack: Callable[[bytes], Any]
    is_text: bool = False
    unit: str = ""

    def words(self, value: Any) -> str:
        """The value as `describe` shows it."""
        if value == NO_UUID:
            return "none"
        if isinstance(value, bytes):
            return value.hex(" ")
        if isinstance(value, enum.Enum):
            return value.name.lower().replace("_", " ")
        text = value.words() or "none" if hasattr(value, "words") else str(value)
        return f"{text} {self.unit}".rstrip()


def number(size_bytes: int, default: int = 0, kind: Callable[[int], int] = int, unit: str = "") -> Any:
    """A field: a little-endian number, read as `kind` (an enum, a Bits, a Handle); one no enum knows stays a number."""
    known = _or_int(kind)
    wire = Wire(
        size=lambda _: size_bytes,
        pack=lambda value: value.to_bytes(size_bytes, "little"),
        unpack=lambda raw: int.from_bytes(raw, "little"),
        unit=unit,
    )
    return attrs.field(default=default, converter=known, metadata={WIRE: wire})


def byte(default: int = 0, kind: Callable[[int], int] = int, unit: str = "") -> Any:
    """A field of one byte; see `number`."""
    return number(1, default, kind, unit)


def word(default: int = 0, kind: Callable[[int], int] = int, unit: str = "") -> Any:
    """A field of two bytes; see `number`."""
    return number(2, default, kind, unit)


def dword(default: int = 0, kind: Callable[[int], int] = int, unit: str = "") -> Any:
    """A field of four bytes; see `number`."""
    return number(4, default, kind, unit)


def qword(default: int = 0, kind: Callable[[int], int] = int, unit: str = "") -> Any:
    """A field of eight bytes; see `number`."""
    return number(8, default, kind, unit)


def text() -> Any:
    """A field whose byte is a string's number in the structure's string set; here it is the string, empty for none."""
    wire = Wire(lambda _: 1, lambda value: bytes([value]), lambda raw: raw[0], is_text=True)
    return attrs.field(default="", validator=_check_text, metadata={WIRE: wire})


def uuid() -> Any:
    """A field of 16 bytes: a UUID whose first three parts are little-endian, as SMBIOS 2.6 settled; all 0 is none."""
    wire = Wire(lambda _: 16, lambda value: value.bytes_le, lambda raw: uuids.UUID(bytes_le=raw))
    return attrs.field(default=NO_UUID, metadata={WIRE: wire})


def sized(size: Callable[[dict[str, Any]], int]) -> Any:
    """A field of bytes; how many, `size` works out from the fields before it."""
    wire = Wire(size, bytes, bytes)
    return attrs.field(default=b"", metadata={WIRE: wire})


def _check_text(_: object, attribute: attrs.Attribute[str], value: object) -> None:
    if not isinstance(value, str):
        raise PlanError(f"SMBIOS {attribute.name}: {value!r} is not text; give a string, empty for none")


def _or_int(kind: Callable[[int], int]) -> Callable[[int], int]:
    def convert(value: int) -> int:
        try:
            return kind(value)
        except ValueError:  # of an enum that does not know it
            return value

    return convert
