"""SMBIOS structures: a header of four bytes, the formatted area, and the strings that it names by number.

Some facts about structures (DSP0134, 6.1). The header has the type, the length of the formatted area (itself included)
and a handle. Text does not stand in the formatted area, only the number of a string, from 1; 0 is no string. The
strings follow it, each closed by a NUL, and one more NUL closes the set; a set of none is two NULs. The length tells
how new a structure is: fields were only ever added at the end, so an older one is shorter, and a newer one than we
know has a tail.
"""

from __future__ import annotations

import struct
from typing import Any, ClassVar, Self

import attrs

from anyvisor.errors import PlanError
from anyvisor.x86_64.smbios.wire import WIRE, Handle, Wire

HEADER = struct.Struct("<BBH")
"""Type, length of the formatted area, handle."""


@attrs.frozen
class RawStructure:
    """A structure of any type: the bytes of its formatted area behind the header, and its strings in their order.

    What no class here knows is kept in this form; it has the same bytes again.
    """

    type: int
    handle: int
    body: bytes = b""
    strings: tuple[str, ...] = ()

    def __attrs_post_init__(self) -> None:
        if not (0 <= self.type < 256 and 0 <= self.handle < 1 << 16 and len(self.body) <= 255 - HEADER.size):
            words = f"type {self.type}, handle {int(self.handle)}, {len(self.body)} bytes"
            raise PlanError(f"SMBIOS structure of {words}: these go to 255, 65535 and {255 - HEADER.size}")
        try:
            ending = self._string_set()
        except UnicodeEncodeError as error:
            raise PlanError(
                f"SMBIOS type {self.type}: {error.object!r} cannot be written as UTF-8; reword it"
            ) from error
        if any("\0" in each for each in self.strings) or ending.find(b"\0\0") != len(ending) - 2:
            raise PlanError(
                f"SMBIOS type {self.type}: its strings {self.strings!r} have a NUL or an empty one; omit it"
            )

    def _string_set(self) -> bytes:
        joined = b"".join(each.encode("utf-8", "surrogateescape") + b"\0" for each in self.strings)
        return (joined or b"\0") + b"\0"

    @property
    def size_bytes(self) -> int:
        """How long the structure is, strings included."""
        return HEADER.size + len(self.body) + len(self._string_set())

    def to_bytes(self) -> bytes:
        """The structure as it lies in memory, strings included."""
        return HEADER.pack(self.type, HEADER.size + len(self.body), self.handle) + self.body + self._string_set()

    @classmethod
    def decode(cls, data: bytes, offset: int = 0) -> Self:
        """The structure at `offset` of a structure table; PlanError says at which offset it is broken."""
        if len(data) < offset + HEADER.size:
            raise PlanError(f"SMBIOS structure at offset {offset:#x}: the table ends at {len(data):#x}, in its header")
        kind, length, handle = HEADER.unpack_from(data, offset)
        if length < HEADER.size:
            raise PlanError(f"SMBIOS structure at offset {offset:#x}: its length {length} is less than its header's 4")
        strings_at = offset + length
        end = data.find(b"\0\0", strings_at)
        if end < 0:
            raise PlanError(f"SMBIOS type {kind} at offset {offset:#x}: its strings have no end in the table")
        found = bytes(data[strings_at:end])
        texts = tuple(each.decode("utf-8", "surrogateescape") for each in found.split(b"\0")) if found else ()
        return cls(kind, handle, bytes(data[offset + HEADER.size : strings_at]), texts)

    def text(self, number: int) -> str:
        """String number `number`, counted from 1; empty when there is none."""
        return self.strings[number - 1] if 0 < number <= len(self.strings) else ""

    def describe(self) -> str:
        """The structure as text: what its bytes are, and its strings."""
        lines = [f"handle {self.handle:#06x}, type {self.type}: {self.body.hex(' ') or 'nothing in it'}"]
        return "\n".join([*lines, *(f"  string {at}: {each}" for at, each in enumerate(self.strings, 1))])


@attrs.frozen
class StringSet:
    """The strings of a structure in their order, and which number each of its text fields has."""

    strings: tuple[str, ...]
    numbers: tuple[int, ...]

    @classmethod
    def of(cls, texts: list[str]) -> StringSet:
        """The set that has each text once, numbered as they come; an empty text is number 0."""
        strings = tuple(dict.fromkeys(filter(None, texts)))
        places = {each: at for at, each in enumerate(strings, 1)}
        return cls(strings, tuple(places.get(each, 0) for each in texts))

    def says(self, texts: list[str]) -> bool:
        """Whether the fields with those texts can have these numbers."""
        raw = RawStructure(0, 0, strings=self.strings)
        return [raw.text(number) for number in self.numbers] == texts


@attrs.frozen(kw_only=True)
class Structure:
    """What all structures have: a `TYPE`, a `NAME`, a handle, and fields declared in the order of their bytes.

    `formatted_bytes` is the length of a structure that an older version of the specification made shorter, `tail` what
    a newer one has behind the fields known here. `string_set` are the strings of a structure that was read and would
    number them in another way. All three are there so that it gets the same bytes again.
    """

    TYPE: ClassVar[int]
    NAME: ClassVar[str]

    handle: int = attrs.field(default=0, converter=Handle)
    formatted_bytes: int | None = None
    tail: bytes = b""
    string_set: StringSet | None = None

    def __attrs_post_init__(self) -> None:
        fields = {name: getattr(self, name) for name, _ in _wires(type(self))}
        for name, wire in _wires(type(self)):
            value = fields[name]
            try:
                size_bytes = 1 if wire.is_text else len(wire.pack(value))
            except (OverflowError, TypeError, AttributeError) as error:
                raise PlanError(f"SMBIOS {self.NAME}: {name}={value!r} does not fit in its field: {error}") from error
            if size_bytes != wire.size(fields):
                raise PlanError(f"SMBIOS {self.NAME}: {name} has {size_bytes} bytes, its count {wire.size(fields)}")
        self.to_raw()

    def to_raw(self) -> RawStructure:
        """The structure in the form that any type has."""
        texts = [getattr(self, name) for name, wire in _wires(type(self)) if wire.is_text]
        known = self.string_set
        strings = known if known and known.says(texts) else StringSet.of(texts)
        numbers = iter(strings.numbers)
        body = b"".join(
            wire.pack(next(numbers) if wire.is_text else getattr(self, name)) for name, wire in _wires(type(self))
        )
        length = HEADER.size + len(body) if self.formatted_bytes is None else self.formatted_bytes
        return RawStructure(self.TYPE, self.handle, body[: length - HEADER.size] + self.tail, strings.strings)

    def to_bytes(self) -> bytes:
        """The structure as it lies in memory, strings included."""
        return self.to_raw().to_bytes()

    @classmethod
    def from_raw(cls, raw: RawStructure) -> Self:
        """The structure of this type in `raw`; what an older, shorter one does not have reads as 0."""
        found: dict[str, Any] = {}
        numbers: list[int] = []
        offset = 0
        for name, wire in _wires(cls):
            size_bytes = wire.size(found)
            value = wire.unpack(raw.body[offset : offset + size_bytes].ljust(size_bytes, b"\0"))
            offset += size_bytes
            if wire.is_text:
                numbers.append(value)
            found[name] = raw.text(value) if wire.is_text else value
        strings = StringSet(raw.strings, tuple(numbers))
        as_made = StringSet.of([raw.text(number) for number in numbers])
        return cls(
            handle=raw.handle,
            formatted_bytes=HEADER.size + len(raw.body) if len(raw.body) < offset else None,
            tail=raw.body[offset:],
            string_set=None if strings == as_made else strings,
            **found,
        )

    @classmethod
    def decode(cls, data: bytes, offset: int = 0) -> Self:
        """The structure of this type at `offset`; PlanError when it is broken or of another type."""
        raw = RawStructure.decode(data, offset)
        if raw.type != cls.TYPE:
            raise PlanError(f"SMBIOS structure at offset {offset:#x} has type {raw.type}; a {cls.NAME} is {cls.TYPE}")
        return cls.from_raw(raw)

    def summary(self) -> str:
        """What it is about, in a few words; empty when its fields say it all."""
        return ""

    def describe(self) -> str:
        """The structure as text: a title, then a line for every field that says something."""
        title = f"handle {self.handle}, type {self.TYPE}, {self.NAME}"
        summary = self.summary()
        lines = [
            f"  {name.replace('_', ' ')}: {wire.words(getattr(self, name))}"
            for name, wire in _wires(type(self))
            if getattr(self, name) or isinstance(getattr(self, name), Handle)
        ]
        tail = [f"  and {len(self.tail)} bytes of a newer version: {self.tail.hex(' ')}"] if self.tail else []
        return "\n".join([f"{title}: {summary}" if summary else title, *lines, *tail])


def _wires(cls: type[Structure]) -> tuple[tuple[str, Wire], ...]:
    """The declared fields of a class, in the order of their bytes."""
    return tuple((field.name, field.metadata[WIRE]) for field in attrs.fields(cls) if WIRE in field.metadata)
