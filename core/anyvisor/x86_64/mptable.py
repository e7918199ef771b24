"""The MP configuration table: how an OS without ACPI learns of processors and of the wiring of interrupts.

Some facts about the MP table (Intel MultiProcessor Specification 1.4, chapter 4). A 16-byte floating pointer,
`_MP_`, lies where an OS scans for it: the first KiB of the EBDA, the last KiB of base memory, or 0xF0000 to
0xFFFFF, 16-byte aligned. It points to the table, `PCMP`: a header of 44 bytes, then 20 bytes a processor and
8 bytes for anything else, sorted by kind. Both have a checksum that makes their bytes sum to 0. The table for
254 processors has 5348 bytes: more than the EBDA holds, so only the pointer lies there. An APIC id has eight
bits in it: machines with more processors need ACPI.

The interrupt wiring is the identity: pin n of the I/O APIC is interrupt n, the timer's 0 included, as KVM's
default routing has it (QEMU and real boards move the timer to pin 2). Pins 16 to 23 are no real ISA lines,
but a kernel gives no number to a pin that the table leaves out.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Sequence

import attrs

from anyvisor.config import Topology
from anyvisor.errors import PlanError
from anyvisor.memory import MIB, Region
from anyvisor.plan import Blob, FirmwareTables
from anyvisor.x86_64.checksum import check_sum, with_checksum
from anyvisor.x86_64.lapic import LAPIC_BASE
from anyvisor.x86_64.layout import LOW_RAM_END
from anyvisor.x86_64.mpentries import (
    BROADCAST,
    IOAPIC_PINS,
    Bus,
    Entry,
    InterruptFlags,
    InterruptKind,
    IoApic,
    IoInterrupt,
    LocalInterrupt,
    Processor,
    decode_entries,
    padded,
    stripped,
)
from anyvisor.x86_64.topology import apic_ids as ids_of

POINTER = struct.Struct("<4sIBBB5s")
"""Signature, table's address, length in units of 16 bytes, revision, checksum, features."""
HEADER = struct.Struct("<4sHBB8s12sIHHIHBB")
"""Signature, length, revision, checksum, OEM, product, OEM table's address and length, entry count, local
APIC address, extended length, extended checksum, reserved."""
POINTER_SIGNATURE, TABLE_SIGNATURE = b"_MP_", b"PCMP"
REVISION = 4
"""The specification's version 1.4."""
REVISIONS = (1, REVISION)
POINTER_CHECKSUM, TABLE_CHECKSUM = 10, 7
"""Offsets of the checksum bytes."""
MAX_PROCESSORS = 254
WAY_OUT = 'describe this machine by ACPI alone, tables = "acpi"'
SCANNED = (Region(0, 0x400), Region(0x9FC00, 0x400), Region(0xF0000, 0x10000))
"""Where Linux looks for the pointer, apart from the first KiB of the EBDA."""
EBDA_SEGMENT = 0x40E
"""The word of the BIOS data area that says where the EBDA starts, in units of 16 bytes."""

Read = Callable[[int, int], bytes]
"""`read(guest_address, size_bytes) -> bytes`"""


@attrs.frozen
class MpTable:
    """An MP configuration table: its entries in order, and who made it. `decode` reads one, `at` places one.

    `oem` has at most 8 characters, `product` 12, padded with spaces in memory.
    """

    entries: tuple[Entry, ...]
    oem: str = attrs.field(default="ANYVISOR", converter=stripped)
    product: str = attrs.field(default="anyvisor", converter=stripped)
    lapic_address: int = LAPIC_BASE
    revision: int = REVISION

    def __attrs_post_init__(self) -> None:
        padded(self.oem, 8)
        padded(self.product, 12)
        if self.revision not in REVISIONS:
            raise PlanError(f"MP table: revision {self.revision} does not exist; use 4 (or 1)")
        if not 0 <= self.lapic_address < 1 << 32:
            raise PlanError(f"MP table: local APICs at {self.lapic_address:#x} lie beyond 32 bits")
        if self.size_bytes > 0xFFFF:
            raise PlanError(f"MP table of {self.size_bytes} bytes: it ends at 65535; leave entries out")

    @classmethod
    def for_cpus(
        cls,
        count: int,
        *,
        apic_ids: Sequence[int] | None = None,
        signature: int = 0x600,
        features: int = 0x201,
    ) -> MpTable:
        """The table of a PC with `count` processors, one I/O APIC of 24 pins, and an ISA bus.

        `apic_ids` are the processors' local APIC ids, the boot processor's first (default 0, 1, 2...);
        `signature` and `features` what CPUID leaf 1 says in EAX and EDX. PlanError for a machine that no MP table can
        describe: it has more than 254 processors, or an APIC id of more than eight bits.
        """
        ids = range(count) if apic_ids is None else apic_ids
        _check_ids(count, ids)
        free = set(range(BROADCAST)) - set(ids)
        ioapic = max(ids) + 1 if max(ids) + 1 in free else min(free)
        processors = [Processor(each, bootstrap=each == ids[0], signature=signature, features=features) for each in ids]
        return cls((*processors, *_wiring(ids[0], ioapic)))

    @classmethod
    def for_topology(cls, topology: Topology, *, signature: int = 0x600, features: int = 0x201) -> MpTable:
        """The table of a PC whose processors have the APIC ids that `topology` gives them; see `for_cpus`."""
        ids = ids_of(topology)
        return cls.for_cpus(len(ids), apic_ids=ids, signature=signature, features=features)

    @property
    def size_bytes(self) -> int:
        """How long the table is, the pointer not counted."""
        return HEADER.size + sum(entry.SHAPE.size for entry in self.entries)

    @property
    def processors(self) -> tuple[Processor, ...]:
        """The processors among the entries."""
        return tuple(entry for entry in self.entries if isinstance(entry, Processor))

    def to_bytes(self) -> bytes:
        """The table as it lies in memory, without its pointer."""
        names = padded(self.oem, 8), padded(self.product, 12)
        rest = 0, 0, len(self.entries), self.lapic_address, 0, 0, 0
        header = HEADER.pack(TABLE_SIGNATURE, self.size_bytes, self.revision, 0, *names, *rest)
        return with_checksum(header + b"".join(entry.to_bytes() for entry in self.entries), TABLE_CHECKSUM)

    def pointer_bytes(self, guest_address: int) -> bytes:
        """The floating pointer to a table at `guest_address`; PlanError for one of more than 32 bits."""
        if not 0 < guest_address < 1 << 32:
            raise PlanError(f"MP table at {guest_address:#x}: its pointer has 32 bits; move it below 4 GiB")
        pointer = POINTER.pack(POINTER_SIGNATURE, guest_address, 1, self.revision, 0, bytes(5))
        return with_checksum(pointer, POINTER_CHECKSUM)

    def at(self, table: Region, pointer: int | None = None) -> FirmwareTables:
        """The table at the start of the region `table`, its pointer at `pointer`, in the EBDA's first KiB.

        Without `pointer` the EBDA is taken to follow the region at once. PlanError if the table is too big
        for the region, or a piece reaches over 0xA0000, where base memory ends.
        """
        pointer = table.end if pointer is None else pointer
        if self.size_bytes > table.size_bytes:
            size = f"{self.size_bytes} bytes for {len(self.processors)} processors"
            place = f"the {table.size_bytes} bytes of {table}; make it larger in anyvisor_memory_layout"
            raise PlanError(f"MP table of {size} does not fit in {place}")
        if pointer % 16 or not 0 <= pointer < MIB:
            where = "at multiples of 16 in the first MiB"
            raise PlanError(f"MP pointer at {pointer:#x}: an OS looks for it only {where}; move it there")
        pieces = (
            Blob("mp table", table.start, self.to_bytes()),
            Blob("mp pointer", pointer, self.pointer_bytes(table.start)),
        )
        for piece in pieces:
            if piece.region.start < LOW_RAM_END < piece.region.end:
                limit = f"{LOW_RAM_END:#x}, where base memory ends"
                raise PlanError(f"{piece.region} reaches over {limit}; move it in anyvisor_memory_layout")
        return FirmwareTables(pointer, pieces)

    @classmethod
    def from_memory(cls, read: Read, pointer: int) -> MpTable:
        """The table that the pointer at `pointer` leads to; PlanError says at which offset one is broken.

        What `read` raises for an address outside the guest's memory comes through.
        """
        raw = read(pointer, POINTER.size)
        address = table_address(raw)
        size = struct.unpack_from("<H", read(address, HEADER.size), 4)[0]
        return cls.decode(raw, read(address, max(size, HEADER.size)))

    @classmethod
    def decode(cls, pointer: bytes, table: bytes) -> MpTable:
        """The table in `table`, bytes after its end left aside; PlanError says at which offset one is broken.

        An OEM table and extended entries, if there are any, are not read.
        """
        table_address(pointer)
        if len(table) < HEADER.size:
            raise PlanError(f"MP table ends at offset {len(table):#x}, in its header of {HEADER.size} bytes")
        signature, size, revision, _, oem, product, _, _, _, lapic, *_ = HEADER.unpack_from(table)
        if signature != TABLE_SIGNATURE:
            raise PlanError(f"MP table: signature at offset 0x0 is {signature!r}, not {TABLE_SIGNATURE!r}")
        if not HEADER.size <= size <= len(table):
            allowed = f"{HEADER.size} to the {len(table)} bytes there are"
            raise PlanError(f"MP table: length at offset 0x4 is {size}, not {allowed}")
        check_sum("MP table", table[:size], TABLE_CHECKSUM)
        entries = decode_entries(table[:size], HEADER.size)
        return cls(entries, oem.decode("latin-1"), product.decode("latin-1"), lapic, revision)

    def describe(self) -> str:
        """The table as text, an entry a line."""
        lapics = f"local APICs at {self.lapic_address:#x}"
        title = f"MP table of {self.oem} {self.product}, revision 1.{self.revision}, {lapics}"
        return "\n".join([title, *(f"  {entry}" for entry in self.entries)])


def find_pointer(read: Read) -> int | None:
    """Where the floating pointer lies, looked for where Linux looks; None when there is none.

    `read` gives the guest's memory, of which there must be 1 MiB.
    """
    ebda = struct.unpack("<H", read(EBDA_SEGMENT, 2))[0] << 4
    places = [*SCANNED, *([Region(ebda, min(0x400, MIB - ebda))] if ebda else [])]
    for place in places:
        area = read(place.start, place.size_bytes)
        for offset in range(0, place.size_bytes, 16):
            if area.startswith(POINTER_SIGNATURE, offset) and _is_pointer(area[offset : offset + POINTER.size]):
                return place.start + offset
    return None


def _wiring(boot_id: int, ioapic: int) -> list[Entry]:
    """Everything but the processors: bus, I/O APIC, its pins, and the local pins LINT0 and LINT1."""
    plain = InterruptFlags(0)
    return [
        Bus(0, "ISA"),
        IoApic(ioapic),
        *(IoInterrupt(InterruptKind.INT, plain, 0, pin, ioapic, pin) for pin in range(IOAPIC_PINS)),
        LocalInterrupt(InterruptKind.EXTINT, plain, 0, 0, boot_id, 0),
        LocalInterrupt(InterruptKind.NMI, plain, 0, 0, BROADCAST, 1),
    ]


def _check_ids(count: int, ids: Sequence[int]) -> None:
    if count < 1:
        raise PlanError(f"MP table for {count} processors: it must name one at least")
    if count > MAX_PROCESSORS:
        raise PlanError(f"MP table for {count} processors: it can name {MAX_PROCESSORS} at most; {WAY_OUT}")
    if len(ids) != count or len(set(ids)) != count:
        raise PlanError(f"MP table for {count} processors: {len(set(ids))} different APIC ids given; give {count}")
    if wrong := [each for each in ids if not 0 <= each < BROADCAST]:
        vcpu = f"vCPU {list(ids).index(wrong[0])} has the APIC id {wrong[0]}"
        raise PlanError(f"MP table: {vcpu}, and ids have 8 bits here, of which 255 means all; {WAY_OUT}")


def table_address(pointer: bytes) -> int:
    """Where the floating pointer in these bytes leads; PlanError if it is none."""
    if len(pointer) < POINTER.size:
        raise PlanError(f"MP pointer ends at offset {len(pointer):#x}; it has {POINTER.size} bytes")
    signature, address, length, revision, _, features = POINTER.unpack_from(pointer)
    if signature != POINTER_SIGNATURE:
        raise PlanError(f"MP pointer: signature at offset 0x0 is {signature!r}, not {POINTER_SIGNATURE!r}")
    if length != 1 or revision not in REVISIONS:
        raise PlanError(f"MP pointer: length {length} and revision {revision} at offset 0x8 are not 1 and 4 (or 1)")
    check_sum("MP pointer", pointer[: POINTER.size], POINTER_CHECKSUM)
    if features[0] or not address:
        raise PlanError(f"MP pointer names default configuration {features[0]} at offset 0xb, and no table")
    return int(address)


def _is_pointer(raw: bytes) -> bool:
    """Whether Linux would take it for a floating pointer."""
    _, _, length, revision, _, _ = POINTER.unpack(raw)
    return length == 1 and revision in REVISIONS and sum(raw) % 256 == 0
