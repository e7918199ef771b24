"""MMIO by every kind of instruction: extending moves, strings, read-modify-write, and the flags they leave."""

from __future__ import annotations

from anyvisor.exits import Halted
from anyvisor.testing.bench import DATA, MMIO
from anyvisor.testing.contracts.contract import Contract, MakeBench
from anyvisor.testing.requirements import needs
from anyvisor.testing.x86_64.entry import pushed
from anyvisor.testing.x86_64.guests import by_width, everywhere, in_every_mode
from anyvisor.x86_64.control import Rflags

MMIO_START, COUNT = MMIO.start, 5

# fmt: off
EXTEND = by_width(
    bytes([0x66, 0x0F, 0xB6, 0x04,  # movzx eax, byte ptr [xsi]
           0x66, 0xAB,              # stosd
           0x66, 0x0F, 0xBE, 0x04,  # movsx eax, byte ptr [xsi]
           0x66, 0xAB,              # stosd
           0x66, 0x0F, 0xB7, 0x04,  # movzx eax, word ptr [xsi]
           0x66, 0xAB,              # stosd
           0x66, 0x0F, 0xBF, 0x04,  # movsx eax, word ptr [xsi]
           0x66, 0xAB,              # stosd
           0xF4]),                  # hlt
    bytes([0x0F, 0xB6, 0x06,  # movzx eax, byte ptr [xsi]
           0xAB,              # stosd
           0x0F, 0xBE, 0x06,  # movsx eax, byte ptr [xsi]
           0xAB,              # stosd
           0x0F, 0xB7, 0x06,  # movzx eax, word ptr [xsi]
           0xAB,              # stosd
           0x0F, 0xBF, 0x06,  # movsx eax, word ptr [xsi]
           0xAB,              # stosd
           0xF4]))            # hlt

REP_MOVSB = everywhere(
    bytes([0xF3, 0xA4,        # rep movsb
           0x51, 0x56, 0x57,  # push xcx; push xsi; push xdi
           0xF4]))            # hlt

REP_MOVSD = by_width(
    bytes([0x66, 0xF3, 0xA5,  # rep movsd
           0x51, 0x56, 0x57,  # push xcx; push xsi; push xdi
           0xF4]),            # hlt
    bytes([0xF3, 0xA5,        # rep movsd
           0x51, 0x56, 0x57,  # push xcx; push xsi; push xdi
           0xF4]))            # hlt

REP_STOSD = by_width(
    bytes([0x66, 0xF3, 0xAB,  # rep stosd
           0x51, 0x56, 0x57,  # push xcx; push xsi; push xdi
           0xF4]),            # hlt
    bytes([0xF3, 0xAB,        # rep stosd
           0x51, 0x56, 0x57,  # push xcx; push xsi; push xdi
           0xF4]))            # hlt

CHANGE = by_width(
    bytes([0x08, 0x05,        # or [xdi], al
           0x9C,              # pushf
           0x00, 0x45, 0x01,  # add [xdi + 1], al
           0x9C,              # pushf
           0x86, 0x45, 0x02,  # xchg [xdi + 2], al
           0x88, 0x45, 0x03,  # mov [xdi + 3], al
           0xF4]),            # hlt
    bytes([0x08, 0x07,        # or [xdi], al
           0x9C,              # pushf
           0x00, 0x47, 0x01,  # add [xdi + 1], al
           0x9C,              # pushf
           0x86, 0x47, 0x02,  # xchg [xdi + 2], al
           0x88, 0x47, 0x03,  # mov [xdi + 3], al
           0xF4]))            # hlt

KEEP_FLAGS = by_width(
    bytes([0x38, 0x04,        # cmp [xsi], al
           0x88, 0x25,        # mov [xdi], ah
           0x8A, 0x25,        # mov ah, [xdi]
           0x9C,              # pushf
           0x75, 0x03,        # jne over
           0x88, 0x45, 0x01,  # mov [xdi + 1], al
           0xF4]),            # over: hlt
    bytes([0x38, 0x06,        # cmp [xsi], al
           0x88, 0x27,        # mov [xdi], ah
           0x8A, 0x27,        # mov ah, [xdi]
           0x9C,              # pushf
           0x75, 0x03,        # jne over
           0x88, 0x47, 0x01,  # mov [xdi + 1], al
           0xF4]))            # over: hlt
# fmt: on


@needs(architecture="x86_64")
class MmioInstructionsContract(Contract):
    """What an instruction with an operand outside of RAM does to the device, and to the processor."""

    @in_every_mode
    def test_loads_are_extended_as_the_instruction_says(self, bench: MakeBench, mode: str) -> None:
        """MOVZX fills the register with zeros and MOVSX with the sign, from the size that was read."""
        made = bench()
        made.mmio.answers.extend([0x80, 0x80, 0x8001, 0x8001])
        made.enter(EXTEND, mode, rsi=MMIO_START, rdi=DATA, rax=0x55555555)
        assert made.run() == Halted()
        assert made.mmio.reads == [(0, 1), (0, 1), (0, 2), (0, 2)]
        stored = [made.memory.read(DATA + at, 4)[::-1].hex() for at in range(0, 16, 4)]
        assert stored == ["00000080", "ffffff80", "00008001", "ffff8001"]

    @in_every_mode
    def test_rep_movs_to_a_device_writes_every_item(self, bench: MakeBench, mode: str) -> None:
        """Each item of a string is a write of its own, at the next address."""
        made = bench()
        made.memory.write(DATA, bytes(range(1, 1 + COUNT)))
        made.enter(REP_MOVSB, mode, rcx=COUNT, rsi=DATA, rdi=MMIO_START + 3)
        assert made.run() == Halted()
        assert made.mmio.writes == [(3 + index, 1, 1 + index) for index in range(COUNT)]
        assert pushed(made, mode, 3) == [0, DATA + COUNT, MMIO_START + 3 + COUNT], "RCX, RSI and RDI afterwards"

    @in_every_mode
    def test_rep_movs_from_a_device_reads_every_item(self, bench: MakeBench, mode: str) -> None:
        """So is each item that is read."""
        made = bench()
        values = [0x80000001 + index for index in range(COUNT)]
        made.mmio.answers.extend(values)
        made.enter(REP_MOVSD, mode, rcx=COUNT, rsi=MMIO_START + 4, rdi=DATA)
        assert made.run() == Halted()
        assert made.mmio.reads == [(4 + 4 * index, 4) for index in range(COUNT)]
        stored = [int.from_bytes(made.memory.read(DATA + 4 * index, 4), "little") for index in range(COUNT + 1)]
        assert stored == [*values, 0]
        assert pushed(made, mode, 3) == [0, MMIO_START + 4 + 4 * COUNT, DATA + 4 * COUNT], "RCX, RSI and RDI afterwards"

    @in_every_mode
    def test_rep_stos_to_a_device_writes_every_item(self, bench: MakeBench, mode: str) -> None:
        """REP STOS writes RCX times, and moves RDI alone."""
        made = bench()
        made.enter(REP_STOSD, mode, rcx=COUNT, rsi=7, rdi=MMIO_START, rax=0x91223344)
        assert made.run() == Halted()
        assert made.mmio.writes == [(4 * index, 4, 0x91223344) for index in range(COUNT)]
        assert pushed(made, mode, 3) == [0, 7, MMIO_START + 4 * COUNT], "RCX, RSI and RDI afterwards"

    @in_every_mode
    def test_an_instruction_that_reads_and_writes_does_so_once(self, bench: MakeBench, mode: str) -> None:
        """OR, ADD and XCHG on a device's register are one read, then one write of the result; the flags are its."""
        made = bench()
        made.mmio.answers.extend([0x01, 0xF0, 0xC3])
        made.enter(CHANGE, mode, rdi=MMIO_START, rax=0x10)
        assert made.run() == Halted()
        assert made.mmio.reads == [(0, 1), (1, 1), (2, 1)]
        assert made.mmio.writes == [(0, 1, 0x11), (1, 1, 0x00), (2, 1, 0x10), (3, 1, 0xC3)], "OR, ADD, XCHG, its result"
        after_or, after_add = (Rflags(each) for each in pushed(made, mode, 2))
        assert (after_or.cf, after_or.zf) == (False, False), "flags of 0x01 | 0x10"
        assert (after_add.cf, after_add.zf) == (True, True), "flags of 0xF0 + 0x10"

    @in_every_mode
    def test_code_behind_an_access_has_the_right_flags(self, bench: MakeBench, mode: str) -> None:
        """CMP with a device's register sets the flags of what was read, and MMIO moves behind it keep them."""
        for answer, equal in ((0x55, True), (0x54, False)):
            made = bench()
            made.mmio.answers.extend([answer, 0x99])
            made.enter(KEEP_FLAGS, mode, rsi=MMIO_START + 8, rdi=MMIO_START, rax=0x2255)
            assert made.run() == Halted()
            flags = Rflags(pushed(made, mode, 1)[0])
            assert (flags.zf, flags.cf) == (equal, not equal), f"cmp of {answer:#x} with 0x55"
            assert made.mmio.reads == [(8, 1), (0, 1)]
            assert made.mmio.writes == [(0, 1, 0x22), (1, 1, 0x55)][: 1 + equal]
