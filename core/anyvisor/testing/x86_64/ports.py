"""IN and OUT: every size, by immediate and by DX, with the bytes in the processor's order."""

from __future__ import annotations

from anyvisor.acts import Halt, PortIn, PortOut, Store
from anyvisor.bus import Bus
from anyvisor.exits import Halted
from anyvisor.memory import Region
from anyvisor.testing.bench import DATA
from anyvisor.testing.contracts.contract import Contract, MakeBench
from anyvisor.testing.listener import Listener
from anyvisor.testing.requirements import needs
from anyvisor.testing.x86_64.guests import OTHER_PORT, PORT, by_mode, by_width, everywhere, in_every_mode

HIGH_PORT = 0xE9F8
ROUNDS = 300

# fmt: off
WRITE_BYTES = everywhere(
    bytes([0xB0, 0x11,  # mov al, 0x11
           0xE6, 0x10,  # out PORT, al
           0xB0, 0x92,  # mov al, 0x92
           0xE6, 0x30,  # out OTHER_PORT, al
           0xE6, 0x17,  # out PORT + 7, al
           0xB0, 0x33,  # mov al, 0x33
           0xE6, 0x30,  # out OTHER_PORT, al
           0xE6, 0x10,  # out PORT, al
           0xF4]),      # hlt
    PortOut(PORT, 1, 0x11), PortOut(OTHER_PORT, 1, 0x92), PortOut(PORT + 7, 1, 0x92), PortOut(OTHER_PORT, 1, 0x33),
    PortOut(PORT, 1, 0x33), Halt(), basic=True)

WRITE_WORDS = by_width(
    bytes([0xB8, 0x22, 0x33,                    # mov ax, 0x3322
           0xE7, 0x10,                          # out PORT, ax
           0x66, 0xB8, 0x44, 0x55, 0x66, 0x77,  # mov eax, 0x77665544
           0x66, 0xE7, 0x10,                    # out PORT, eax
           0xBA, 0x11, 0x00,                    # mov dx, PORT + 1
           0xEE,                                # out dx, al
           0xEF,                                # out dx, ax
           0x66, 0xEF,                          # out dx, eax
           0xF4]),                              # hlt
    bytes([0x66, 0xB8, 0x22, 0x33,        # mov ax, 0x3322
           0x66, 0xE7, 0x10,              # out PORT, ax
           0xB8, 0x44, 0x55, 0x66, 0x77,  # mov eax, 0x77665544
           0xE7, 0x10,                    # out PORT, eax
           0x66, 0xBA, 0x11, 0x00,        # mov dx, PORT + 1
           0xEE,                          # out dx, al
           0x66, 0xEF,                    # out dx, ax
           0xEF,                          # out dx, eax
           0xF4]),                        # hlt
    PortOut(PORT, 2, 0x3322), PortOut(PORT, 4, 0x77665544), PortOut(PORT + 1, 1, 0x44), PortOut(PORT + 1, 2, 0x5544),
    PortOut(PORT + 1, 4, 0x77665544), Halt())

READ_WORDS = by_width(
    bytes([0xE4, 0x10,        # in al, PORT
           0xAA,              # stosb
           0xE5, 0x10,        # in ax, PORT
           0xAB,              # stosw
           0x66, 0xE5, 0x10,  # in eax, PORT
           0x66, 0xAB,        # stosd
           0xBA, 0x11, 0x00,  # mov dx, PORT + 1
           0xEC,              # in al, dx
           0xAA,              # stosb
           0xED,              # in ax, dx
           0xAB,              # stosw
           0x66, 0xED,        # in eax, dx
           0x66, 0xAB,        # stosd
           0xF4]),            # hlt
    bytes([0xE4, 0x10,              # in al, PORT
           0xAA,                    # stosb
           0x66, 0xE5, 0x10,        # in ax, PORT
           0x66, 0xAB,              # stosw
           0xE5, 0x10,              # in eax, PORT
           0xAB,                    # stosd
           0x66, 0xBA, 0x11, 0x00,  # mov dx, PORT + 1
           0xEC,                    # in al, dx
           0xAA,                    # stosb
           0x66, 0xED,              # in ax, dx
           0x66, 0xAB,              # stosw
           0xED,                    # in eax, dx
           0xAB,                    # stosd
           0xF4]),                  # hlt
    PortIn(PORT, 1), Store(DATA, 1), PortIn(PORT, 2), Store(DATA + 1, 2), PortIn(PORT, 4), Store(DATA + 3, 4),
    PortIn(PORT + 1, 1), Store(DATA + 7, 1), PortIn(PORT + 1, 2), Store(DATA + 8, 2), PortIn(PORT + 1, 4),
    Store(DATA + 10, 4), Halt())

READ_PARTS = by_mode(
    bytes([0xE4, 0x10,  # in al, PORT
           0x66, 0xAB,  # stosd
           0xE5, 0x10,  # in ax, PORT
           0x66, 0xAB,  # stosd
           0xF4]),      # hlt
    bytes([0xE4, 0x10,        # in al, PORT
           0xAB,              # stosd
           0x66, 0xE5, 0x10,  # in ax, PORT
           0xAB,              # stosd
           0xF4]),            # hlt
    bytes([0xE4, 0x10,        # in al, PORT
           0x48, 0xAB,        # stosq
           0x66, 0xE5, 0x10,  # in ax, PORT
           0x48, 0xAB,        # stosq
           0xE5, 0x10,        # in eax, PORT
           0x48, 0xAB,        # stosq
           0xF4]))            # hlt

HIGH_PORTS = by_width(
    bytes([0xBA, 0xF8, 0xE9,  # mov dx, HIGH_PORT
           0xEE,              # out dx, al
           0xEC,              # in al, dx
           0xE6, 0x10,        # out PORT, al
           0xF4]),            # hlt
    bytes([0x66, 0xBA, 0xF8, 0xE9,  # mov dx, HIGH_PORT
           0xEE,                    # out dx, al
           0xEC,                    # in al, dx
           0xE6, 0x10,              # out PORT, al
           0xF4]),                  # hlt
    PortOut(HIGH_PORT, 1, 0x5A), PortIn(HIGH_PORT, 1), PortOut(PORT, 1), Halt())

ECHO_LOOP = everywhere(
    bytes([0xE4, 0x10,  # again: in al, PORT
           0xE6, 0x30,  # out OTHER_PORT, al
           0xE2, 0xFA,  # loop again
           0xF4]),      # hlt
    *(PortIn(PORT, 1), PortOut(OTHER_PORT, 1)) * ROUNDS, Halt())
# fmt: on


@needs(architecture="x86_64")
class PortsContract(Contract):
    """What IN and OUT make of a device's values, and a device of theirs."""

    @in_every_mode
    def test_out_of_one_byte_reaches_the_device_at_its_port(self, bench: MakeBench, mode: str) -> None:
        """Each OUT is one write, in the guest's order, with the port's offset in the device's range."""
        made = bench()
        order: list[str] = []
        made.ports.then = lambda: order.append("ports")
        made.others.then = lambda: order.append("others")
        made.enter(WRITE_BYTES, mode)
        assert made.run() == Halted()
        assert made.ports.writes == [(0, 1, 0x11), (7, 1, 0x92), (0, 1, 0x33)]
        assert made.others.writes == [(0, 1, 0x92), (0, 1, 0x33)]
        assert order == ["ports", "others", "ports", "others", "ports"], "accesses must come in the guest's order"

    @in_every_mode
    def test_out_of_2_and_4_bytes_is_one_little_endian_value(self, bench: MakeBench, mode: str) -> None:
        """OUT of 2 or 4 bytes is one write of that size, whose lowest byte is AL; a port above is no other device's."""
        made = bench()
        made.enter(WRITE_WORDS, mode)
        assert made.run() == Halted()
        assert [(offset, size) for offset, size, _ in made.ports.writes] == [(0, 2), (0, 4), (1, 1), (1, 2), (1, 4)]
        assert list(map(hex, made.ports.values)) == ["0x3322", "0x77665544", "0x44", "0x5544", "0x77665544"], (
            "values of OUT must be little-endian: the lowest byte is that of AL"
        )

    @in_every_mode
    def test_in_gives_the_guest_what_the_device_answers(self, bench: MakeBench, mode: str) -> None:
        """IN of one byte: one read, and the guest has the answer."""
        made = bench()
        made.ports.answers.extend([0x5A, 0xA5])
        for value in (0x5A, 0xA5):
            made.enter(made.guests.STORE, mode)
            assert made.run() == Halted()
            assert made.memory.read(DATA, 1)[0] == value
        assert made.ports.reads == [(0, 1), (0, 1)]

    @in_every_mode
    def test_in_of_2_and_4_bytes_is_one_little_endian_value(self, bench: MakeBench, mode: str) -> None:
        """IN of 2 or 4 bytes is one read of that size, and the value's lowest byte comes to AL."""
        made = bench()
        made.ports.answers.extend([0xA1, 0xB2C3, 0x12345678, 0xE4, 0xF50B, 0x9ABCDEF0])
        made.enter(READ_WORDS, mode, rdi=DATA)
        assert made.run() == Halted()
        assert made.ports.reads == [(0, 1), (0, 2), (0, 4), (1, 1), (1, 2), (1, 4)]
        expected = "a1 c3b2 78563412 e4 0bf5 f0debc9a"
        assert made.memory.read(DATA, 14).hex() == expected.replace(" ", ""), (
            "IN of 1, 2 and 4 bytes, as the guest stored them: values must be little-endian"
        )

    @in_every_mode
    def test_a_device_that_answers_too_much_is_cut_to_size(self, bench: MakeBench, mode: str) -> None:
        """An answer is cut to the access's size, and nothing fails; a negative one has all its high bits set."""
        made = bench()
        made.ports.answers.extend([0x1FF, -1, 1 << 70 | 0x12345678, -2, 0x1F50B, 1 << 32])
        made.enter(READ_WORDS, mode, rdi=DATA)
        assert made.run() == Halted()
        assert made.memory.read(DATA, 14).hex() == "ffffff78563412fe0bf500000000"

    @in_every_mode
    def test_in_changes_no_more_of_rax_than_its_size(self, bench: MakeBench, mode: str) -> None:
        """IN to AL and AX leave the rest of RAX; IN to EAX clears the high half of RAX in long mode."""
        made = bench()
        made.ports.answers.extend([0xA1, 0xB2C3, 0x12345678])
        made.enter(READ_PARTS, mode, rdi=DATA, rax=0x1111_2222_3333_4444)
        assert made.run() == Halted()
        size = 8 if mode == "long" else 4
        stored = [int.from_bytes(made.memory.read(DATA + i * size, size), "little") for i in range(3)]
        mask = (1 << 8 * size) - 1
        assert stored[0] == 0x1111_2222_3333_44A1 & mask, f"IN to AL left RAX at {stored[0]:#x}"
        assert stored[1] == 0x1111_2222_3333_B2C3 & mask, f"IN to AX left RAX at {stored[1]:#x}"
        if mode == "long":
            assert stored[2] == 0x12345678, f"IN to EAX must clear the high half of RAX, and left {stored[2]:#x}"

    @in_every_mode
    def test_a_port_has_16_bits(self, bench: MakeBench, mode: str) -> None:
        """A port in DX reaches the device whole, also above 0xFF."""
        made = bench()
        high = Listener([0xA5])
        made.bus.add_ports(Region(HIGH_PORT, 1, "high"), high)
        made.enter(HIGH_PORTS, mode, rax=0x5A)
        assert made.run() == Halted()
        assert (high.writes, high.reads) == ([(0, 1, 0x5A)], [(0, 1)]), f"port {HIGH_PORT:#x}; {made.bus.unclaimed}"
        assert made.ports.values == [0xA5]

    @in_every_mode
    def test_a_port_that_nobody_claims_reads_as_ones(self, bench: MakeBench, mode: str) -> None:
        """A read that no device answers gives all ones, one byte wide."""
        made = bench()
        made.bus = Bus()
        made.enter(made.guests.STORE, mode)
        assert made.run() == Halted()
        assert made.memory.read(DATA, 1) == b"\xff"
        assert made.bus.unclaimed == {("port", PORT): 1}

    @in_every_mode
    def test_ports_that_nobody_claims_read_as_ones_in_all_sizes(self, bench: MakeBench, mode: str) -> None:
        """So do reads of 2 and 4 bytes."""
        made = bench()
        made.bus = Bus()
        made.enter(READ_WORDS, mode, rdi=DATA)
        assert made.run() == Halted()
        assert made.memory.read(DATA, 15).hex() == "ff" * 14 + "00"

    @in_every_mode
    def test_many_accesses_lose_none_and_keep_their_order(self, bench: MakeBench, mode: str) -> None:
        """A loop of 300 INs and OUTs makes 300 reads and as many writes, each of what was read before it."""
        made = bench()
        values = [index * 7 & 0xFF for index in range(ROUNDS)]
        made.ports.answers.extend(values)
        made.enter(ECHO_LOOP, mode, rcx=ROUNDS)
        assert made.run() == Halted()
        assert len(made.ports.reads) == ROUNDS
        assert made.others.values == values
