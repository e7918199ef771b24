"""The log of a kernel whose console is silent, read from its memory."""

import struct

import attrs
import pytest
from dead_guests import CODE, dead

from anyvisor.diagnosis import report
from anyvisor.symbols import Symbols
from anyvisor.x86_64.diagnosis.kernel_log import MESSAGES
from anyvisor.x86_64.diagnosis.scene import Scene

LOG, POINTER, LENGTH, RING_POINTER, RING, INFOS = 0x200000, 0x1FF000, 0x1FF008, 0x1FF010, 0x1FF100, 0x210000
COUNT_BITS = 4
SYMBOLS = Symbols.of(
    [
        (CODE, "T", "startup"),
        (POINTER, "D", "log_buf"),
        (LENGTH, "D", "log_buf_len"),
        (RING_POINTER, "D", "prb"),
        (LOG, "B", "__log_buf"),
    ]
)
FIRST = 0xFFFF_FFFF_FFFF_F001
PANIC = [
    "Kernel panic - not syncing: no memory",
    "CPU: 0 PID: 0",
    "---[ end Kernel panic - not syncing: no memory ]---",
]


def log_of(texts, *, first=FIRST, stale=b"", start=0):
    """What memory holds after these messages; `stale` lies behind each of them."""
    written, at = {}, LOG + start
    for number, text in enumerate(texts):
        raw = text.encode()
        block = struct.pack("<Q", first + number) + (raw + stale).ljust(-(-len(raw + stale) // 8) * 8, b"\0")
        written[at] = block
        at += len(block)
        info = INFOS + (first + number) % (1 << COUNT_BITS) * 88
        written[info] = struct.pack("<QQH", number, 1000 * number, len(raw))
    written |= {POINTER: struct.pack("<QI", LOG, 0x8000), RING_POINTER: struct.pack("<Q", RING)}
    return written | {RING: struct.pack("<IIQQ", COUNT_BITS, 0, 0, INFOS)}


def logged(written, **more):
    return Scene(dead(b"\xcc", written=written, symbols=SYMBOLS, **more)).kernel_log


def test_messages_are_read_in_their_order():
    assert logged(log_of(["Linux version 6.1", "Command line: quiet", "x"])) == [
        "Linux version 6.1", "Command line: quiet", "x",
    ]  # fmt: skip


def test_old_bytes_behind_a_message_are_no_part_of_it():
    assert logged(log_of(["memory", "a longer message"], stale=b"ry???")) == ["memory", "a longer message"]


def test_without_lengths_a_message_ends_at_its_first_zero():
    written = {**log_of(["one", "two and more"]), RING_POINTER: bytes(8)}
    assert logged(written) == ["one", "two and more"]


def test_a_message_of_several_lines_is_several():
    assert logged(log_of(["one\ntwo", ""])) == ["one", "two", ""]


@pytest.mark.parametrize("written", [{}, {POINTER: b"\xff" * 24}, {**log_of(["a"]), RING: b"\xff" * 24}])
def test_garbage_is_no_log_and_no_error(written):
    assert logged(written) in ([], ["a"])


def test_without_symbols_there_is_none():
    assert Scene(dead(b"\xcc", written=log_of(["one"]))).kernel_log == []


def test_a_panic_that_no_console_has_shown_is_told():
    made = report(dead(b"\xcc", written=log_of(["Linux version 6.1", *PANIC]), symbols=SYMBOLS))
    assert made.likely.name == "guest-panic"
    assert "its console is silent" in " ".join(made.likely.because)
    assert made.section("Last lines of the kernel's log, from its memory").text.endswith(PANIC[-1])


def test_what_the_console_has_shown_is_not_told_again():
    made = report(
        dead(
            b"\xcc",
            written=log_of(["one", "two"]),
            symbols=SYMBOLS,
            console={"com1": ("[    0.1] one", "[    0.1] two")},
        )
    )
    assert made.section("Last lines of the kernel's log, from its memory") is None


def test_a_guest_that_fills_its_log_with_short_messages_is_not_read_for_long():
    messages = (struct.pack("<Q8s", number, b"message") for number in range(1, 60_000))
    written = {
        LOG: b"".join(messages),
        POINTER: struct.pack("<QI", LOG, 1 << 20),
        RING_POINTER: struct.pack("<Q", RING),
    }
    evidence = dead(b"\xcc", written=written | {RING: struct.pack("<IIQQ", COUNT_BITS, 0, 0, INFOS)}, symbols=SYMBOLS)
    reads = []

    def read(*place):
        reads.append(place)
        return evidence.read(*place)

    assert len(Scene(attrs.evolve(evidence, read=read)).kernel_log) == MESSAGES
    assert len(reads) < 20 * MESSAGES
