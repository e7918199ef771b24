"""A boot plan's memory as a picture: an SVG file that browsers, editors and documents show.

    Path("memory.svg").write_text(picture(plan))

Some facts about the picture. It is not to scale: a machine has a table of 40 bytes and a terabyte of RAM, and
both are to be read. Addresses go up as one reads down, as in the text of `anyvisor plan`. Every piece has its name,
its first address and its size, and the colour of the plugin that placed it; pointing at one tells all about it.
"""

from __future__ import annotations

from anyvisor.picture.bands import NO_LANDMARKS, Landmarks
from anyvisor.picture.draw import picture

__all__ = ["NO_LANDMARKS", "Landmarks", "picture"]
