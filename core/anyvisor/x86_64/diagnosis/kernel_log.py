"""What a Linux has said, read from its memory: a kernel that has no console yet, or the wrong one, logs all the same.

Some facts about the log (kernel/printk/printk_ringbuffer.h, Linux 5.10 and later). `log_buf` leads to the text and
`log_buf_len` is its size. Each message is a block that begins on a multiple of 8: a word with the message's number,
then the text. Numbers count up by one, so the next block begins at the word that is one more. What does not fit at the
end of the buffer goes to its beginning, so the blocks from there on are always the newest, or all. A text has no end
of its own and old bytes behind it: its length stands in another ring, to which `prb` leads, with the message's time.
"""

from __future__ import annotations

import collections
import struct
from collections.abc import Iterator

import attrs

from anyvisor.memory import KIB, MIB
from anyvisor.x86_64.diagnosis.scene import Scene

WORD_BYTES = 8
MOST_BYTES = 1 * MIB
DEFAULT_BYTES = 128 * KIB
LONGEST_WORDS = 256
"""As many words as a block may have."""
INFO_BYTES = 88
INFOS_AT, LENGTH_AT = 16, 16
"""Where a ring's descriptor has the address of the infos, and an info the length of its text."""
MOST_COUNT_BITS = 24
MESSAGES = 400
"""As many of the last messages, and of their lines, are looked at: a guest can write a hundred thousand."""


@attrs.frozen
class Infos:
    """The ring of the messages' infos: its linear address, and how many there are, a power of 2."""

    address: int
    count: int

    def length(self, scene: Scene, number: int) -> int | None:
        """How long the text of the message with that number is."""
        return scene.number(self.address + number % self.count * INFO_BYTES + LENGTH_AT, 2)


def kernel_log(scene: Scene) -> list[str]:
    """The last messages, in order, without clock and level; none without symbols, or where there is no such log."""
    place = _place(scene)
    if place is None:
        return []
    data = scene.read(*place)
    infos = _infos(scene)
    lines: list[str] = []
    for number, text in collections.deque(_blocks(data), MESSAGES):
        length = infos.length(scene, number) if infos else None
        if length is not None and length <= len(text):
            text = text[:length]  # noqa: PLW2901
        lines += text.partition(b"\0")[0].decode("utf-8", "replace").splitlines() or [""]
    return lines[-MESSAGES:]


def _place(scene: Scene) -> tuple[int, int] | None:
    """The linear address of the log's text, and its size."""
    base, size_bytes = _variable(scene, "log_buf"), _variable(scene, "log_buf_len", 4)
    base = base or _address(scene, "__log_buf")
    return (base, min(size_bytes or DEFAULT_BYTES, MOST_BYTES)) if base else None


def _infos(scene: Scene) -> Infos | None:
    ring = _variable(scene, "prb")
    count_bits = scene.number(ring, 4) if ring else None
    address = scene.number(ring + INFOS_AT) if ring else None
    return Infos(address, 1 << count_bits) if address and count_bits and count_bits <= MOST_COUNT_BITS else None


def _address(scene: Scene, name: str) -> int | None:
    return scene.evidence.symbols.address(name) if scene.evidence.symbols else None


def _variable(scene: Scene, name: str, size_bytes: int = WORD_BYTES) -> int | None:
    address = _address(scene, name)
    return scene.number(address, size_bytes) if address else None


def _blocks(data: bytes) -> Iterator[tuple[int, bytes]]:
    """The number of each message and all bytes of its block, from the start of the buffer on."""
    words = struct.unpack_from(f"<{len(data) // WORD_BYTES}Q", data)
    at = 0
    while at < len(words) and words[at]:
        reach = min(at + LONGEST_WORDS, len(words))
        following = next((each for each in range(at + 1, reach) if words[each] == words[at] + 1), 0)
        yield words[at], data[(at + 1) * WORD_BYTES : (following or reach) * WORD_BYTES]
        if not following:
            return
        at = following
