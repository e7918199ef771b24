"""Values as rows of text, and what two sets of rows do not have in common.

A row has a name and says one thing (`"cs.limit": "0xffffffff"`) or several by name (`"0x10": {"kind": "code64",
"limit": "0xfffff"}`). Any frozen value can be made into rows; tables in guest memory are by their architecture.
"""

from __future__ import annotations

import collections
import zlib
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, TypeAlias

import attrs

from anyvisor.bits import Bits
from anyvisor.memory import Region

Row: TypeAlias = str | Mapping[str, str]

LONGEST = 16
"""Bytes of more than that are told by their number and checksum."""


@attrs.frozen
class RowChange:
    """A row, or one thing that a row says, with both texts; None where there is none."""

    name: str
    before: str | None
    after: str | None

    def __str__(self) -> str:
        if self.before is None or self.after is None:
            sign, text = ("+", self.after) if self.before is None else ("-", self.before)
            return f"{sign} {self.name} {text}".rstrip()
        return f"{self.name} {self.before} -> {self.after}"


def row_changes(before: Mapping[str, Row], after: Mapping[str, Row]) -> list[RowChange]:
    """What `after` has differently, in the order of `before`, what is new last."""
    changes: list[RowChange] = []
    for name in [*before, *(each for each in after if each not in before)]:
        old, new = before.get(name), after.get(name)
        if old == new:
            continue
        if isinstance(old, Mapping) and isinstance(new, Mapping):
            changes += [attrs.evolve(each, name=f"{name} {each.name}".rstrip()) for each in row_changes(old, new)]
        else:
            changes.append(RowChange(name, _whole(old), _whole(new)))
    return changes


def _whole(row: Row | None) -> str | None:
    if isinstance(row, Mapping):
        return ", ".join(f"{name} {text}".strip() for name, text in row.items())
    return row


def numbered(names: Iterable[str]) -> Iterator[str]:
    """The names, the second of one name as `name #2`."""
    seen: collections.Counter[str] = collections.Counter()
    for name in names:
        seen[name] += 1
        yield name if seen[name] == 1 else f"{name} #{seen[name]}"


def rows_of(value: Any) -> dict[str, Row]:
    """The fields of a value as rows, those of its parts as `part.field`."""
    fields = ((each.name, getattr(value, each.name)) for each in attrs.fields(type(value)))
    return rows_of_fields(dict(fields))


def rows_of_fields(fields: Mapping[str, Any]) -> dict[str, Row]:
    """Named values as rows."""
    rows: dict[str, Row] = {}
    for name, value in fields.items():
        if isinstance(value, Mapping):
            rows |= {f"{name}.{each}": row for each, row in rows_of_fields(value).items()}
        elif _has_parts(value):
            rows |= {f"{name}.{each}": row for each, row in rows_of(value).items()}
        elif isinstance(value, tuple) and any(map(_has_parts, value)):
            rows |= rows_of_fields({f"{name}[{index}]": each for index, each in enumerate(value)})
        else:
            rows[name] = word(value)
    return rows


def _has_parts(value: Any) -> bool:
    return attrs.has(type(value)) and not isinstance(value, Region)


def word(value: Any) -> str:
    """One value as text: numbers in hexadecimal, bit-fields with the names of what is set, flags as yes and no."""
    if isinstance(value, Bits):
        return f"{int(value):#x} {value.words()}".rstrip()
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{int(value):#x}"
    if isinstance(value, bytes):
        return value.hex() if len(value) <= LONGEST else f"{len(value)} bytes of CRC-32 {zlib.crc32(value):#010x}"
    if isinstance(value, tuple):
        return f"({', '.join(map(word, value))})"
    return "none" if value is None else str(value)
