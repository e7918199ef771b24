"""What an SVG file shows, as an XML parser and a renderer see it: its texts, the boxes they take, its size drawn."""

import itertools
import os
import re
import shutil
import struct
import subprocess
import unicodedata
import xml.etree.ElementTree as ET

import pytest

SVG = "{http://www.w3.org/2000/svg}"
WIDEST = 0.6
"""Of a common sans serif's letters on average, in font sizes; East Asian ones are 1."""


def texts(svg):
    """Every text with its place: (text, x, y, class, anchor)."""
    return [
        (
            each.text or "",
            float(each.get("x")),
            float(each.get("y")),
            each.get("class"),
            each.get("text-anchor", "start"),
        )
        for each in ET.fromstring(svg).iter(f"{SVG}text")
    ]


def titles(svg):
    """What is shown of things when they are pointed at."""
    return [each.text or "" for each in ET.fromstring(svg).iter(f"{SVG}title")]


def boxes(svg):
    """The box of each text: (left, top, right, bottom, text)."""
    sizes = {name: float(size) for name, size in re.findall(r"^\.(\w+) \{ font: \d+ ([\d.]+)px", svg, re.MULTILINE)}
    for text, x, y, style, anchor in texts(svg):
        size = sizes[style]
        width = size * sum(1 if unicodedata.east_asian_width(each) in "WF" else WIDEST for each in text)
        left = {"start": x, "middle": x - width / 2, "end": x - width}[anchor]
        yield left, y - 0.75 * size, left + width, y + 0.2 * size, text


def spacing_problems(svg):
    """Texts that overlap, or reach beyond the picture."""
    root = ET.fromstring(svg)
    width, height = float(root.get("width")), float(root.get("height"))
    found = sorted(boxes(svg), key=lambda box: box[1])
    problems = [box for box in found if box[0] < 0 or box[2] > width or box[1] < 0 or box[3] > height]
    for one, other in itertools.combinations(found, 2):
        if one[0] < other[2] and other[0] < one[2] and one[1] < other[3] and other[1] < one[3]:
            problems.append((one, other))
    return problems


def rendered_size(svg, folder):
    """Width and height of the picture as librsvg draws it."""
    if not shutil.which("rsvg-convert"):
        assert os.environ.get("CI") != "true", "no rsvg-convert"
        pytest.skip("apt-get install librsvg2-bin")
    (folder / "picture.svg").write_text(svg)
    command = ["rsvg-convert", "-o", folder / "picture.png", folder / "picture.svg"]
    done = subprocess.run(command, check=True, timeout=60, capture_output=True, text=True)
    assert not done.stderr
    return struct.unpack(">II", (folder / "picture.png").read_bytes()[16:24])
