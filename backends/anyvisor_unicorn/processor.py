"""The processor's state as the code that delivers events sees it: registers by name, guest memory by linear address."""

from __future__ import annotations

from unicorn import x86_const as x86

from anyvisor.memory import RamRegion
from anyvisor.x86_64.control import ApicBase
from anyvisor_unicorn import layout
from anyvisor_unicorn.engine import Engine


class Processor:
    """An engine's saved state as 32- and 64-bit words (see `layout`), and the guest's RAM.

    `engine.save()` brings the state in, `engine.restore()` makes what was changed the processor's own.
    """

    def __init__(self, engine: Engine):
        self.engine = engine
        self.u64 = engine.state.cast("Q")
        self.u32 = engine.state.cast("I")
        self.ram = PhysicalMemory()
        self.apic_base = ApicBase(0)
        """What the host was told; the engine has no local APIC, and its guest reads zero."""
        self.put_flags: dict[str, int] = {}
        """The flags of CS and TR as they were put, and not loaded by the guest."""

    def rflags(self) -> int:
        """RFLAGS with all its bits, as it is in the engine now."""
        return self.engine.read(x86.UC_X86_REG_RFLAGS)

    @property
    def privilege(self) -> int:
        """The current privilege level."""
        return self.u32[layout.HFLAGS] & layout.H_CPL

    def base(self, segment: int) -> int:
        """A segment's or table's base."""
        return self.u64[layout.base_word(segment)]

    def limit(self, segment: int) -> int:
        """A segment's or table's limit in bytes."""
        return self.u32[layout.limit_word(segment)]

    def selector(self, segment: int) -> int:
        """A segment's selector."""
        return self.u32[layout.selector_word(segment)] & 0xFFFF

    def flags(self, segment: int) -> int:
        """A segment's flags: the high half of its descriptor."""
        return self.u32[layout.flags_word(segment)]

    def set_segment(self, segment: int, selector: int, base: int, limit: int, flags: int) -> None:
        """Load a segment register, its hidden part included; the caller sees to `hflags`."""
        self.u32[layout.selector_word(segment)] = selector
        self.u64[layout.base_word(segment)] = base
        self.u32[layout.limit_word(segment)] = limit
        self.u32[layout.flags_word(segment)] = flags

    def close(self) -> None:
        """Let go of the state and of the guest's RAM."""
        self.ram.close()
        self.u64.release()
        self.u32.release()


class PhysicalMemory:
    """Guest RAM by guest-physical address; LookupError outside of it."""

    def __init__(self) -> None:
        self._regions: list[tuple[int, int, memoryview, memoryview]] = []
        self._rams: list[RamRegion] = []
        self._writes: list[int | None] | None = None

    def add(self, ram: RamRegion) -> None:
        """Let a region be seen."""
        region = ram.region
        self._regions.append((region.start, region.end, ram.data[:], ram.data.cast("Q")))
        self._rams.append(ram)

    def host_wrote(self) -> bool:
        """Whether the host may have written to it since the last call, as before the first."""
        before, self._writes = self._writes, [ram.host_writes for ram in self._rams]
        return None in self._writes or self._writes != before

    def read_u64(self, address: int) -> int:
        """The aligned 64-bit word at `address`."""
        for start, end, _, words in self._regions:
            if start <= address < end:
                return words[address - start >> 3]
        raise LookupError(f"no RAM at {address:#x}")

    def write_u64(self, address: int, value: int) -> None:
        """Set the aligned 64-bit word at `address`."""
        for start, end, _, words in self._regions:
            if start <= address < end:
                words[address - start >> 3] = value
                return
        raise LookupError(f"no RAM at {address:#x}")

    def window(self, address: int, size_bytes: int) -> memoryview:
        """A window on `size_bytes` bytes within one page."""
        for start, end, data, _ in self._regions:
            if start <= address < end:
                return data[address - start : address - start + size_bytes]
        raise LookupError(f"no RAM at {address:#x}")

    def close(self) -> None:
        """Let go of every region."""
        self._rams.clear()
        while self._regions:
            for view in self._regions.pop()[2:]:
                view.release()
