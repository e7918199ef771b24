"""Guest memory cut into bands, one for each thing that a picture of it shows, in the order of their addresses."""

from __future__ import annotations

import enum
import itertools
from collections.abc import Iterable, Iterator

import attrs

from anyvisor.memory import Region
from anyvisor.pieces import DeviceSpec
from anyvisor.plan import BootPlan

MOST_DEVICES = 4
"""Neighbours of one kind; more are drawn as one band."""


class Kind(enum.Enum):
    """What a band is."""

    PIECE = "piece"
    """Bytes that the plan places."""
    FREE = "free RAM"
    RESERVED = "reserved RAM"
    """Free, but the memory map given to the guest calls it reserved."""
    DEVICE = "device"
    GAP = "kept free of RAM"
    HOLE = "nothing"


@attrs.frozen
class Band:
    """Some addresses that are one thing; `provided_by` is the plugin of a piece, `count` how many devices."""

    kind: Kind
    region: Region
    provided_by: str = ""
    count: int = 1


@attrs.frozen
class Space:
    """A region of the plan that bands lie in: RAM, a gap, or the hole between two of them."""

    region: Region
    bands: tuple[Band, ...]
    is_ram: bool


@attrs.frozen
class Landmarks:
    """What an architecture knows besides the plan: RAM that the guest is told to leave alone, and fixed devices."""

    reserved: tuple[Region, ...] = ()
    devices: tuple[Region, ...] = ()


NO_LANDMARKS = Landmarks()


def spaces(plan: BootPlan, landmarks: Landmarks = NO_LANDMARKS) -> tuple[Space, ...]:
    """All of a plan's memory, lowest address first; what lies between two spaces is a hole."""
    pieces = [Band(Kind.PIECE, blob.region, blob.provided_by) for blob in plan.blobs]
    devices = list(_devices(plan, landmarks))
    found = [_ram(region, pieces, landmarks.reserved) for region in plan.ram]
    found += [_no_ram(region, Kind.GAP, devices) for region in plan.reserved]
    taken = sorted(each.region for each in found)
    found += [_no_ram(hole, Kind.HOLE, devices) for hole in _holes(taken, [band.region for band in devices])]
    return tuple(sorted(found, key=lambda space: space.region))


def _ram(region: Region, pieces: Iterable[Band], reserved: Iterable[Region]) -> Space:
    inside = _inside(region, pieces)
    free = [part for rest in _rest(region, inside) for part in _split(rest, reserved)]
    return Space(region, _in_order([*inside, *free]), is_ram=True)


def _no_ram(region: Region, kind: Kind, devices: Iterable[Band]) -> Space:
    inside = _inside(region, devices)
    rest = [Band(kind, each) for each in _rest(region, inside)]
    return Space(region, _in_order([*inside, *rest]), is_ram=False)


def _inside(region: Region, bands: Iterable[Band]) -> list[Band]:
    return [each for each in bands if region.start <= each.region.start < region.end]


def _in_order(bands: Iterable[Band]) -> tuple[Band, ...]:
    return tuple(sorted(bands, key=lambda band: (band.region.start, band.region.end)))


def _rest(region: Region, taken: Iterable[Band]) -> list[Region]:
    """What is left of a region beside the bands in it."""
    parts, start = [], region.start
    for band in _in_order(taken):
        if start < band.region.start:
            parts.append(Region(start, band.region.start - start))
        start = max(start, band.region.end)
    return [*parts, *([Region(start, region.end - start)] if start < region.end else [])]


def _split(free: Region, reserved: Iterable[Region]) -> Iterator[Band]:
    """Free RAM, told apart by whether the guest may use it."""
    edges = {free.start, free.end} | {edge for each in reserved for edge in (each.start, each.end)}
    for start, end in itertools.pairwise(sorted(edge for edge in edges if free.start <= edge <= free.end)):
        owner = next((each for each in reserved if each.contains(start, end - start)), None)
        yield Band(Kind.RESERVED if owner else Kind.FREE, Region(start, end - start))


def _holes(taken: list[Region], devices: list[Region]) -> Iterator[Region]:
    """What lies between the spaces, and above them if a device does."""
    end = 0
    for region in taken:
        if end < region.start:
            yield Region(end, region.start - end)
        end = max(end, region.end)
    above = max((each.end for each in devices), default=0)
    if end < above:
        yield Region(end, above - end)


def _devices(plan: BootPlan, landmarks: Landmarks) -> Iterator[Band]:
    """The ranges of devices; neighbours of one kind, when there are many, as one."""
    placed = sorted(((region, spec) for spec in plan.devices for region in spec.mmio), key=lambda each: each[0])
    for run in _runs(placed):
        if len(run) <= MOST_DEVICES:
            yield from (Band(Kind.DEVICE, spec.named(region)) for region, spec in run)
        else:
            (first, spec), (last, other) = run[0], run[-1]
            name = f"{spec.named(first).name} to {other.named(last).name}"
            yield Band(Kind.DEVICE, Region(first.start, last.end - first.start, name), count=len(run))
    known = [region for region, _ in placed]
    yield from (Band(Kind.DEVICE, each) for each in landmarks.devices if not any(map(each.overlaps, known)))


def _runs(placed: list[tuple[Region, DeviceSpec]]) -> Iterator[list[tuple[Region, DeviceSpec]]]:
    """Devices of one kind whose ranges follow each other without a gap."""
    run: list[tuple[Region, DeviceSpec]] = []
    for region, spec in placed:
        if run and (run[-1][0].end, run[-1][1].kind) != (region.start, spec.kind):
            yield run
            run = []
        run.append((region, spec))
    if run:
        yield run
