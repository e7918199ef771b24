"""The rarer kinds of I/O: strings (INS, OUTS), and MMIO of 3, 5, 6 or 7 bytes.

Some facts about them. A string instruction with a REP prefix may come as one exit with a count: all its items lie one
after the other in the run mapping. And an access that crosses a page comes as two pieces of any size; devices only
know 1, 2, 4 and 8 bytes, so a piece of another size goes to them as aligned parts, as a memory bus would split it.

No slice of the run page is held while a device is called: if it raises, the traceback would keep the slice, and the
slice the mapping, for as long as somebody looks at the error.
"""

from __future__ import annotations

import errno

from anyvisor.bus import Bus, Write
from anyvisor.errors import HypervisorError
from anyvisor_kvm.abi import KVM_EXIT_IO_OUT
from anyvisor_kvm.run_page import IO, MMIO, MMIO_DATA_U64, UNION, RunPage

MASKS = tuple((1 << size * 8) - 1 if size in (1, 2, 4, 8) else 0 for size in range(9))
"""By size in bytes, the bits of an access; 0 for sizes that a device does not know."""


def string_io(page: RunPage, bus: Bus) -> None:
    """Answer a port exit of any count, with its data anywhere in the run mapping, item by item."""
    direction, size, port, count, offset = IO.unpack_from(page.u8, UNION)
    if offset + size * count > len(page.u8) or not MASKS[size]:
        items = f"{count} items of {size} bytes at {offset:#x}"
        detail = f"{items} do not lie in the run mapping of {len(page.u8):#x} bytes"
        raise HypervisorError("KVM_RUN", errno.EPROTO, detail)
    for start in range(offset, offset + size * count, size):
        item = slice(start, start + size)
        if direction == KVM_EXIT_IO_OUT:
            bus.write_port(port, size, int.from_bytes(page.u8[item], "little"))
        else:
            page.u8[item] = bus.read_port(port, size).to_bytes(size, "little")


def odd_mmio(page: RunPage, bus: Bus) -> None:
    """Answer an MMIO exit of a size that devices do not know, as aligned parts that they do."""
    address, data, size_bytes, is_write = MMIO.unpack_from(page.u8, UNION)
    if is_write:
        write_parts(bus.write_mmio, address, size_bytes, data)
        return
    answers = ((offset, bus.read_mmio(address + offset, size)) for offset, size in parts(address, size_bytes))
    page.u64[MMIO_DATA_U64] = sum(answer << offset * 8 for offset, answer in answers)


def write_parts(write: Write, address: int, size_bytes: int, data: int) -> None:
    """Hand a write of a size that devices do not know to the bus, as aligned parts that they do, lowest first."""
    for offset, size in parts(address, size_bytes):
        write(address + offset, size, data >> offset * 8 & MASKS[size])


def parts(address: int, size_bytes: int) -> list[tuple[int, int]]:
    """The aligned parts of 1, 2, 4 or 8 bytes that make up an access: their offsets in it and sizes."""
    found = []
    offset = 0
    while offset < size_bytes:
        left = size_bytes - offset
        size = next(size for size in (8, 4, 2, 1) if (address + offset) % size == 0 and size <= left)
        found.append((offset, size))
        offset += size
    return found
