"""What the run loop remembers of port accesses."""

from anyvisor.bus import Bus
from anyvisor_kvm.port_io import KNOWN, port_access
from anyvisor_kvm.run_page import IO, PAGE_BYTES, UNION, UNION_U64


class Page:
    """A run page in plain memory."""

    def __init__(self):
        self.u8 = memoryview(bytearray(2 * PAGE_BYTES))
        self.u16, self.u32, self.u64 = (self.u8.cast(code) for code in "HIQ")

    def asks(self, direction, size_bytes, port):
        IO.pack_into(self.u8, UNION, direction, size_bytes, port, 1, PAGE_BYTES)


def test_a_guest_that_makes_every_access_there_is_fills_no_memory():
    page, bus, known = Page(), Bus(), {}
    for port in range(0x10000):
        page.asks(1, 1, port)
        found = port_access(page, bus, known)
        assert found[-1] == port
        assert known[page.u64[UNION_U64]] is found
    assert len(known) <= KNOWN
