"""The MADT: every local APIC and I/O APIC, and which interrupt is wired to what (5.2.12).

Some facts about names of processors. AML names a processor by a UID, the MADT says which local APIC belongs to it.
The old entry for a local APIC has 8 bits for each, and 255 means all of them: ids from 255 up take the x2APIC entry.
ISA interrupts are wired to the I/O APIC's pins of the same number, edge-triggered and active high, unless an
override says otherwise.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import attrs

from anyvisor.bits import Bits, bit
from anyvisor.x86_64.acpi.entries import Entry, EntryTable, describe_entries
from anyvisor.x86_64.lapic import LAPIC_BASE
from anyvisor.x86_64.mpentries import IOAPIC_BASE, InterruptFlags
from anyvisor.x86_64.records import U8, U16, U32

ALL_PROCESSORS, ALL_PROCESSORS_X2APIC = 0xFF, 0xFFFFFFFF
"""A UID that means every processor."""
LEVEL_HIGH = InterruptFlags(polarity=1, trigger=3)
LINT1 = 1


class MadtFlags(Bits):
    """Whether there is a pair of 8259 interrupt controllers too (Table 5.20)."""

    pcat_compat = bit(0)


class LapicFlags(Bits):
    """Whether a processor can be used, or could be after it is plugged in (Table 5.22)."""

    enabled = bit(0)
    online_capable = bit(1)

    @property
    def state(self) -> str:
        """In words."""
        return "enabled" if self.enabled else "can be plugged in" if self.online_capable else "disabled"


ENABLED = LapicFlags(enabled=True)


@attrs.frozen
class Lapic(Entry):
    """A processor with an APIC id below 255 (Table 5.21)."""

    TYPE = 0

    uid: int = attrs.field(metadata=U8)
    apic_id: int = attrs.field(metadata=U8)
    flags: LapicFlags = attrs.field(default=ENABLED, converter=LapicFlags, metadata=U32)

    def follows(self, other: object) -> bool:
        """Whether `other` is the processor before it."""
        return isinstance(other, Lapic) and (other.uid + 1, other.apic_id + 1, other.flags) == attrs.astuple(self)

    def run(self, last: Entry) -> str:
        """A run of processors."""
        return _processors("APIC", self, last)

    def __str__(self) -> str:
        return self.run(self)


@attrs.frozen
class IoApic(Entry):
    """An I/O APIC, and the number of the interrupt at its pin 0 (Table 5.23)."""

    TYPE = 1

    id: int = attrs.field(metadata={"shape": "Bx"})
    address: int = attrs.field(default=IOAPIC_BASE, metadata=U32)
    gsi_base: int = attrs.field(default=0, metadata=U32)

    def __str__(self) -> str:
        return f"I/O APIC {self.id} at {self.address:#x}, interrupts from {self.gsi_base}"


@attrs.frozen
class InterruptOverride(Entry):
    """An ISA interrupt that is wired otherwise than by custom (5.2.12.5)."""

    TYPE = 2

    bus: int = attrs.field(metadata=U8)
    irq: int = attrs.field(metadata=U8)
    gsi: int = attrs.field(metadata=U32)
    flags: InterruptFlags = attrs.field(default=InterruptFlags(), converter=InterruptFlags, metadata=U16)

    def __str__(self) -> str:
        return f"ISA IRQ {self.irq} is interrupt {self.gsi}, {_wiring(self.flags)}"


@attrs.frozen
class NmiSource(Entry):
    """An interrupt that arrives as NMI (5.2.12.6)."""

    TYPE = 3

    flags: InterruptFlags = attrs.field(converter=InterruptFlags, metadata=U16)
    gsi: int = attrs.field(metadata=U32)

    def __str__(self) -> str:
        return f"interrupt {self.gsi} is an NMI, {_wiring(self.flags)}"


@attrs.frozen
class LapicNmi(Entry):
    """The pin of local APICs at which NMIs arrive (5.2.12.7)."""

    TYPE = 4

    uid: int = attrs.field(default=ALL_PROCESSORS, metadata=U8)
    flags: InterruptFlags = attrs.field(default=InterruptFlags(), converter=InterruptFlags, metadata=U16)
    lint: int = attrs.field(default=LINT1, metadata=U8)

    def __str__(self) -> str:
        whom = "all processors" if self.uid == ALL_PROCESSORS else f"processor {self.uid}"
        return f"NMI of {whom} at LINT{self.lint}, {_wiring(self.flags)}"


@attrs.frozen
class LapicAddress(Entry):
    """The local APICs' address where 32 bits are too few (5.2.12.8)."""

    TYPE = 5

    address: int = attrs.field(metadata={"shape": "2xQ"})

    def __str__(self) -> str:
        return f"local APICs at {self.address:#x}"


@attrs.frozen
class X2Apic(Entry):
    """A processor by its APIC id of 32 bits (5.2.12.12)."""

    TYPE = 9

    apic_id: int = attrs.field(metadata={"shape": "2xI"})
    flags: LapicFlags = attrs.field(converter=LapicFlags, metadata=U32)
    uid: int = attrs.field(metadata=U32)

    def follows(self, other: object) -> bool:
        """Whether `other` is the processor before it."""
        return isinstance(other, X2Apic) and (other.apic_id + 1, other.flags, other.uid + 1) == attrs.astuple(self)

    def run(self, last: Entry) -> str:
        """A run of processors."""
        return _processors("x2APIC", self, last)

    def __str__(self) -> str:
        return self.run(self)


@attrs.frozen
class X2ApicNmi(Entry):
    """The pin of x2APICs at which NMIs arrive (5.2.12.13)."""

    TYPE = 10

    flags: InterruptFlags = attrs.field(default=InterruptFlags(), converter=InterruptFlags, metadata=U16)
    uid: int = attrs.field(default=ALL_PROCESSORS_X2APIC, metadata=U32)
    lint: int = attrs.field(default=LINT1, metadata={"shape": "B3x"})

    def __str__(self) -> str:
        whom = "all x2APIC processors" if self.uid == ALL_PROCESSORS_X2APIC else f"x2APIC processor {self.uid}"
        return f"NMI of {whom} at LINT{self.lint}, {_wiring(self.flags)}"


_ALL = (Lapic, IoApic, InterruptOverride, NmiSource, LapicNmi, LapicAddress, X2Apic, X2ApicNmi)
TYPES: dict[int, type[Entry]] = {each.TYPE: each for each in _ALL}


@attrs.frozen
class Madt(EntryTable):
    """The Multiple APIC Description Table: its entries in order.

    >>> [type(each).__name__ for each in Madt.for_processors([0, 1], ioapic_id=2).entries]
    ['Lapic', 'Lapic', 'IoApic', 'LapicNmi']
    """

    SIGNATURE, NAME, REVISION = "APIC", "MADT", 6
    TYPES = TYPES

    lapic_address: int = attrs.field(default=LAPIC_BASE, metadata=U32)
    flags: MadtFlags = attrs.field(default=MadtFlags(pcat_compat=True), converter=MadtFlags, metadata=U32)

    @classmethod
    def for_processors(cls, apic_ids: Sequence[int], *, ioapic_id: int, sci_gsi: int | None = None) -> Madt:
        """The table of a PC whose processors, numbered from 0, have those APIC ids, with one I/O APIC.

        Every ISA interrupt has the pin of its number; the SCI, if there is one, is level-triggered.
        """
        processors = [processor(uid, apic_id) for uid, apic_id in enumerate(apic_ids)]
        wide = any(isinstance(each, X2Apic) for each in processors)
        sci = [] if sci_gsi is None else [InterruptOverride(0, sci_gsi, sci_gsi, LEVEL_HIGH)]
        nmi = [LapicNmi(), *([X2ApicNmi()] if wide else [])]
        return cls(entries=(*processors, IoApic(ioapic_id), *sci, *nmi))

    @property
    def apic_ids(self) -> tuple[int, ...]:
        """The APIC ids of the enabled processors."""
        processors = [each for each in self.entries if isinstance(each, Lapic | X2Apic)]
        return tuple(each.apic_id for each in processors if each.flags.enabled)

    def details(self) -> Iterator[str]:
        """The entries, processors that follow each other in one line."""
        yield f"local APICs at {self.lapic_address:#x}{', with a pair of 8259s' if self.flags.pcat_compat else ''}"
        yield from describe_entries(self.entries)


def processor(uid: int, apic_id: int) -> Lapic | X2Apic:
    """The entry of a processor: the short one, where both numbers fit in it."""
    return Lapic(uid, apic_id) if max(uid, apic_id) < ALL_PROCESSORS else X2Apic(apic_id, ENABLED, uid)


def _processors(kind: str, first: Lapic | X2Apic, last: Entry) -> str:
    assert isinstance(last, Lapic | X2Apic)
    many = "s" if last is not first else ""
    uids, ids = (f"{a}" if a == b else f"{a}-{b}" for a, b in ((first.uid, last.uid), (first.apic_id, last.apic_id)))
    return f"processor{many} {uids}: {kind} id{many} {ids}, {first.flags.state}"


def _wiring(flags: InterruptFlags) -> str:
    """Polarity and trigger mode in words."""
    polarity = {0: "polarity of the bus", 1: "active high", 3: "active low"}.get(flags.polarity, "polarity reserved")
    trigger = {0: "trigger of the bus", 1: "edge", 3: "level"}.get(flags.trigger, "trigger reserved")
    return f"{polarity}, {trigger}"
