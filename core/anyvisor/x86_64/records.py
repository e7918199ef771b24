"""Values with a fixed shape in memory: every field says how wide it is there, and their order is the order there.

>>> @attrs.frozen
... class Pair:
...     first: int = attrs.field(metadata=U8)
...     second: int = attrs.field(metadata=U16)
>>> pack(Pair(1, 2)).hex()
'010200'
>>> Pair(**unpack(Pair, bytes.fromhex("010200")))
Pair(first=1, second=2)
>>> offsets(Pair)
{'first': 0, 'second': 1}
"""

from __future__ import annotations

import functools
import re
import struct
from collections.abc import Callable, Sequence
from operator import attrgetter
from typing import Any, NamedTuple

import attrs

U8, U16, U32, U64 = ({"shape": each} for each in "BHIQ")
"""What a field's `metadata` says: an unsigned little-endian number of that many bits."""


_PADDING = re.compile(r"^(?:\d*x)*")
"""Places before a field that belong to none."""


def raw(size_bytes: int) -> dict[str, str]:
    """A field that is bytes, zeros at first: what is reserved, and yet must come out as it went in."""
    return {"shape": f"{size_bytes}s"}


class Shape(NamedTuple):
    """How a class lies in memory: its fields' places, their names, and which of them are values with a shape too."""

    struct: struct.Struct
    names: tuple[str, ...]
    nested: tuple[int, ...] = ()

    def values(self, record: object) -> Sequence[Any]:
        """What stands in each place."""
        found: Sequence[Any] = _getter(self.names)(record)
        if not self.nested:
            return found
        return [each.to_bytes() if index in self.nested else each for index, each in enumerate(found)]


@functools.cache
def _getter(names: tuple[str, ...]) -> Callable[[object], Sequence[Any]]:
    """What gives the values of those fields, as a sequence even for one of them."""
    get = attrgetter(*names)
    return get if len(names) > 1 else lambda record: (get(record),)


@functools.cache
def shape_of(kind: Any, prefix: str = "") -> Shape:
    """The shape of an attrs class, behind places of its caller's (`prefix`, in the words of `struct`)."""
    fields = [each for each in attrs.fields(kind) if "shape" in each.metadata]
    places = "".join(each.metadata["shape"] for each in fields)
    nested = tuple(index for index, each in enumerate(fields) if each.metadata.get("nested"))
    return Shape(struct.Struct(f"<{prefix}{places}"), tuple(each.name for each in fields), nested)


def offsets(kind: Any) -> dict[str, int]:
    """At which offset each field of a `kind` lies, by name."""
    found, before = {}, "<"
    for each in attrs.fields(kind):
        if shape := each.metadata.get("shape"):
            found[each.name] = struct.calcsize(before + _PADDING.findall(shape)[0])
            before += shape
    return found


def pack(record: object) -> bytes:
    """The bytes of a value; struct.error when a number is too big for its place."""
    kind: Any = type(record)
    shape = shape_of(kind)
    return shape.struct.pack(*shape.values(record))


def unpack(kind: Any, data: bytes) -> dict[str, Any]:
    """The fields of a `kind` at the start of `data`, by name; struct.error when it ends before they do."""
    shape = shape_of(kind)
    return dict(zip(shape.names, shape.struct.unpack_from(data), strict=True))
