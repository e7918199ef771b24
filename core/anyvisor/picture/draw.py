"""The picture itself: a column of bands with addresses on the left, plugins and regions on the right, and a legend."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from xml.sax.saxutils import escape

import attrs

from anyvisor.memory import GIB, KIB, MIB, TIB
from anyvisor.picture.bands import NO_LANDMARKS, Band, Kind, Landmarks, Space, spaces
from anyvisor.picture.style import ADDRESS, NAME, NOTE, PROVIDERS, QUIET, SIZE, SPACE, TITLE, style_sheet
from anyvisor.picture.svg import element, group, tooltip
from anyvisor.plan import BootPlan

MARGIN = 28
TOP = 84
"""Where the first band begins."""
BAR_LEFT, BAR_RIGHT = 164, 564
EDGE = 4
"""The width of the strip that shows a plugin's colour."""
PADDING = 12
BY_LEFT, BY_RIGHT = 576, 682
BRACKET = 692
LABEL_LEFT = 708
WIDTH = 848
ROW, THIN, BROAD, TALL, SLIVER = 27.0, 20.0, 34.0, 50.0, 5.0
"""Heights of bands; a sliver has no words, it is what is left between two pieces that are aligned."""
SLIVER_BYTES = 64
LEGEND_ROW, LEGEND_COLUMNS = 24, 3
SWATCH = 14


@attrs.frozen
class Placed:
    """A band with its place in the picture."""

    band: Band
    top: float
    height: float

    @property
    def bottom(self) -> float:
        """Where the next band begins."""
        return self.top + self.height

    @property
    def baseline(self) -> float:
        """Where the words in its middle stand."""
        return self.top + self.height / 2 + 4.3


def picture(plan: BootPlan, landmarks: Landmarks = NO_LANDMARKS) -> str:
    """A plan's memory as the text of an SVG file; `landmarks` is what its architecture knows besides.

    >>> from anyvisor.memory import Region
    >>> svg = picture(BootPlan("x86_64", ram=(Region(0, 1 << 20),)))
    >>> svg.startswith("<svg xmlns="), "1 MiB" in svg
    (True, True)
    """
    shown = spaces(plan, landmarks)
    providers = list(dict.fromkeys(blob.provided_by for blob in plan.blobs if blob.provided_by))
    parts, y = [_head(plan)], float(TOP)
    for space in shown:
        column = _column(space, y)
        parts += [_band(each, providers) for each in column]
        parts.append(_bracket(space, y, column[-1].bottom))
        y = column[-1].bottom
    parts.append(_address(max((space.region.end for space in shown), default=0), y))
    legend = list(_legend(shown, providers, y + 38))
    height = y + 38 + LEGEND_ROW * -(-len(legend) // LEGEND_COLUMNS) + MARGIN - 8
    return _document(height, [*parts, *legend])


def _document(height: float, parts: Sequence[str]) -> str:
    size = {"width": WIDTH, "height": height, "viewBox": f"0 0 {WIDTH} {height:g}"}
    stripes = element("path", d="M0 8 L8 0 M-2 2 L2 -2 M6 10 L10 6", class_="hatch")
    pattern = element("pattern", stripes, id="hatching", width=8, height=8, patternUnits="userSpaceOnUse")
    style = element("style", f"\n{escape(style_sheet())}\n")
    page = element("rect", class_="page", width=WIDTH, height=height, rx=10)
    content = "\n".join(["", tooltip("Memory map of a boot plan"), style, element("defs", pattern), page, *parts, ""])
    return element("svg", content, xmlns="http://www.w3.org/2000/svg", **size, role="img") + "\n"


def _head(plan: BootPlan) -> str:
    ram = size_words(sum(region.size_bytes for region in plan.ram))
    vcpus = f"{len(plan.vcpus)} vCPU{'' if len(plan.vcpus) == 1 else 's'}"
    machine = NOTE.fitted(f"{plan.architecture}, {vcpus}, {ram} of RAM", BAR_RIGHT - MARGIN)
    return group(
        [
            TITLE.write(MARGIN, 40, "Memory map"),
            NOTE.write(MARGIN, 60, machine),
            NOTE.write(WIDTH - MARGIN, 60, "not to scale", "end"),
        ]
    )


# -- bands ---------------------------------------------------------------------------------------------------


def _column(space: Space, top: float) -> list[Placed]:
    column: list[Placed] = []
    for band in space.bands:
        column.append(Placed(band, top, _height(band)))
        top = column[-1].bottom
    return column


def _height(band: Band) -> float:
    """Larger things are taller, within reason: a row of text always fits."""
    size_bytes = band.region.size_bytes
    if band.kind in {Kind.PIECE, Kind.DEVICE}:
        return BROAD if size_bytes >= MIB else ROW
    if size_bytes >= 16 * MIB:
        return TALL
    if size_bytes < SLIVER_BYTES:
        return SLIVER
    return ROW if size_bytes >= 64 * KIB else THIN


def _band(placed: Placed, providers: Sequence[str]) -> str:
    band, width = placed.band, BAR_RIGHT - BAR_LEFT
    place = {"x": BAR_LEFT, "y": placed.top, "width": width, "height": placed.height}
    parts = [tooltip(_all_about(band)), element("rect", class_=_class(band, providers), **place)]
    if band.kind is Kind.RESERVED:
        parts.append(element("rect", fill="url(#hatching)", **place))
    parts.append(element("rect", class_="line dashed" if band.kind is Kind.HOLE else "line", **place))
    if band.kind in {Kind.PIECE, Kind.DEVICE}:
        edge = f"{_class(band, providers)}-edge"
        parts.append(element("rect", class_=edge, **{**place, "width": EDGE}))
    elif placed.height == TALL:
        parts += _break(placed)
    if placed.height > SLIVER:
        parts += [*_words(placed), _address(band.region.start, placed.top)]
    return group(parts)


def _class(band: Band, providers: Sequence[str]) -> str:
    if band.kind is Kind.PIECE:
        return f"p{providers.index(band.provided_by) % PROVIDERS}" if band.provided_by else "p0"
    return band.kind.name.lower()


def _words(placed: Placed) -> Iterator[str]:
    """The band's name and size, and who placed it."""
    band, y = placed.band, placed.baseline
    size = _size(band)
    room = BAR_RIGHT - BAR_LEFT - 3 * PADDING - SIZE.width(size)
    named = band.kind in {Kind.PIECE, Kind.DEVICE}
    style, name = (NAME, band.region.name or "(no name)") if named else (QUIET, band.kind.value)
    yield style.write(BAR_LEFT + PADDING, y, style.fitted(name, room))
    yield SIZE.write(BAR_RIGHT - PADDING, y, size, "end")
    if band.provided_by:
        yield QUIET.write(BY_LEFT, y, QUIET.fitted(band.provided_by, BY_RIGHT - BY_LEFT))


def _size(band: Band) -> str:
    size = size_words(band.region.size_bytes)
    return size if band.count == 1 else f"{band.count} x {size_words(band.region.size_bytes // band.count)}"


def _all_about(band: Band) -> str:
    region = band.region
    name = region.name if band.kind in {Kind.PIECE, Kind.DEVICE} else band.kind.value
    by = f", placed by {band.provided_by}" if band.provided_by else ""
    return f"{name}: {region.start:#x} to {max(region.end - 1, region.start):#x}, {region.size_bytes} bytes{by}"


def _address(address: int, y: float) -> str:
    """An address beside the line at which it is."""
    return group(
        [
            element("path", class_="line", d=f"M{BAR_LEFT - 6} {y:g} H{BAR_LEFT}"),
            ADDRESS.write(BAR_LEFT - 11, y + 4, f"{address:#x}", "end"),
        ]
    )


def _break(placed: Placed) -> Iterator[str]:
    """Marks on both sides that say: here much is left out."""
    y = placed.top + placed.height / 2
    for x in (BAR_LEFT, BAR_RIGHT):
        slant = f"M{x - 6} {y + 3:g} L{x + 6} {y - 3:g}"
        yield element("path", class_="cut", d=slant)
        yield element("path", class_="break", d=f"M{x - 6} {y + 1:g} l12 -6 M{x - 6} {y + 5:g} l12 -6")


# -- the right side and the legend ---------------------------------------------------------------------------


def _bracket(space: Space, top: float, bottom: float) -> str:
    name = space.region.name or ("RAM" if space.is_ram else "nothing here")
    size = size_words(space.region.size_bytes)
    room = WIDTH - MARGIN - LABEL_LEFT
    line = element("path", class_="line", d=f"M{BRACKET} {top + 3:g} h6 V{bottom - 3:g} h-6")
    middle = (top + bottom) / 2
    if bottom - top < 2 * THIN:
        return group([line, SPACE.write(LABEL_LEFT, middle + 4.3, SPACE.fitted(f"{name}, {size}", room))])
    first = SPACE.write(LABEL_LEFT, middle - 3, SPACE.fitted(name, room))
    return group([line, first, QUIET.write(LABEL_LEFT, middle + 13, size)])


def _legend(shown: Sequence[Space], providers: Sequence[str], top: float) -> Iterator[str]:
    """What the colours mean."""
    kinds = {band.kind for space in shown for band in space.bands} - {Kind.PIECE}
    entries = [(f"p{index % PROVIDERS}-edge", f"placed by {name}") for index, name in enumerate(providers)]
    entries += [
        ("device-edge" if kind is Kind.DEVICE else kind.name.lower(), kind.value) for kind in Kind if kind in kinds
    ]
    step = (WIDTH - 2 * MARGIN) / LEGEND_COLUMNS
    for index, (name, words) in enumerate(entries):
        x, y = MARGIN + index % LEGEND_COLUMNS * step, top + index // LEGEND_COLUMNS * LEGEND_ROW
        box = {"x": x, "y": y, "width": SWATCH, "height": SWATCH, "rx": 3}
        parts = [element("rect", class_=name, **box)]
        parts += [element("rect", fill="url(#hatching)", **box)] if name == "reserved" else []
        parts += [element("rect", class_="line dashed" if name == "hole" else "line", **box)]
        yield group([*parts, NOTE.write(x + SWATCH + 8, y + 11.5, NOTE.fitted(words, step - SWATCH - 16))])


def size_words(size_bytes: int) -> str:
    """A size to be read: `24 KiB`, `5348 bytes`, `39.3 MiB`."""
    for unit, name in ((TIB, "TiB"), (GIB, "GiB"), (MIB, "MiB"), (KIB, "KiB")):
        if size_bytes and size_bytes % unit == 0:
            return f"{size_bytes // unit} {name}"
        if size_bytes >= unit and size_bytes >= 10 * KIB:
            return f"{size_bytes / unit:.1f} {name}".replace(".0 ", " ")
    return f"{size_bytes} byte{'' if size_bytes == 1 else 's'}"
