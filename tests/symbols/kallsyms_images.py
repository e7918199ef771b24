"""Images with the tables that Linux's scripts/kallsyms.c writes, in the order of each of its ages."""

import struct

import attrs

from x86_64.kernel_images import elf

LINKED = 0x1000000
"""Where `kernel_images.elf` puts a segment; physical and virtual are the same there."""
PHRASES = (b"sys_", b"__x64_", b"device", b"_init", b"Tdo_", b"reg", b"ister")
"""What the bytes stand for that occur in no name."""


@attrs.frozen
class Age:
    """The tables of some Linux: where the offsets are, what they count from, and how wide the sequence is."""

    name: str
    offsets: str  # "before" the names, or "after" the tokens
    counts: str  # from a "base", "per-cpu" (down from the base, unless they are absolute), or from their "place"
    sequence_bytes: int = 0
    big_names: bool = True


AGES = (
    Age("5.10", "before", "per-cpu", big_names=False),
    Age("6.0 i386", "before", "base"),
    Age("6.2", "before", "per-cpu", 3),
    Age("6.2-rc", "before", "per-cpu", 4),
    Age("6.6", "after", "per-cpu", 3),
    Age("6.15", "after", "base", 3),
    Age("7.0", "after", "place", 3),
)


def names(count, long_name=""):
    """Symbols with a type each: `count` in all, a few of them with one address, one with another name."""
    found = [(f"T{'sys_' if i % 3 else '__x64_'}device{i}_init", i * 48 - i % 5 // 4 * 48) for i in range(count)]
    if long_name:
        found[7] = ("t" + long_name, found[7][1])
    return found


def tokens(text):
    """The 256 tokens: characters that occur stand for themselves, other codes for phrases while there are some."""
    phrases = iter(PHRASES)
    return [bytes([code]) if code in text or chr(code).isdigit() else next(phrases, b"") for code in range(256)]


def packed(name, table):
    """A name as its length and codes; the longest token that fits comes first."""
    codes, rest = b"", name
    while rest:
        code = max((c for c in range(256) if table[c] and rest.startswith(table[c])), key=lambda c: len(table[c]))
        codes += bytes([code])
        rest = rest[len(table[code]) :]
    length = len(codes)
    return (bytes([length]) if length < 128 else bytes([length & 0x7F | 0x80, length >> 7])) + codes


def offsets(addresses, age, base, place):
    if age.counts == "base":
        return [address - base for address in addresses]
    if age.counts == "place":
        return [address - place - 4 * at for at, address in enumerate(addresses)]
    return [address if address < base else base - 1 - address for address in addresses]


@attrs.frozen
class Image:
    """A kernel's file, its symbols (address, name), and where in the file each table begins."""

    content: bytes
    symbols: list[tuple[int, str]]
    places: dict[str, int]


def tables(symbols, age, bits, start):
    """The bytes of the tables of symbols (type and name, address), which will lie at the address `start`.

    And where among them each table begins.
    """
    unit = bits // 8
    pointer = {32: "<I", 64: "<Q"}[bits]
    encoded = [name.encode() for name, _ in symbols]
    table = tokens(b"".join(encoded))
    entries = [packed(name, table) for name in encoded]
    starts = [sum(map(len, entries[:at])) for at in range(0, len(entries), 256)]
    index = [sum(len(each) + 1 for each in table[:code]) for code in range(256)]
    base = min(address for _, address in symbols if address >= LINKED)

    data, places = bytearray(), {}

    def put(label, content):
        data.extend(bytes(-len(data) % unit))
        places[label] = len(data)
        data.extend(content)

    def put_offsets():
        place = start + len(data) + -len(data) % unit
        counted = offsets([address for _, address in symbols], age, base, place)
        put("offsets", struct.pack(f"<{len(counted)}I", *(each & 0xFFFFFFFF for each in counted)))
        if age.counts != "place":
            put("base", struct.pack(pointer, base))

    sequence = b"".join(at.to_bytes(4, "big")[4 - age.sequence_bytes :] for at in range(len(symbols)))
    if age.offsets == "before":
        put_offsets()
    put("number", struct.pack("<I", len(symbols)))
    put("names", b"".join(entries))
    put("markers", struct.pack(f"<{len(starts)}I", *starts))
    if age.offsets == "before":
        put("sequence", sequence)
    put("tokens", b"".join(token + b"\0" for token in table))
    put("index", struct.pack("<256H", *index))
    if age.offsets == "after":
        put_offsets()
        put("sequence", sequence)
    return bytes(data), places


def image(age, bits=64, count=700, long_name="very_" * 60 + "long"):
    """A stripped ELF kernel with the tables somewhere in its one segment."""
    found = names(count, long_name if age.big_names else "")
    symbols = [(name, LINKED + address) for name, address in found]
    if age.counts == "per-cpu":
        symbols = [("A__per_cpu_start", 0), ("Acpu_info", 0x1000), *symbols]
    before = b"\x90" * 0x800 + b"".join(b"%d\0" % digit for digit in range(10)) + bytes(0x7C)
    headers_bytes = {32: 52 + 32, 64: 64 + 56}[bits]
    before += bytes(-(headers_bytes + len(before)) % 8)
    data, places = tables(symbols, age, bits, LINKED + len(before))
    content = before + data + b"\xcc" * 0x800
    return Image(
        elf(((LINKED, content, len(content)),), bits=bits),
        [(address, name[1:]) for name, address in symbols],
        {label: headers_bytes + len(before) + place for label, place in places.items()},
    )
