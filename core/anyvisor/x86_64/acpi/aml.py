"""AML, the ACPI Machine Language: the byte code in which DSDT and SSDT name a machine's devices.

Some facts about AML (ACPI specification 6.5, chapter 20). A table's body is a list of terms. A term that holds others
says after its opcode how long it is, itself included: PkgLength, in one byte up to 63 and in two, three or four beyond.
Names are made of segments of exactly four letters, filled up with `_`; a path of two segments and one of more each
have a prefix of their own. An integer is written in the fewest bytes that hold it, without a byte for 0, 1 and Ones.

The classes have the names that ASL, the language one writes, has for them, and an `Aml` *is* the bytes it stands for:

>>> from anyvisor.x86_64.acpi.aml_resources import IO, IRQNoFlags, ResourceTemplate
>>> port = Device("COM1", Name("_HID", EisaId("PNP0501")), Name("_CRS", ResourceTemplate(IO(0x3F8, 8), IRQNoFlags(4))))
>>> Scope("\\\\_SB", port)[:12].hex(" ")
'10 2d 5c 5f 53 42 5f 5b 82 25 43 4f'
"""

from __future__ import annotations

import re
from typing import Self

from anyvisor.errors import PlanError

ZERO, ONE, ONES = b"\x00", b"\x01", b"\xff"
BYTE, WORD, DWORD, STRING, QWORD = 0x0A, 0x0B, 0x0C, 0x0D, 0x0E
DUAL_NAME, MULTI_NAME, NULL_NAME = b"\x2e", b"\x2f", b"\x00"
NAME, SCOPE, BUFFER, PACKAGE, DEVICE = b"\x08", b"\x10", b"\x11", b"\x12", b"\x5b\x82"

LONGEST_PACKAGE = (1 << 28) - 1
LONGEST_IN_ONE_BYTE = 0x3F

_SEGMENT = re.compile(r"[A-Z_][A-Z0-9_]{0,3}")
_EISA_ID = re.compile(r"[A-Z]{3}[0-9A-F]{4}")


class Aml(bytes):
    """A piece of AML: its bytes, which may stand wherever bytes may."""

    __slots__ = ()

    @classmethod
    def _of(cls, *parts: bytes) -> Self:
        return bytes.__new__(cls, b"".join(parts))

    def __repr__(self) -> str:
        return f"<{type(self).__name__}: {self.hex(' ')}>"


class Term(Aml):
    """What stands in a list of terms: an object with a name, or a statement of a method."""

    __slots__ = ()


class Data(Aml):
    """What a name may stand for, a package hold and a method return."""

    __slots__ = ()


Value = int | str | bytes | Data
"""Data, or what `data` makes it of: an int is an Integer, a str a String, other bytes are a Buffer."""


def data(value: Value) -> Data:
    """The value as AML; PlanError when it cannot be."""
    if isinstance(value, Data):
        return value
    if isinstance(value, int):
        return Integer(value)
    return String(value) if isinstance(value, str) else Buffer(value)


class Integer(Data):
    """An integer of at most 64 bits in its shortest encoding (20.2.3)."""

    __slots__ = ()

    def __new__(cls, value: int) -> Self:
        """PlanError when it is negative or too big."""
        if value in (0, 1):
            return cls._of(ONE if value else ZERO)
        for prefix, size in ((BYTE, 1), (WORD, 2), (DWORD, 4), (QWORD, 8)):
            if 0 <= value < 1 << 8 * size:
                return cls._of(ONES if value + 1 == 1 << 64 else bytes([prefix]) + value.to_bytes(size, "little"))
        raise PlanError(f"AML integer {value:#x}: it has at most 64 bits and no sign")


class String(Data):
    """Text of ASCII letters, closed by a zero byte (20.2.3)."""

    __slots__ = ()

    def __new__(cls, text: str) -> Self:
        """PlanError when there is a letter that is not ASCII, or a zero byte."""
        if not text.isascii() or "\0" in text:
            raise PlanError(f"AML string {text!r}: it has a letter that is not ASCII, or a zero byte; leave that out")
        return cls._of(bytes([STRING]), text.encode(), b"\0")


class EisaId(Data):
    """A hardware id of three letters and four hexadecimal digits, such as PNP0501, packed in 32 bits (19.6.37)."""

    __slots__ = ()

    def __new__(cls, text: str) -> Self:
        """PlanError when it is no such id."""
        if not is_eisa_id(text):
            raise PlanError(f"AML: {text!r} is no EISA id: that is three capital letters and four hexadecimal digits")
        letters = [ord(letter) - ord("@") for letter in text[:3]]
        packed = letters[0] << 26 | letters[1] << 21 | letters[2] << 16 | int(text[3:], 16)
        return cls._of(Integer(int.from_bytes(packed.to_bytes(4, "big"), "little")))


def is_eisa_id(text: str) -> bool:
    """Whether an `EisaId` can hold the hardware id; others, such as LNRO0005, are strings."""
    return _EISA_ID.fullmatch(text) is not None


class Path(Data):
    """A name or path of names, `COM1`, `\\_SB.COM1` or `^COM1`: where an object is, or a reference to it (20.2.2)."""

    __slots__ = ()

    def __new__(cls, path: str) -> Self:
        r"""PlanError for what is no path: segments of one to four of A-Z, 0-9 and _, after \ or any number of ^."""
        rest = path[1:] if path.startswith("\\") else path.lstrip("^")
        prefix = path[: len(path) - len(rest)]
        segments = rest.split(".") if rest else []
        for each in segments:
            if not _SEGMENT.fullmatch(each):
                raise PlanError(
                    f"AML name {path!r}: {each!r} is not one to four of A-Z, 0-9 and _, with no digit first"
                )
        if len(segments) > 0xFF or not path:
            raise PlanError(f"AML name {path!r}: it has {len(segments)} parts; 1 to 255 are possible")
        return cls._of(
            prefix.encode(), _count_prefix(len(segments)), *(each.ljust(4, "_").encode() for each in segments)
        )


def _count_prefix(segments: int) -> bytes:
    """What comes before so many segments."""
    few = {0: NULL_NAME, 1: b"", 2: DUAL_NAME}
    return few[segments] if segments in few else MULTI_NAME + bytes([segments])


class Buffer(Data):
    """Bytes, as many as there are (20.2.5.4, DefBuffer)."""

    __slots__ = ()

    def __new__(cls, content: bytes) -> Self:
        """PlanError when they are more than a package can hold."""
        return cls._of(BUFFER, packed(Integer(len(content)), content))


class Package(Data):
    """A list of at most 255 values (20.2.5.4, DefPackage)."""

    __slots__ = ()

    def __new__(cls, *values: Value) -> Self:
        """PlanError when they are too many, or one cannot be encoded."""
        if len(values) > 0xFF:
            raise PlanError(f"AML package of {len(values)} values: it holds at most 255; split it")
        return cls._of(PACKAGE, packed(bytes([len(values)]), *map(data, values)))


class Name(Term):
    """Gives a value a name (20.2.5.1, DefName)."""

    __slots__ = ()

    def __new__(cls, path: str, value: Value) -> Self:
        """PlanError when the path is none, or the value cannot be encoded."""
        return cls._of(NAME, Path(path), data(value))


class Scope(Term):
    """Terms that live below an object that exists already (20.2.5.1, DefScope)."""

    __slots__ = ()

    def __new__(cls, path: str, *terms: Term) -> Self:
        """PlanError when the path is none, or there is too much in it."""
        return cls._of(SCOPE, packed(Path(path), *terms))


class Device(Term):
    """A device, and the objects that tell of it (20.2.5.2, DefDevice)."""

    __slots__ = ()

    def __new__(cls, path: str, *terms: Term) -> Self:
        """PlanError when the path is none, or there is too much in it."""
        return cls._of(DEVICE, packed(Path(path), *terms))


def packed(*parts: bytes) -> bytes:
    """The parts after their PkgLength (20.2.4); PlanError when they are longer than it can say, 256 MiB."""
    content = b"".join(parts)
    for extra in range(4):
        length = len(content) + 1 + extra
        if length <= LONGEST_IN_ONE_BYTE and not extra:
            return bytes([length]) + content
        if extra and length < 1 << 4 + 8 * extra:
            return bytes([extra << 6 | length & 0xF]) + (length >> 4).to_bytes(extra, "little") + content
    raise PlanError(f"AML object of {len(content)} bytes: at most {LONGEST_PACKAGE} can be said; split it")
