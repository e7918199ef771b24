"""SVG as text: elements, words that are safe in them, and how wide they will be."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable
from xml.sax.saxutils import escape, quoteattr

import attrs

WIDE, NARROW = 1.05, 0.63
"""The width of a letter of East Asian scripts and of any other, in font sizes: no common font has wider ones."""
BOLD = 1.1
UNFIT = {"Cc", "Cf", "Cn", "Co", "Cs", "Zl", "Zp"}
"""Unicode's categories of what is no letter: control codes, which XML forbids, and what turns text around."""


def clean(text: str) -> str:
    """The text on one line, with a replacement character for each that XML forbids or that is not to be seen."""
    return "".join("\N{REPLACEMENT CHARACTER}" if unicodedata.category(each) in UNFIT else each for each in text)


def element(name: str, content: str = "", /, **attributes: object) -> str:
    """An element; a trailing or inner underscore in an attribute's name stands for nothing and for a hyphen."""
    words = "".join(
        f" {key.rstrip('_').replace('_', '-')}={quoteattr(clean(_number(value)))}" for key, value in attributes.items()
    )
    return f"<{name}{words}>{content}</{name}>" if content else f"<{name}{words}/>"


def group(parts: Iterable[str], **attributes: object) -> str:
    """Several elements as one."""
    return element("g", "\n".join(["", *parts, ""]), **attributes)


def tooltip(text: str) -> str:
    """What is shown of an element when it is pointed at, and read aloud."""
    return element("title", escape(clean(text)))


@attrs.frozen
class Style:
    """How words look: a class of the style sheet, and what it says of their size."""

    name: str
    size: float
    bold: bool = False

    def width(self, text: str) -> float:
        """At most how wide the text will be."""
        letters = sum(WIDE if unicodedata.east_asian_width(each) in "WF" else NARROW for each in text)
        return letters * self.size * (BOLD if self.bold else 1)

    def fitted(self, text: str, room: float) -> str:
        """The text, cut short with an ellipsis where it needs more than that room."""
        text = clean(text)
        if self.width(text) <= room:
            return text
        while text and self.width(f"{text}…") > room:
            text = text[:-1]
        return f"{text}…"

    def write(self, x: float, y: float, text: str, anchor: str = "start") -> str:
        """The text with its baseline's start, middle or end at a place."""
        extra = {} if anchor == "start" else {"text_anchor": anchor}
        return element("text", escape(clean(text)), x=x, y=y, class_=self.name, **extra)


def _number(value: object) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)
