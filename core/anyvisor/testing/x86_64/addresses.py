"""Physical addresses above 2 and 4 GiB: they reach the bus and the RAM as they are, no bit lost and none added."""

from __future__ import annotations

import attrs
import pytest

from anyvisor.acts import Halt, MmioRead, MmioWrite, PortOut
from anyvisor.exits import Halted
from anyvisor.memory import PAGE_BYTES, Region
from anyvisor.testing.bench import DATA, RAM
from anyvisor.testing.contracts.contract import Contract, MakeBench
from anyvisor.testing.guest import TinyGuest
from anyvisor.testing.listener import Listener
from anyvisor.testing.requirements import needs
from anyvisor.testing.x86_64.entry import map_gib
from anyvisor.testing.x86_64.guests import PORT
from anyvisor.x86_64.modes import LONG, PROTECTED

GIB_BITS = 30
DIRECTORY = 0x6000
"""Where the page directory of the GiB with the address lies in RAM."""

# fmt: off
TOUCH = TinyGuest({
    PROTECTED: bytes([0x88, 0x07,        # mov [xdi], al
                      0x8A, 0x47, 0x02,  # mov al, [xdi + 2]
                      0xE6, 0x10,        # out PORT, al
                      0xF4]),            # hlt
    LONG: bytes([0x88, 0x07,        # mov [xdi], al
                 0x8A, 0x47, 0x02,  # mov al, [xdi + 2]
                 0xE6, 0x10,        # out PORT, al
                 0xF4])})           # hlt
# fmt: on
ABOVE_2_GIB = (
    pytest.param(PROTECTED, 0x8000_1000, id="protected-2-GiB"),
    pytest.param(PROTECTED, 0xFEC0_0000, id="protected-I/O-APIC"),
    pytest.param(LONG, 0x8000_1000, id="long-2-GiB"),
    pytest.param(LONG, 0xFEC0_0000, id="long-I/O-APIC"),
)
ABOVE_4_GIB = (
    pytest.param(LONG, 0x1_0000_4000, id="long-4-GiB"),
    pytest.param(LONG, 0x3_8000_1000, id="long-14-GiB"),
)
needs_address_bits = needs(address_bits=34)


def touching(address: int) -> TinyGuest:
    """The guest, and what it does at that address."""
    return attrs.evolve(TOUCH, does=(MmioWrite(address, 1, 0x77), MmioRead(address + 2, 1), PortOut(PORT, 1), Halt()))


@needs(architecture="x86_64")
class HighAddressesContract(Contract):
    """Device and memory where an address has its 31st bit set, or more than 32."""

    @pytest.mark.parametrize(("mode", "address"), ABOVE_2_GIB)
    def test_mmio_above_2_gib_is_at_its_address(self, bench: MakeBench, mode: str, address: int) -> None:
        """An address with bit 31 set is not taken for a negative number."""
        self.touch_mmio(bench, mode, address)

    @needs_address_bits
    @pytest.mark.parametrize(("mode", "address"), ABOVE_4_GIB)
    def test_mmio_above_4_gib_is_at_its_address(self, bench: MakeBench, mode: str, address: int) -> None:
        """An address of more than 32 bits is not cut."""
        self.touch_mmio(bench, mode, address)

    def touch_mmio(self, bench: MakeBench, mode: str, address: int) -> None:
        """A device at `address` is written and read by the guest."""
        made = bench()
        device = Listener([0x5A])
        made.bus.add_mmio(Region(address, PAGE_BYTES, "high"), device)
        made.enter(touching(address), mode, rdi=address, rax=0x77)
        map_gib(made, address >> GIB_BITS, DIRECTORY)
        assert made.run() == Halted()
        came_as = [hex(where) for _, where in made.bus.unclaimed]
        assert came_as == [], f"an access to {address:#x} reached the bus at another address"
        assert (device.writes, device.reads) == ([(0, 1, 0x77)], [(2, 1)])
        assert made.ports.values == [0x5A]

    @needs(memory_slots=2)
    @pytest.mark.parametrize(("mode", "address"), ABOVE_2_GIB)
    def test_ram_above_2_gib_is_at_its_address(self, bench: MakeBench, mode: str, address: int) -> None:
        """A region of RAM above 2 GiB is what guest and host see there."""
        self.touch_ram(bench, mode, address)

    @needs_address_bits
    @needs(memory_slots=2)
    @pytest.mark.parametrize(("mode", "address"), ABOVE_4_GIB)
    def test_ram_above_4_gib_is_at_its_address(self, bench: MakeBench, mode: str, address: int) -> None:
        """A region of RAM above 4 GiB is what guest and host see there, and is not another name of what is below."""
        self.touch_ram(bench, mode, address)

    def touch_ram(self, bench: MakeBench, mode: str, address: int) -> None:
        """RAM at `address` is written and read by the guest."""
        bench().enter(touching(address), mode)  # skips the test where such a guest cannot be, before there is that RAM
        made = bench(ram=(RAM, Region(address, PAGE_BYTES, "high")))
        made.memory.write(address + 2, b"\x5a")
        made.enter(touching(address), mode, rdi=address, rax=0x77)
        map_gib(made, address >> GIB_BITS, DIRECTORY)
        assert made.run() == Halted()
        assert made.bus.unclaimed == {}, f"{address:#x} is RAM, and came as MMIO"
        assert made.memory.read(address, 1) == b"\x77", "the guest's store"
        assert made.ports.values == [0x5A], "what the host wrote"
        assert made.memory.read(DATA, 1) == b"\0", f"the store to {address:#x} must not reach {DATA:#x}, too"
