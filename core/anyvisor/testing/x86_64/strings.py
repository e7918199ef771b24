"""INS and OUTS: I/O straight from and to memory, an item or a whole string at a time.

Some facts about strings. A REP prefix repeats the instruction RCX times, and a hypervisor may hand over many of the
items in one exit (KVM gives them with a count). To the device each is an access of its own. Afterwards RCX is 0, and
RSI or RDI points behind the last item, or before it when DF is set. Intel SDM Vol. 2A, INS; Vol. 1, 7.3.9.
"""

from __future__ import annotations

import pytest

from anyvisor.exits import Halted
from anyvisor.testing.bench import DATA
from anyvisor.testing.contracts.contract import Contract, MakeBench
from anyvisor.testing.requirements import needs
from anyvisor.testing.x86_64.entry import pushed
from anyvisor.testing.x86_64.guests import PORT, by_width, everywhere, in_every_mode
from anyvisor.x86_64.control import Rflags

PAGE_BYTES = 4096
SIZES = (1, 2, 4)
# fmt: off
REP_OUTS = {
    1: everywhere(
        bytes([0xF3, 0x6E,  # rep outsb
               0x51, 0x56,  # push xcx; push xsi
               0xF4])),     # hlt
    2: by_width(
        bytes([0xF3, 0x6F,  # rep outsw
               0x51, 0x56,  # push xcx; push xsi
               0xF4]),      # hlt
        bytes([0x66, 0xF3, 0x6F,  # rep outsw
               0x51, 0x56,        # push xcx; push xsi
               0xF4])),           # hlt
    4: by_width(
        bytes([0x66, 0xF3, 0x6F,  # rep outsd
               0x51, 0x56,        # push xcx; push xsi
               0xF4]),            # hlt
        bytes([0xF3, 0x6F,  # rep outsd
               0x51, 0x56,  # push xcx; push xsi
               0xF4])),     # hlt
}
REP_INS = {
    1: everywhere(
        bytes([0xF3, 0x6C,  # rep insb
               0x51, 0x57,  # push xcx; push xdi
               0xF4])),     # hlt
    2: by_width(
        bytes([0xF3, 0x6D,  # rep insw
               0x51, 0x57,  # push xcx; push xdi
               0xF4]),      # hlt
        bytes([0x66, 0xF3, 0x6D,  # rep insw
               0x51, 0x57,        # push xcx; push xdi
               0xF4])),           # hlt
    4: by_width(
        bytes([0x66, 0xF3, 0x6D,  # rep insd
               0x51, 0x57,        # push xcx; push xdi
               0xF4]),            # hlt
        bytes([0xF3, 0x6D,  # rep insd
               0x51, 0x57,  # push xcx; push xdi
               0xF4])),     # hlt
}
IN_AND_OUT = {
    1: everywhere(
        bytes([0x6E,              # outsb
               0x6C,              # insb
               0x51, 0x56, 0x57,  # push xcx; push xsi; push xdi
               0xF4])),           # hlt
    2: by_width(
        bytes([0x6F,              # outsw
               0x6D,              # insw
               0x51, 0x56, 0x57,  # push xcx; push xsi; push xdi
               0xF4]),            # hlt
        bytes([0x66, 0x6F,        # outsw
               0x66, 0x6D,        # insw
               0x51, 0x56, 0x57,  # push xcx; push xsi; push xdi
               0xF4])),           # hlt
    4: by_width(
        bytes([0x66, 0x6F,        # outsd
               0x66, 0x6D,        # insd
               0x51, 0x56, 0x57,  # push xcx; push xsi; push xdi
               0xF4]),            # hlt
        bytes([0x6F,              # outsd
               0x6D,              # insd
               0x51, 0x56, 0x57,  # push xcx; push xsi; push xdi
               0xF4])),           # hlt
}
# fmt: on

FORWARD, BACKWARD = Rflags(fixed=True), Rflags(fixed=True, df=True)
of_every_size = pytest.mark.parametrize("size", SIZES)
of_these_strings = pytest.mark.parametrize(
    ("start", "count", "flags"),
    [
        pytest.param(DATA, 0, FORWARD, id="none"),
        pytest.param(DATA, 1, FORWARD, id="one"),
        pytest.param(DATA, 5, FORWARD, id="five"),
        pytest.param(DATA + 5, 5, FORWARD, id="unaligned"),
        pytest.param(DATA + 0x40, 5, BACKWARD, id="backward"),
        pytest.param(DATA + PAGE_BYTES - 9, 12, FORWARD, id="across-a-page"),
        pytest.param(DATA + 3, 2500, FORWARD, id="pages"),
    ],
)


def values_of(size: int, count: int) -> list[int]:
    """That many different values, no byte of which is like its neighbours."""
    return [index * 0x9E3779B1 + 0x12345678 & (1 << 8 * size) - 1 for index in range(count)]


@needs(architecture="x86_64")
class StringIoContract(Contract):
    """String I/O: what the device sees, what lies in memory, and where the registers are left."""

    @in_every_mode
    @of_every_size
    @of_these_strings
    def test_rep_outs_writes_every_item(
        self, bench: MakeBench, mode: str, size: int, start: int, count: int, flags: Rflags
    ) -> None:
        """REP OUTS of n items is n writes to the port in the string's order, and RCX and RSI say so."""
        made, step = bench(), -size if flags.df else size
        values = values_of(size, count)
        for index, value in enumerate(values):
            made.memory.write(start + index * step, value.to_bytes(size, "little"))
        made.enter(REP_OUTS[size], mode, rcx=count, rsi=start, rdx=PORT, rflags=flags)
        assert made.run() == Halted()
        assert len(made.ports.writes) == count, f"REP OUTS of {count} items: the device must see each of them"
        assert made.ports.writes == [(0, size, value) for value in values]
        assert pushed(made, mode, 2) == [0, start + count * step], "RCX and RSI afterwards"

    @in_every_mode
    @of_every_size
    @of_these_strings
    def test_rep_ins_reads_every_item(
        self, bench: MakeBench, mode: str, size: int, start: int, count: int, flags: Rflags
    ) -> None:
        """REP INS of n items is n reads of the port, memory has the answers in their order, and nothing around them."""
        made, step = bench(), -size if flags.df else size
        values = values_of(size, count)
        made.ports.answers.extend(values)
        made.enter(REP_INS[size], mode, rcx=count, rdi=start, rdx=PORT, rflags=flags)
        assert made.run() == Halted()
        assert len(made.ports.reads) == count, f"REP INS of {count} items: the device must be asked for each of them"
        assert made.ports.reads == [(0, size)] * count
        items = [made.memory.read(start + index * step, size) for index in range(count)]
        assert items == [value.to_bytes(size, "little") for value in values], "what the guest has in memory"
        before, after = sorted((start - step, start + count * step))
        assert (made.memory.read(before, size), made.memory.read(after, size)) == (bytes(size), bytes(size))
        assert pushed(made, mode, 2) == [0, start + count * step], "RCX and RDI afterwards"

    @in_every_mode
    @of_every_size
    def test_ins_and_outs_without_rep_move_one_item(self, bench: MakeBench, mode: str, size: int) -> None:
        """Without a prefix RCX does not count: one access, and RSI or RDI moves by one item."""
        made = bench()
        value, answer = values_of(size, 2)
        made.memory.write(DATA, value.to_bytes(size, "little"))
        made.ports.answers.append(answer)
        made.enter(IN_AND_OUT[size], mode, rcx=7, rsi=DATA, rdi=DATA + 0x100, rdx=PORT)
        assert made.run() == Halted()
        assert (made.ports.writes, made.ports.reads) == ([(0, size, value)], [(0, size)])
        assert made.memory.read(DATA + 0x100, 2 * size) == answer.to_bytes(size, "little") + bytes(size)
        assert pushed(made, mode, 3) == [7, DATA + size, DATA + 0x100 + size], "RCX, RSI and RDI afterwards"
