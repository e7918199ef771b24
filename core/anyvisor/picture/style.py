"""How a picture of memory looks: the letters, and the colours by day and by night."""

from __future__ import annotations

from anyvisor.picture.svg import Style

TITLE = Style("title", 19, bold=True)
NOTE = Style("note", 12)
ADDRESS = Style("address", 11)
NAME = Style("name", 12.5, bold=True)
SIZE = Style("size", 11.5)
QUIET = Style("quiet", 11.5)
SPACE = Style("space", 12.5, bold=True)
STYLES = (TITLE, NOTE, ADDRESS, NAME, SIZE, QUIET, SPACE)

SANS = "system-ui, -apple-system, 'Segoe UI', 'Helvetica Neue', Arial, 'DejaVu Sans', sans-serif"
MONO = "ui-monospace, 'SF Mono', Menlo, Consolas, 'DejaVu Sans Mono', monospace"

PROVIDERS = 6
"""Plugins that have a colour of their own; those after them begin again with the first."""

_DAY = {
    "page": "#ffffff", "ink": "#1d2433", "soft": "#5d6679", "line": "#c6cdd9", "free": "#f3f5f9",
    "gap": "#fbfbfc", "device": "#f0e7d8", "device-edge": "#a8793a", "hatch": "#dde2ec",
}  # fmt: skip
_NIGHT = {
    "page": "#14171f", "ink": "#e8ebf2", "soft": "#9aa4b8", "line": "#3a4254", "free": "#1d222d",
    "gap": "#171b23", "device": "#352c1e", "device-edge": "#d3a25c", "hatch": "#2b3241",
}  # fmt: skip
_DAY_PROVIDERS = (
    ("#dfe9fb", "#2f6bd0"), ("#dcf1e4", "#22875a"), ("#ece3f9", "#7d4cc0"),
    ("#fbe0dd", "#c8453a"), ("#eaf2cf", "#648a17"), ("#daf0f3", "#147f92"),
)  # fmt: skip
_NIGHT_PROVIDERS = (
    ("#1f2f4d", "#7fadf7"), ("#1b3a2b", "#63cb96"), ("#31254a", "#b897ee"),
    ("#452220", "#f08a80"), ("#2f3a17", "#b3d35f"), ("#173a41", "#58c3d6"),
)  # fmt: skip


def style_sheet() -> str:
    """The rules for all classes; those for the night apply where the viewer asks for dark pages."""
    fonts = [f".{each.name} {{ font: {_weight(each)} {each.size}px {_family(each)}; }}" for each in STYLES]
    night = "\n".join(f"  {rule}" for rule in _colours(_NIGHT, _NIGHT_PROVIDERS))
    day = _colours(_DAY, _DAY_PROVIDERS)
    return "\n".join([*fonts, *day, f"@media (prefers-color-scheme: dark) {{\n{night}\n}}"])


def night_sheet() -> str:
    """The rules for the night alone, for a renderer that is to use them whatever it is asked for."""
    return "\n".join(_colours(_NIGHT, _NIGHT_PROVIDERS))


def _weight(style: Style) -> int:
    return 600 if style.bold else 400


def _family(style: Style) -> str:
    return MONO if style is ADDRESS else SANS


def _colours(colour: dict[str, str], providers: tuple[tuple[str, str], ...]) -> list[str]:
    rules = [
        f".page {{ fill: {colour['page']}; }}",
        f".title, .name, .space {{ fill: {colour['ink']}; }}",
        f".note, .address, .size, .quiet {{ fill: {colour['soft']}; }}",
        f".free, .reserved {{ fill: {colour['free']}; }}",
        f".gap {{ fill: {colour['gap']}; }}",
        ".hole { fill: none; }",
        f".device {{ fill: {colour['device']}; }}",
        f".device-edge {{ fill: {colour['device-edge']}; }}",
        f".line, .break {{ stroke: {colour['line']}; stroke-width: 1; fill: none; }}",
        f".cut {{ stroke: {colour['page']}; stroke-width: 4; fill: none; }}",
        ".dashed { stroke-dasharray: 4 3; }",
        f".hatch {{ stroke: {colour['hatch']}; stroke-width: 1.5; }}",
    ]
    for index, (fill, edge) in enumerate(providers):
        rules += [f".p{index} {{ fill: {fill}; }}", f".p{index}-edge {{ fill: {edge}; }}"]
    return rules
