"""A processor package (type 4); DSP0134, 7.5.

Some facts about type 4. There is one structure for each socket, not for each vCPU: cores and threads are counts in it.
The counts have one byte, 255 meaning that the count is in a later field of two. The processor id is what CPUID leaf 1
answers in EAX (low half) and EDX, and a reader who knows the maker's name from `manufacturer` decodes it.
"""

# Fields are declared by the functions of `wire`, which ruff cannot tell from defaults with a state of their own.
# ruff: noqa: RUF009

from __future__ import annotations

import enum
from typing import ClassVar

import attrs

from anyvisor.bits import Bits, bit, field
from anyvisor.x86_64.smbios.structure import Structure
from anyvisor.x86_64.smbios.wire import Handle, Hex, byte, qword, text, word

IN_EXTENDED_FIELD = 0xFF
"""A count of one byte that is too small for it."""


class ProcessorType(enum.IntEnum):
    """What the processor is for."""

    OTHER = 1
    UNKNOWN = 2
    CENTRAL = 3
    MATH = 4
    DSP = 5
    VIDEO = 6


class ProcessorFamily(enum.IntEnum):
    """The few families that matter here: of most processors a guest knows more by CPUID."""

    OTHER = 1
    UNKNOWN = 2
    IN_EXTENDED_FIELD = 0xFE


class ProcessorStatus(Bits):
    """Whether something is in the socket, and whether it runs (1: enabled)."""

    state = field(0, 3)
    populated = bit(6)


class ProcessorCharacteristics(Bits):
    """What the processor can do."""

    unknown = bit(1)
    long_mode = bit(2)
    multi_core = bit(3)
    hardware_thread = bit(4)
    execute_protection = bit(5)
    virtualization = bit(6)
    power_control = bit(7)


class Upgrade(enum.IntEnum):
    """How the processor is fitted."""

    OTHER = 1
    UNKNOWN = 2
    NONE = 6


@attrs.frozen(kw_only=True)
class ProcessorInformation(Structure):
    """A socket and the processor in it; `with_counts` makes the counts. Cache handles lead to structures of type 7."""

    TYPE: ClassVar[int] = 4
    NAME: ClassVar[str] = "Processor Information"

    socket: str = text()
    processor_type: int = byte(ProcessorType.CENTRAL, ProcessorType)
    family: int = byte(ProcessorFamily.OTHER, ProcessorFamily)
    manufacturer: str = text()
    processor_id: int = qword(0, Hex)
    version: str = text()
    voltage: int = byte()
    external_clock: int = word(0, unit="MHz")
    max_speed: int = word(0, unit="MHz")
    current_speed: int = word(0, unit="MHz")
    status: ProcessorStatus = byte(ProcessorStatus(state=1, populated=True), ProcessorStatus)
    upgrade: int = byte(Upgrade.OTHER, Upgrade)
    l1_cache: Handle = word(0xFFFF, Handle)
    l2_cache: Handle = word(0xFFFF, Handle)
    l3_cache: Handle = word(0xFFFF, Handle)
    serial: str = text()
    asset_tag: str = text()
    part_number: str = text()
    core_count: int = byte()
    core_enabled: int = byte()
    thread_count: int = byte()
    characteristics: ProcessorCharacteristics = word(0, ProcessorCharacteristics)
    family_2: int = word(ProcessorFamily.OTHER, ProcessorFamily)
    core_count_2: int = word()
    core_enabled_2: int = word()
    thread_count_2: int = word()

    @property
    def cores(self) -> int:
        """The cores in the package; 0 when it does not say."""
        return self._count(self.core_count, self.core_count_2)

    @property
    def threads(self) -> int:
        """The hardware threads of the package, over all its cores; 0 when it does not say."""
        return self._count(self.thread_count, self.thread_count_2)

    @staticmethod
    def _count(short: int, long: int) -> int:
        return long if short == IN_EXTENDED_FIELD and long else short

    def with_counts(self, cores: int, threads: int) -> ProcessorInformation:
        """The same socket with that many cores, all of them enabled, and that many threads over all."""
        return attrs.evolve(
            self,
            core_count=min(cores, IN_EXTENDED_FIELD),
            core_enabled=min(cores, IN_EXTENDED_FIELD),
            thread_count=min(threads, IN_EXTENDED_FIELD),
            core_count_2=cores,
            core_enabled_2=cores,
            thread_count_2=threads,
        )

    def summary(self) -> str:
        """Socket, cores and threads."""
        return f"{self.socket or 'socket'} with {self.cores} cores, {self.threads} threads"
