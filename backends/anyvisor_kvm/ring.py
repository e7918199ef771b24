"""Coalesced I/O: guest writes that KVM gathers in a ring instead of leaving the guest for each.

Some facts about the ring. It is one page per VM, mapped behind every vCPU's run page, so two threads may find it full
of the same writes: a lock makes one of them deliver all, and the other wait, since its own exit came after. KVM moves
`last`, we move `first`; when the ring is full, the next write exits as any other does. The order of the ring is the
order of the guest's writes, and all of it is older than the exit that is about to be handled.
"""

from __future__ import annotations

import ctypes
import struct
import threading

from anyvisor.bus import Bus
from anyvisor_kvm.abi import kvm_coalesced_mmio, kvm_coalesced_mmio_ring
from anyvisor_kvm.odd_io import MASKS, write_parts
from anyvisor_kvm.run_page import PAGE_BYTES, RunPage

ENTRY = struct.Struct("<QIIQ")
"""kvm_coalesced_mmio: address, size, whether it is a port, data."""
HEADER_BYTES = ctypes.sizeof(kvm_coalesced_mmio_ring)
ENTRIES = (PAGE_BYTES - HEADER_BYTES) // ctypes.sizeof(kvm_coalesced_mmio)


class CoalescedRing:
    """The ring of one VM, `page_number` pages into each run mapping."""

    def __init__(self, page_number: int):
        self.active = False
        """Whether the VM has any zone; nobody looks at the ring before."""
        self._start = page_number * PAGE_BYTES
        self._lock = threading.RLock()

    def drain(self, page: RunPage, bus: Bus) -> None:
        """Deliver the gathered writes to the bus, in the guest's order."""
        first = self._start // 4
        with self._lock:
            while (at := page.u32[first]) != page.u32[first + 1]:
                offset = self._start + HEADER_BYTES + (at % ENTRIES) * ENTRY.size
                address, size, is_port, data = ENTRY.unpack_from(page.u8, offset)
                page.u32[first] = (at + 1) % ENTRIES
                write = bus.write_port if is_port else bus.write_mmio
                if MASKS[size]:
                    write(address, size, data & MASKS[size])
                else:
                    write_parts(write, address, size, data)
