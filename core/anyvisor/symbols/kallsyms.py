"""Find and read the table of symbols that Linux carries inside its image, where nothing says that it is there.

Some facts about kallsyms (Linux: scripts/kallsyms.c, kernel/kallsyms.c). Names are packed by tokens: each byte of a
name stands for a string of the token table, which has 256 of them, one behind the other, each ended by a NUL.
Characters that occur in names stand for themselves, so the digits are ten tokens in a row: by them the table is found.
Behind it, the token index has the offset of each token as 16 bits, which is the proof. Every table begins at a multiple
of a pointer's size, in this order:

| Linux | order |
| --- | --- |
| to 6.0 | offsets, relative base, number, names, markers, tokens, index |
| 6.1 to 6.3 | offsets, relative base, number, names, markers, sequence, tokens, index |
| from 6.4 | number, names, markers, tokens, index, offsets, relative base, sequence |
| from 7.0 | number, names, markers, tokens, index, offsets, sequence |

A name is its length, one byte, or two of seven bits each from 6.1 on, and that many tokens; the first character is the
symbol's type, the rest its name. Of every 256th name, a marker has the offset among the names. An offset is a number
of 32 bits. It counts from the relative base; or, where per-CPU variables have addresses from 0 on (x86_64 up to 6.14),
those that are not negative are such addresses, and the others count down from the relative base less 1. From 7.0 on
there is no base: each counts from the place where it lies itself. Addresses must ascend, which tells these apart.

The image is untrusted: all that it says is checked against its end and against limits that no kernel reaches.
"""

from __future__ import annotations

import itertools
import struct
import sys
from array import array
from collections.abc import Callable, Iterator, Sequence

import attrs

from anyvisor.memory import MIB, align_up

MIN_SYMBOLS, MAX_SYMBOLS = 512, 1 << 20
"""A Linux without modules and drivers has 10 000 symbols, a big one 300 000."""
MAX_NAMES_BYTES = 12 * MIB
"""How far before the tokens the names are looked for."""
MAX_NAME_BYTES = 511
MAX_TRIES = 16
MAX_DIGITS = 1000
"""How many rows of digits are looked at; in a kernel there is one, or a few."""
_TOKENS = 256
_DIGITS = b"".join(b"%d\0" % digit for digit in range(10))
_TYPES = frozenset(b"abcdgimnprstuvwABCDGIMNPRSTUVW?")
_EVERY = 256
_GLANCE = 32
"""How many names are looked at before all of them are."""

Data = bytes | bytearray
VirtualAddress = Callable[[int], int | None]


@attrs.frozen
class Found:
    """The symbols of a kernel in ascending order of addresses, as it has them itself."""

    addresses: Sequence[int]
    names: Sequence[str]


@attrs.frozen
class _TokenTable:
    """Where the token table begins, where its index ends, and the tokens."""

    start: int
    end: int
    tokens: list[bytes]


@attrs.frozen
class _Names:
    """Where the number of names lies, and the names, each with its type before it."""

    start: int
    names: list[bytes]


def decode(data: Data, pointer_bytes: int, virtual_address: VirtualAddress) -> Found | None:
    """The symbols in a kernel image; None where there are none that make sense.

    `virtual_address` says for which address the byte at an offset of the image is linked.
    """
    for table in itertools.islice(_token_tables(data, pointer_bytes), MAX_TRIES):
        for start in itertools.islice(_name_tables(data, table, pointer_bytes), MAX_TRIES):
            if (names := _names(data, table, start, pointer_bytes)) is None:
                continue
            addresses = _addresses(data, table, names, pointer_bytes, virtual_address)
            if addresses is not None:
                return Found(addresses, [name[1:].decode("utf-8", "replace") for name in names.names])
    return None


# -- tokens ----------------------------------------------------------------------------------------------------


def _token_tables(data: Data, pointer_bytes: int) -> Iterator[_TokenTable]:
    """The token tables in an image: one, if it is no strange one."""
    digits = data.find(_DIGITS)
    for _ in range(MAX_DIGITS):
        if digits < 0:
            return
        if table := _token_table(data, digits, pointer_bytes):
            yield table
        digits = data.find(_DIGITS, digits + 1)


def _token_table(data: Data, digits: int, pointer_bytes: int) -> _TokenTable | None:
    """The token table that has its digits there, if the index behind it says the same."""
    end = digits
    for _ in range(ord("0"), _TOKENS):
        end = data.find(b"\0", end, end + MAX_NAME_BYTES + 1) + 1
        if not end:
            return None
    index_start = align_up(end, pointer_bytes)
    index = _numbers(data, index_start, _TOKENS, "H")
    if index is None or index[0] or index[ord("0")] > digits:
        return None
    start = digits - index[ord("0")]
    tokens = bytes(data[start:end]).split(b"\0")[:-1]
    offsets = itertools.accumulate((len(token) + 1 for token in tokens[:-1]), initial=0)
    if start % pointer_bytes or len(tokens) != _TOKENS or tuple(offsets) != index:
        return None
    return _TokenTable(start, index_start + 2 * _TOKENS, tokens)


# -- names -----------------------------------------------------------------------------------------------------


def _name_tables(data: Data, table: _TokenTable, pointer_bytes: int) -> Iterator[int]:
    """Where, before the tokens, there can be a number of names with names behind it, the nearest first."""
    start = max(table.start - MAX_NAMES_BYTES, table.start % pointer_bytes)
    words = array("Q" if pointer_bytes == 8 else "I", bytes(data[start : table.start]))
    if sys.byteorder == "big":
        words.byteswap()
    types = bytes(code for code, token in enumerate(table.tokens) if token[:1] and token[0] in _TYPES)
    for index in range(len(words) - 1, -1, -1):
        if MIN_SYMBOLS <= words[index] <= MAX_SYMBOLS:
            first = start + (index + 1) * pointer_bytes
            glance = [data[at] in types for at, _ in itertools.islice(_spans(data, first, table.start), _GLANCE)]
            if len(glance) == _GLANCE and all(glance):
                yield first - pointer_bytes


def _spans(data: Data, start: int, limit: int) -> Iterator[tuple[int, int]]:
    """Where the tokens of each name begin and end, until one is empty or reaches the limit."""
    while start < limit:
        length = data[start]
        start += 1
        if length & 0x80 and start < limit:
            length = length & 0x7F | data[start] << 7
            start += 1
        end = start + length
        if not length or end > limit:
            return
        yield start, end
        start = end


def _names(data: Data, table: _TokenTable, start: int, pointer_bytes: int) -> _Names | None:
    """The names behind the number at `start`, if the markers behind them say the same."""
    count = int.from_bytes(data[start : start + 4], "little")
    first = start + pointer_bytes
    spans = list(itertools.islice(_spans(data, first, table.start), count))
    if len(spans) != count:
        return None
    markers = _numbers(data, align_up(spans[-1][1], pointer_bytes), -(-count // _EVERY), "I")
    if markers is None or list(markers) != [0, *(end - first for _, end in spans[_EVERY - 1 : -1 : _EVERY])]:
        return None
    token = table.tokens.__getitem__
    names = []
    for begin, end in spans:
        name = b"".join(map(token, data[begin:end]))
        if not 1 < len(name) <= MAX_NAME_BYTES + 1:
            return None
        names.append(name)
    return _Names(start, names)


# -- addresses -------------------------------------------------------------------------------------------------


def _addresses(
    data: Data, table: _TokenTable, names: _Names, pointer_bytes: int, virtual_address: VirtualAddress
) -> list[int] | None:
    """The address of each name; None where no known order of tables has ascending ones."""
    table_bytes = align_up(4 * len(names.names), pointer_bytes)
    base_before = names.start - pointer_bytes
    behind = align_up(table.end, pointer_bytes)
    for start, base_start in ((base_before - table_bytes, base_before), (behind, behind + table_bytes)):
        offsets = _numbers(data, start, len(names.names), "i")
        base = _numbers(data, base_start, 1, "Q" if pointer_bytes == 8 else "I")
        if offsets and base and (found := _from_base(offsets, base[0])):
            return found
    place, offsets = virtual_address(behind), _numbers(data, behind, len(names.names), "i")
    return _ascending([place + 4 * at + each for at, each in enumerate(offsets)]) if place and offsets else None


def _from_base(offsets: Sequence[int], base: int) -> list[int] | None:
    """The addresses by a relative base, all counted up from it, or down with those of per-CPU variables between."""
    counted_up = _ascending([base + (each & 0xFFFFFFFF) for each in offsets])
    return counted_up or _ascending([each if each >= 0 else base - 1 - each for each in offsets])


def _ascending(addresses: list[int]) -> list[int] | None:
    """The addresses, if they are in order and not mostly the same one."""
    return addresses if addresses == sorted(addresses) and 2 * len(set(addresses)) > len(addresses) else None


def _numbers(data: Data, start: int, count: int, form: str) -> tuple[int, ...] | None:
    """That many little-endian numbers from `start`; None where the image has not so many."""
    shape = struct.Struct(f"<{count}{form}")
    return shape.unpack_from(data, start) if 0 <= start <= len(data) - shape.size else None
