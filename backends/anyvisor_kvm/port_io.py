"""Port accesses, worked out once each.

Some facts about why. A guest makes the same few accesses again and again: the serial port's data register, one byte
out; its status, one byte in. KVM describes an access in one 64-bit word (direction, size, port, count), so the run loop
looks that word up in a dictionary and has everything at hand: whom to call, and where the data lies. Unpacking the word
and asking the bus each time would cost twice as much (measured).
"""

from __future__ import annotations

from anyvisor.bus import Bus, Read, Write
from anyvisor_kvm.abi import KVM_EXIT_IO_OUT
from anyvisor_kvm.odd_io import MASKS
from anyvisor_kvm.run_page import IO, PAGE_BYTES, UNION, UNION_U64, RunPage

PortAccess = tuple[Write | None, Read, int, int, memoryview, int, int, int]
"""What to call with an OUT (None for an IN), what with an IN, the device's offset, the size in bytes, the run page in
words of that size, the data's index in it, the bits of an answer that count, and the port."""
KNOWN = 4096
"""How many accesses are remembered: a guest can make 400 000 different ones."""


def port_access(page: RunPage, bus: Bus, known: dict[int, PortAccess]) -> PortAccess | None:
    """The access in the run page, which is `known` then.

    None for a string, and for data that is not where KVM has always put it.
    """
    direction, size, port, count, data_offset = IO.unpack_from(page.u8, UNION)
    if count != 1 or data_offset != PAGE_BYTES or size not in (1, 2, 4):
        return None
    offset, read, write = bus.port(port)
    data = {1: page.u8, 2: page.u16, 4: page.u32}[size]
    writes = write if direction == KVM_EXIT_IO_OUT else None
    if len(known) >= KNOWN:
        known.clear()
    found = writes, read, offset, size, data, PAGE_BYTES // size, MASKS[size], port
    known[page.u64[UNION_U64]] = found
    return found
