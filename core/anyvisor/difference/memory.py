"""What two boot plans have differently in memory, piece by piece, decoded where the architecture can."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import attrs

from anyvisor.difference.change import PlanChange, Table, decoder, paired
from anyvisor.difference.rows import numbered, row_changes
from anyvisor.pieces import Blob, FileSlice

if TYPE_CHECKING:
    from anyvisor.plan import BootPlan

Tables = dict[str, Table]


def blob_changes(before: BootPlan, after: BootPlan, part: str, *, credit: bool) -> Iterator[PlanChange]:
    """The changes of each piece; `credit` to tell of pieces that only another plugin made."""
    pairs = [pair for pair in paired(before.blobs, after.blobs, lambda blob: blob.name) if pair[1] != pair[2]]
    tables = _tables(before, after) if pairs else ({}, {})
    for name, old, new in pairs:
        if old is None or new is None:
            yield PlanChange(part, name, *_one_sided(old, new))
            continue
        details = tuple(_decoded(old, new, *tables)) if old.content != new.content else ()
        changes = [PlanChange(part, name, *texts) for texts in _blob(old, new)]
        yield from changes[:-1]
        yield from (attrs.evolve(change, details=details) for change in changes[-1:])
        if not changes and credit:
            yield PlanChange(part, name, "provided by", old.provided_by or "nobody", new.provided_by or "nobody")


def _one_sided(old: Blob | None, new: Blob | None) -> tuple[str]:
    blob = old or new
    assert blob is not None
    start, end = blob.guest_address, blob.guest_address + max(blob.size_bytes, 1) - 1
    by = f" by {new.provided_by}" if new and new.provided_by else ""
    return (f"{'added' if new else 'removed'}{by}: {blob.size_bytes} bytes at {start:#x}-{end:#x}",)


def _blob(old: Blob, new: Blob) -> Iterator[tuple[str, str, str]]:
    """What is different about a piece: words, and the two values."""
    if old.guest_address != new.guest_address:
        yield "moved", f"{old.guest_address:#x}", f"{new.guest_address:#x}"
    if old.size_bytes != new.size_bytes:
        yield "resized", f"{old.size_bytes}", f"{new.size_bytes} bytes"
    if old.content == new.content:
        return
    if isinstance(old.content, bytes) and isinstance(new.content, bytes):
        yield _bytes(old.content, new.content), "", ""
    else:
        yield "content", _source(old.content), _source(new.content)


def _bytes(old: bytes, new: bytes) -> str:
    shared = min(len(old), len(new))
    different = [offset for offset in range(shared) if old[offset] != new[offset]]
    first = different[0] if different else shared
    count = len(different) + max(len(old), len(new)) - shared
    return f"{count} byte{'' if count == 1 else 's'} changed, the first at offset {first:#x}"


def _source(content: bytes | FileSlice) -> str:
    if isinstance(content, bytes):
        return f"{len(content)} bytes"
    return f"{content.size_bytes} bytes at offset {content.offset:#x} of {content.path}"


def _tables(before: BootPlan, after: BootPlan) -> tuple[Tables, Tables]:
    decode = decoder(before, after, "tables")
    if decode is None:
        return {}, {}
    found = [list(decode(plan)) for plan in (before, after)]
    first, second = (dict(zip(numbered(each.title for each in tables), tables, strict=True)) for tables in found)
    return first, second


def _decoded(old: Blob, new: Blob, before: Tables, after: Tables) -> Iterator[str]:
    """The differences of the tables that lie in a piece: entries that one alone has first, then those that differ."""
    for title, table in after.items():
        other = before.get(title)
        if other is None or not (table.lies_in(new.region) and other.lies_in(old.region)):
            continue
        changes = row_changes(other.rows, table.rows)
        yield from map(str, sorted(changes, key=lambda change: None not in (change.before, change.after)))
        if not changes:
            yield f"{title}: the same entries"
