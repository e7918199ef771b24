"""MMIO: loads and stores where there is no RAM, of every size, by every kind of instruction.

Some facts about 8 bytes. Most hypervisors hand over a store of 64 bits as it is; some split it into two of 32, the
lower first, as a bus of 32 bits would. Either is right here; a device that must have them whole is told by its manual.
"""

from __future__ import annotations

from collections.abc import Sequence

import attrs

from anyvisor.acts import Halt, MmioRead, MmioWrite, PortIn, PortOut, Store
from anyvisor.exits import Halted
from anyvisor.testing.bench import DATA, MMIO, RAM
from anyvisor.testing.contracts.contract import Contract, MakeBench
from anyvisor.testing.guest import TinyGuest
from anyvisor.testing.requirements import needs
from anyvisor.testing.x86_64.guests import PORT, by_mode, by_width, in_every_mode
from anyvisor.x86_64.modes import LONG

MMIO_START = MMIO.start

# fmt: off
READ_BYTE = by_mode(
    bytes([0xA0, 0x00, 0xD0,  # mov al, [MMIO_START]
           0xE6, 0x10,        # out PORT, al
           0xF4]),            # hlt
    bytes([0xA0, 0x00, 0xD0, 0x00, 0x00,  # mov al, [MMIO_START]
           0xE6, 0x10,                    # out PORT, al
           0xF4]),                        # hlt
    bytes([0xA0, 0x00, 0xD0, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00,  # movabs al, [MMIO_START]
           0xE6, 0x10,                                            # out PORT, al
           0xF4]),                                                # hlt
    MmioRead(MMIO_START, 1), PortOut(PORT, 1), Halt(), basic=True)

WRITE_BYTE = by_mode(
    bytes([0xE4, 0x10,        # in al, PORT
           0xA2, 0x01, 0xD0,  # mov [MMIO_START + 1], al
           0xF4]),            # hlt
    bytes([0xE4, 0x10,                    # in al, PORT
           0xA2, 0x01, 0xD0, 0x00, 0x00,  # mov [MMIO_START + 1], al
           0xF4]),                        # hlt
    bytes([0xE4, 0x10,                                            # in al, PORT
           0xA2, 0x01, 0xD0, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00,  # movabs [MMIO_START + 1], al
           0xF4]),                                                # hlt
    PortIn(PORT, 1), MmioWrite(MMIO_START + 1, 1), Halt(), basic=True)

WRITE_WORDS = by_width(
    bytes([0x88, 0x05,                                      # mov [xdi], al
           0x89, 0x45, 0x02,                                # mov [xdi + 2], ax
           0x66, 0x89, 0x45, 0x04,                          # mov [xdi + 4], eax
           0xC6, 0x45, 0x08, 0x5A,                          # mov byte ptr [xdi + 8], 0x5A
           0xC7, 0x45, 0x0A, 0xBC, 0x9B,                    # mov word ptr [xdi + 10], 0x9BBC
           0x66, 0xC7, 0x45, 0x0C, 0xF0, 0xEF, 0xDE, 0x8D,  # mov dword ptr [xdi + 12], 0x8DDEEFF0
           0xF4]),                                          # hlt
    bytes([0x88, 0x07,                                # mov [xdi], al
           0x66, 0x89, 0x47, 0x02,                    # mov [xdi + 2], ax
           0x89, 0x47, 0x04,                          # mov [xdi + 4], eax
           0xC6, 0x47, 0x08, 0x5A,                    # mov byte ptr [xdi + 8], 0x5A
           0x66, 0xC7, 0x47, 0x0A, 0xBC, 0x9B,        # mov word ptr [xdi + 10], 0x9BBC
           0xC7, 0x47, 0x0C, 0xF0, 0xEF, 0xDE, 0x8D,  # mov dword ptr [xdi + 12], 0x8DDEEFF0
           0xF4]),                                    # hlt
    MmioWrite(MMIO_START, 1, 0x44), MmioWrite(MMIO_START + 2, 2, 0x3344), MmioWrite(MMIO_START + 4, 4, 0x91223344),
    MmioWrite(MMIO_START + 8, 1, 0x5A), MmioWrite(MMIO_START + 10, 2, 0x9BBC),
    MmioWrite(MMIO_START + 12, 4, 0x8DDEEFF0), Halt())

READ_WORDS = by_width(
    bytes([0x8A, 0x04,              # mov al, [xsi]
           0xAA,                    # stosb
           0x8B, 0x44, 0x02,        # mov ax, [xsi + 2]
           0xAB,                    # stosw
           0x66, 0x8B, 0x44, 0x04,  # mov eax, [xsi + 4]
           0x66, 0xAB,              # stosd
           0xF4]),                  # hlt
    bytes([0x8A, 0x06,              # mov al, [xsi]
           0xAA,                    # stosb
           0x66, 0x8B, 0x46, 0x02,  # mov ax, [xsi + 2]
           0x66, 0xAB,              # stosw
           0x8B, 0x46, 0x04,        # mov eax, [xsi + 4]
           0xAB,                    # stosd
           0xF4]))                  # hlt

EIGHT_BYTES = TinyGuest({
    LONG: bytes([0x48, 0x89, 0x07,        # mov [rdi], rax
                 0x48, 0x8B, 0x47, 0x08,  # mov rax, [rdi + 8]
                 0x48, 0x89, 0x06,        # mov [rsi], rax
                 0x8B, 0x07,              # mov eax, [rdi]
                 0x48, 0x89, 0x46, 0x08,  # mov [rsi + 8], rax
                 0x48, 0x63, 0x07,        # movsxd rax, dword ptr [rdi]
                 0x48, 0x89, 0x46, 0x10,  # mov [rsi + 16], rax
                 0x48, 0x0F, 0xBE, 0x07,  # movsx rax, byte ptr [rdi]
                 0x48, 0x89, 0x46, 0x18,  # mov [rsi + 24], rax
                 0xF4])})                 # hlt

TOUCH = by_width(
    bytes([0x88, 0x05,  # mov [xdi], al
           0x8A, 0x05,  # mov al, [xdi]
           0xE6, 0x10,  # out PORT, al
           0xF4]),      # hlt
    bytes([0x88, 0x07,  # mov [xdi], al
           0x8A, 0x07,  # mov al, [xdi]
           0xE6, 0x10,  # out PORT, al
           0xF4]))      # hlt

def reading(address: int) -> TinyGuest:
    """READ_WORDS, and what it does with RSI at that address."""
    does = (
        MmioRead(address, 1), Store(DATA, 1), MmioRead(address + 2, 2), Store(DATA + 1, 2),
        MmioRead(address + 4, 4), Store(DATA + 3, 4), Halt(),
    )  # fmt: skip
    return attrs.evolve(READ_WORDS, does=does)


def joined(accesses: Sequence[tuple[int, int, int]]) -> list[tuple[int, int, int]]:
    """Two accesses of 4 bytes side by side, the lower first, are one of 8."""
    found: list[tuple[int, int, int]] = []
    for offset, size, value in accesses:
        if found and (found[-1][0] + 4, found[-1][1], size) == (offset, 4, 4) and offset % 8 == 4:
            found[-1] = (offset - 4, 8, found[-1][2] | value << 32)
        else:
            found.append((offset, size, value))
    return found


@needs(architecture="x86_64")
class MmioContract(Contract):
    """What the bus sees of a load or store outside of RAM, and what the guest gets of it."""

    @in_every_mode
    def test_a_load_of_one_byte_is_read_from_the_device(self, bench: MakeBench, mode: str) -> None:
        """A load where there is no RAM is one read, at the address's offset in the device's range."""
        made = bench()
        made.mmio.answers.append(0xA5)
        made.enter(READ_BYTE, mode)
        assert made.run() == Halted()
        assert made.mmio.reads == [(0, 1)], f"unclaimed: {made.bus.unclaimed}"
        assert made.ports.values == [0xA5]

    @in_every_mode
    def test_a_store_of_one_byte_reaches_the_device(self, bench: MakeBench, mode: str) -> None:
        """A store where there is no RAM is one write."""
        made = bench()
        made.ports.answers.append(0xA5)
        made.enter(WRITE_BYTE, mode)
        assert made.run() == Halted()
        assert made.mmio.writes == [(1, 1, 0xA5)], f"unclaimed: {made.bus.unclaimed}"

    @in_every_mode
    def test_stores_of_all_sizes_reach_the_device(self, bench: MakeBench, mode: str) -> None:
        """A store of 1, 2 or 4 bytes, of a register or a number, is one write with a little-endian value."""
        made = bench()
        made.enter(WRITE_WORDS, mode, rdi=MMIO_START, rax=0x91223344)
        assert made.run() == Halted()
        written = [(offset, size, hex(value)) for offset, size, value in made.mmio.writes]
        assert written == [
            (0, 1, "0x44"), (2, 2, "0x3344"), (4, 4, "0x91223344"), (8, 1, "0x5a"), (10, 2, "0x9bbc"),
            (12, 4, "0x8ddeeff0"),
        ], "MMIO: (offset, size, value)"  # fmt: skip

    @in_every_mode
    def test_loads_of_all_sizes_reach_the_guest(self, bench: MakeBench, mode: str) -> None:
        """A load of 1, 2 or 4 bytes is one read; the guest has the value, little-endian and cut to its size."""
        made = bench()
        made.mmio.answers.extend([0x1A1, 0x7B2C3, 0x5D4E5F607])
        made.enter(reading(MMIO_START), mode, rsi=MMIO_START, rdi=DATA)
        assert made.run() == Halted()
        assert made.mmio.reads == [(0, 1), (2, 2), (4, 4)]
        assert made.memory.read(DATA, 8).hex() == "a1c3b207f6e5d400", "1, 2 and 4 bytes as the guest has them"

    def test_loads_and_stores_of_8_bytes(self, bench: MakeBench) -> None:
        """In long mode 8 bytes go to the device at once, or as two times 4, the lower first; EAX clears RAX above."""
        made = bench()
        made.enter(EIGHT_BYTES, LONG, rdi=MMIO_START, rsi=DATA, rax=0x91223344_85667788)
        whole, low, high = 0xFEDCBA98_87654321, 0x87654321, 0xFEDCBA98
        rest = [0xD4E5F607, 0xD4E5F607, 0x80]

        def answer() -> None:
            """Called for each access: prepares what is read next."""
            if made.mmio.reads == [(8, 8)]:
                made.mmio.answers.extend([whole, *rest])
            elif made.mmio.reads == [(8, 4)]:
                made.mmio.answers.extend([low, high, *rest])

        made.mmio.then = answer
        assert made.run() == Halted()
        assert joined(made.mmio.writes) == [(0, 8, 0x91223344_85667788)]
        stored = [int.from_bytes(made.memory.read(DATA + at, 8), "little") for at in range(0, 32, 8)]
        assert [hex(each) for each in stored] == [
            hex(whole), "0xd4e5f607", "0xffffffffd4e5f607", "0xffffffffffffff80"
        ], "a load of 8 bytes, one to EAX, MOVSXD and MOVSX to RAX"  # fmt: skip

    @in_every_mode
    def test_offsets_are_exact_to_the_ends_of_a_range(self, bench: MakeBench, mode: str) -> None:
        """The first and the last byte of a device's range are its own; the next is not."""
        made = bench()
        made.mmio.answers.extend([0x12, 0x13])
        last = MMIO.size_bytes - 1
        for address in (MMIO.start, MMIO.start + last):
            made.enter(TOUCH, mode, rdi=address, rax=0x77)
            assert made.run() == Halted()
        assert made.mmio.writes == [(0, 1, 0x77), (last, 1, 0x77)]
        assert made.mmio.reads == [(0, 1), (last, 1)]
        assert made.ports.values == [0x12, 0x13]
        assert made.bus.unclaimed == {}

    @in_every_mode
    def test_where_ram_ends_mmio_begins(self, bench: MakeBench, mode: str) -> None:
        """The last byte of RAM is memory; the one behind it is nobody's: writes are swallowed, reads give ones."""
        made = bench()
        made.enter(TOUCH, mode, rdi=RAM.end - 1, rax=0x77)
        assert made.run() == Halted()
        assert made.memory.read(RAM.end - 1, 1) == b"\x77"
        made.enter(TOUCH, mode, rdi=RAM.end, rax=0x77)
        assert made.run() == Halted()
        assert made.ports.values == [0x77, 0xFF], "read back at the end of RAM, and behind it"
        assert made.bus.unclaimed == {("mmio", RAM.end): 2}

    @in_every_mode
    def test_addresses_that_nobody_claims_read_as_ones(self, bench: MakeBench, mode: str) -> None:
        """In every size."""
        made = bench()
        made.enter(reading(MMIO.end), mode, rsi=MMIO.end, rdi=DATA)
        assert made.run() == Halted()
        assert made.memory.read(DATA, 8).hex() == "ff" * 7 + "00"
        assert made.bus.unclaimed == {("mmio", MMIO.end + at): 1 for at in (0, 2, 4)}
