"""Resource descriptors in words: the buffer that `_CRS` stands for, of any machine's tables.

See `aml_resources` for what they are; ACPI specification 6.5, 6.4.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator

LARGE = 0x80
END_TAG = 0x78
EDGE, ACTIVE_LOW, SHARED = 0x02, 0x04, 0x08
WIDTHS = {0x88: "H", 0x87: "I", 0x8A: "Q"}
RANGES = {0: "memory", 1: "ports", 2: "buses"}


def resource_words(template: bytes) -> str | None:
    """What the resources are, joined by commas; None when the bytes are no list of descriptors, closed by an end tag.

    A descriptor of no kind known here is told by its number.
    """
    try:
        return ", ".join(_descriptors(template)) or "nothing"
    except (struct.error, IndexError):
        return None


def _descriptors(template: bytes) -> Iterator[str]:
    """The words of each; IndexError or struct.error where the bytes end before the list does."""
    offset = 0
    while True:
        lead = template[offset]
        if lead & LARGE:
            kind, start = lead, offset + 3
            size_bytes = struct.unpack_from("<H", template, offset + 1)[0]
        else:
            kind, start, size_bytes = lead & END_TAG, offset + 1, lead & 7
        offset = start + size_bytes
        if kind == END_TAG:
            return
        body = template[start:offset]
        if kind in WIDTHS:
            yield _address_space(WIDTHS[kind], body)
        elif kind in WORDS:
            if words := WORDS[kind](body):
                yield words
        else:
            yield f"resource {kind:#04x} of {size_bytes} bytes"


def _span(start: int, size: int) -> str:
    return f"{start:#x}" if size == 1 else f"{start:#x}-{start + max(size, 1) - 1:#x}"


def _io(body: bytes) -> str:
    _, minimum, maximum, _, size = struct.unpack("<BHHBB", body)
    movable = "" if minimum == maximum else f" or up to {maximum:#x}"
    return f"{'port' if size == 1 else 'ports'} {_span(minimum, size)}{movable}"


def _fixed_io(body: bytes) -> str:
    start, size = struct.unpack("<HB", body)
    return f"{'port' if size == 1 else 'ports'} {_span(start, size)}"


def _numbers(mask: int) -> str:
    return " ".join(str(i) for i in range(mask.bit_length()) if mask >> i & 1) or "none"


def _irq(body: bytes) -> str:
    return f"IRQ {_numbers(struct.unpack_from('<H', body)[0])}"


def _dma(body: bytes) -> str:
    return f"DMA {_numbers(body[0])}"


def _memory_32(body: bytes) -> str:
    _, start, size = struct.unpack("<BII", body)
    return f"memory {_span(start, size)}"


def _interrupts(body: bytes) -> str:
    flags, count = struct.unpack_from("<BB", body)
    gsis = struct.unpack_from(f"<{count}I", body, 2)
    trigger = "edge" if flags & EDGE else "level"
    polarity = " low" if flags & ACTIVE_LOW else ""
    shared = " shared" if flags & SHARED else ""
    return f"interrupt {' '.join(map(str, gsis))} ({trigger}{polarity}{shared})"


def _address_space(width: str, body: bytes) -> str:
    kind, *_ = struct.unpack_from("<BBB", body)
    _, minimum, maximum, _, size = struct.unpack_from(f"<5{width}", body, 3)
    return f"{RANGES.get(kind, f'kind {kind}')} {minimum:#x}-{maximum:#x}{'' if size else ' (none yet)'}"


def _silent(body: bytes) -> str:  # noqa: ARG001 - a row of the table below
    """Where alternatives begin and end."""
    return ""


WORDS: dict[int, Callable[[bytes], str]] = {
    0x20: _irq,
    0x28: _dma,
    0x30: _silent,
    0x38: _silent,
    0x40: _io,
    0x48: _fixed_io,
    0x86: _memory_32,
    0x89: _interrupts,
}
