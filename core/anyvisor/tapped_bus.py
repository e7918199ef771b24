"""A bus that notes every access in a flight recorder, for vCPUs that do not do so themselves.

Some facts about what is noted when. A write is noted before its device is called and a read when it was answered: who
looks at the recorder after a device failed finds the access that it failed at, last. A read whose device raised has no
value.
"""

from __future__ import annotations

from collections.abc import Sequence

from anyvisor.bus import ALL_ONES, Bus, Read, Write
from anyvisor.flight import IN, OUT, READ, WRITE, ExitRing
from anyvisor.front_bus import FrontBus
from anyvisor.hypervisor import Vcpu


def records_exits(vcpu: Vcpu, ring: ExitRing) -> bool:
    """Have `vcpu` note its accesses in `ring`; False where that is left to who calls `run`."""
    record_exits = getattr(vcpu, "record_exits", None)  # a backend that does not subclass `Vcpu` may be older than this
    return record_exits is not None and record_exits(ring)


def bus_noting(vcpu: Vcpu, bus: Bus, ring: ExitRing) -> Bus:
    """The bus to run `vcpu` on so that its accesses are noted in `ring`: `bus`, if the vCPU notes them itself."""
    return bus if records_exits(vcpu, ring) else TappedBus(bus, ring)


class TappedBus(FrontBus):
    """`inner`, with every access noted in `ring`. For one vCPU, since ports are remembered.

    A backend that has RIP in memory at each access says where: `words[rip_at]`.
    """

    def __init__(self, inner: Bus, ring: ExitRing, words: Sequence[int] | memoryview[int] = (0,), rip_at: int = 0):
        super().__init__(inner)
        self._note = ring.append
        self._words = words
        self._rip_at = rip_at

    def read_mmio(self, address: int, size_bytes: int) -> int:
        """What a load of `size_bytes` from guest-physical `address` gives."""
        try:
            value = self._inner.read_mmio(address, size_bytes)
        except BaseException:
            self._note((READ, address, size_bytes, None, self._words[self._rip_at]))
            raise
        self._note((READ, address, size_bytes, value, self._words[self._rip_at]))
        return value

    def write_mmio(self, address: int, size_bytes: int, value: int) -> None:
        """A store of `value` to guest-physical `address`."""
        self._note((WRITE, address, size_bytes, value, self._words[self._rip_at]))
        self._inner.write_mmio(address, size_bytes, value)

    def _port_read(self, port: int, read: Read) -> Read:
        note, words, rip_at = self._note, self._words, self._rip_at

        def noted(offset: int, size_bytes: int) -> int:
            try:
                value = read(offset, size_bytes) & ALL_ONES[size_bytes]
            except BaseException:
                note((IN, port, size_bytes, None, words[rip_at]))
                raise
            note((IN, port, size_bytes, value, words[rip_at]))
            return value

        return noted

    def _port_write(self, port: int, write: Write) -> Write:
        note, words, rip_at = self._note, self._words, self._rip_at

        def noted(offset: int, size_bytes: int, value: int) -> None:
            note((OUT, port, size_bytes, value, words[rip_at]))
            write(offset, size_bytes, value)

        return noted
