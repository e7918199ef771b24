"""The cause that is a call without end: the stack is full of one return address, down to where it ends.

Some facts about full stacks. A function that calls itself pushes the same return address each time, and what else its
frame holds is as big each time, so the address is found again at equal distances. Where such a row ends just where
nothing is mapped any more, the next push has failed. The registers are not needed to see it, but for where the stack
began: a processor that is reset by its death still leaves the stack in memory.
"""

from __future__ import annotations

import collections
import itertools
import struct
from collections.abc import Iterator

import attrs

from anyvisor.diagnosis.report import Cause
from anyvisor.memory import KIB, PAGE_BYTES
from anyvisor.x86_64.diagnosis.code_reached import calls_before
from anyvisor.x86_64.diagnosis.scene import Scene
from anyvisor.x86_64.diagnosis.sights import sight_of
from anyvisor.x86_64.page_walk import Walk
from anyvisor.x86_64.paging_modes import paging_of

TURNS = 32
"""As many calls in a row are no accident."""
READ_BYTES = 64 * KIB
MOST_PAGES = 1024
"""How far down from where a stack began its end is looked for, in pages of any size."""
CANDIDATES = 4
ENDLESS = 93


@attrs.frozen
class Row:
    """A return address that is found at equal distances: itself, the distance, and how often."""

    address: int
    distance_bytes: int
    count: int


def recursion(scene: Scene) -> Iterator[Cause]:
    """The guest has called itself until its stack had no room."""
    end = _end_of_stack(scene) if scene.has_died and scene.bits > 16 else None
    row = None if end is None else _row(scene, end)
    if row is None or end is None or not _is_out_of_stack(scene, end, row):
        return
    call, apart = scene.place(_call_before(scene, row.address) or 0), f"{row.distance_bytes} bytes apart"
    yield Cause(
        name="endless-recursion",
        summary=f"the guest called itself until its stack was full: the call at {call} was made over and over",
        because=(
            f"the last {row.count} return addresses on the stack are {row.address:#x}, {apart}",
            f"the stack ends at {end:#x}: {_below(scene, end).problem}",
        ),
        remedy="find out why it does not stop: what is there to end it is wrong, or the handler of an exception raises "
        "it again",
        section="SDM Vol. 1, 6.2",
        weight=ENDLESS,
    )


def _end_of_stack(scene: Scene) -> int | None:
    """The lowest address of the stack that is mapped, where it is known to have come to that."""
    if scene.rsp is None or scene.sregs is None or paging_of(scene.sregs) is None:
        return None
    page = scene.rsp & -PAGE_BYTES
    if not scene.evidence.is_lost:
        pages = (page, _around(scene, page + PAGE_BYTES))
        return next(
            (each for each in pages if _is_mapped(scene.walk(each)) and not _is_mapped(_below(scene, each))), None
        )
    for _ in range(MOST_PAGES):
        below = _below(scene, page)
        if not _is_mapped(below):
            return page
        page = below.address & -below.page_bytes
    return None


def _around(scene: Scene, address: int) -> int:
    """The address, where one behind the last begins again at 0."""
    return address & (1 << scene.bits) - 1


def _below(scene: Scene, address: int) -> Walk:
    """Where the byte below an address leads."""
    return scene.walk(_around(scene, address - 1))


def _is_mapped(walk: Walk) -> bool:
    return walk.guest_address is not None


def _is_out_of_stack(scene: Scene, end: int, row: Row) -> bool:
    """Whether what the guest died of may be that: a row of old calls lies below a stack that has room again, too."""
    sight = sight_of(scene)
    if sight and not sight.fault.stack:
        address, reach = sight.fault.address, PAGE_BYTES + row.distance_bytes
        return address is not None and 0 < _around(scene, end - address) <= reach
    room = _around(scene, (scene.rsp or 0) + PAGE_BYTES - end) - PAGE_BYTES  # negative where the call was to be
    return scene.evidence.is_lost or room < row.distance_bytes


def _row(scene: Scene, end: int) -> Row | None:
    """The row of a return address that begins at the end of the stack."""
    size_bytes = scene.bits // 8
    data = scene.read(end, READ_BYTES)
    words = struct.unpack_from(f"<{len(data) // size_bytes}{'Q' if size_bytes == 8 else 'I'}", data)
    for word, count in collections.Counter(words).most_common(CANDIDATES):
        if word and count >= TURNS and (row := _equally_apart(words, word, size_bytes)) and _call_before(scene, word):
            return row
    return None


def _equally_apart(words: tuple[int, ...], word: int, size_bytes: int) -> Row | None:
    """How often a word is there at equal distances, from the first on; None for one that is too seldom or too late."""
    places = [at for at, each in enumerate(words) if each == word]
    distance = places[1] - places[0]
    count = 1 + sum(1 for _ in itertools.takewhile(distance.__eq__, map(int.__sub__, places[1:], places)))
    return Row(word, distance * size_bytes, count) if count >= TURNS and places[0] <= distance else None


def _call_before(scene: Scene, word: int) -> int | None:
    """Where the call is that a return address is of; None for a word that is none."""
    address = scene.code_address(word)
    return next((address - each.length for each in calls_before(scene.read, address, scene.bits)), None)


CAUSES = (recursion,)
