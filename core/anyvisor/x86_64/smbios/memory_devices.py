"""The machine's RAM: the array (type 16), the devices in it (17), and its addresses (19); DSP0134, 7.17, 7.18, 7.20.

Some facts about their sizes. Each counts in a unit of its own, and each ran out of bits once, so that a value with all
bits set (or nearly) sends the reader to a later, longer field: the array's capacity is in KiB up to 2 TiB less 1 KiB,
and from there in bytes; a device's size is in MiB, or KiB with bit 15 set, up to 32767 MiB, and from there in another
32 bits of MiB; a range of addresses is in KiB, its last KiB included, up to 4 TiB, and beyond in bytes.
"""

# Fields are declared by the functions of `wire`, which ruff cannot tell from defaults with a state of their own.
# ruff: noqa: RUF009

from __future__ import annotations

import enum
from typing import ClassVar, Self

import attrs

from anyvisor.bits import Bits, bit
from anyvisor.errors import PlanError
from anyvisor.memory import KIB, MIB, Region, format_size
from anyvisor.x86_64.smbios.structure import Structure
from anyvisor.x86_64.smbios.wire import Handle, byte, dword, qword, text, word

CAPACITY_IN_EXTENDED_FIELD = 0x80000000
SIZE_IN_EXTENDED_FIELD = 0x7FFF
SIZE_UNKNOWN = 0xFFFF
SIZE_IN_KIB = 0x8000
ADDRESS_IN_EXTENDED_FIELD = 0xFFFFFFFF
NOT_PROVIDED = 0xFFFE


class ArrayLocation(enum.IntEnum):
    """Where the array is."""

    OTHER = 1
    UNKNOWN = 2
    SYSTEM_BOARD = 3


class ArrayUse(enum.IntEnum):
    """What the array is for."""

    OTHER = 1
    UNKNOWN = 2
    SYSTEM_MEMORY = 3
    VIDEO_MEMORY = 4
    FLASH_MEMORY = 5


class ErrorCorrection(enum.IntEnum):
    """How memory errors are found or mended."""

    OTHER = 1
    UNKNOWN = 2
    NONE = 3
    PARITY = 4
    SINGLE_BIT_ECC = 5
    MULTI_BIT_ECC = 6
    CRC = 7


@attrs.frozen(kw_only=True)
class PhysicalMemoryArray(Structure):
    """The place for memory devices: how many fit, and how much memory in all. `of_size` makes one."""

    TYPE: ClassVar[int] = 16
    NAME: ClassVar[str] = "Physical Memory Array"

    location: int = byte(ArrayLocation.SYSTEM_BOARD, ArrayLocation)
    use: int = byte(ArrayUse.SYSTEM_MEMORY, ArrayUse)
    error_correction: int = byte(ErrorCorrection.NONE, ErrorCorrection)
    maximum_capacity: int = dword(0, unit="KiB")
    error: Handle = word(NOT_PROVIDED, Handle)
    device_count: int = word()
    extended_maximum_capacity: int = qword(0, unit="bytes")

    @classmethod
    def of_size(cls, capacity_bytes: int, device_count: int, *, handle: int) -> Self:
        """An array for that much memory in that many devices."""
        if capacity_bytes // KIB >= CAPACITY_IN_EXTENDED_FIELD:
            short, extended = CAPACITY_IN_EXTENDED_FIELD, capacity_bytes
        else:
            short, extended = capacity_bytes // KIB, 0
        return cls(handle=handle, device_count=device_count, maximum_capacity=short, extended_maximum_capacity=extended)

    @property
    def capacity_bytes(self) -> int:
        """The most memory it takes."""
        if self.maximum_capacity == CAPACITY_IN_EXTENDED_FIELD:
            return self.extended_maximum_capacity
        return self.maximum_capacity * KIB

    def summary(self) -> str:
        """Capacity and number of devices."""
        return f"{format_size(self.capacity_bytes)} in {self.device_count} devices"


class FormFactor(enum.IntEnum):
    """What a memory device looks like."""

    OTHER = 1
    UNKNOWN = 2
    CHIP = 5
    DIMM = 9
    SODIMM = 13


class MemoryType(enum.IntEnum):
    """What the memory is made of."""

    OTHER = 1
    UNKNOWN = 2
    DRAM = 3
    RAM = 7
    DDR3 = 0x18
    DDR4 = 0x1A
    DDR5 = 0x22


class MemoryDetail(Bits):
    """More about the memory."""

    other = bit(1)
    unknown = bit(2)
    synchronous = bit(7)
    non_volatile = bit(12)
    registered = bit(13)
    unregistered = bit(14)


class Technology(enum.IntEnum):
    """What a device that need not be DRAM is."""

    OTHER = 1
    UNKNOWN = 2
    DRAM = 3
    NVDIMM_N = 4
    NVDIMM_F = 5
    NVDIMM_P = 6


class OperatingModes(Bits):
    """As what a device can work."""

    other = bit(1)
    unknown = bit(2)
    volatile = bit(3)
    byte_accessible_persistent = bit(4)
    block_accessible_persistent = bit(5)


@attrs.frozen(kw_only=True)
class MemoryDevice(Structure):
    """A memory module in its socket; `of_size` makes one."""

    TYPE: ClassVar[int] = 17
    NAME: ClassVar[str] = "Memory Device"

    array: Handle = word(0, Handle)
    error: Handle = word(NOT_PROVIDED, Handle)
    total_width: int = word(0xFFFF)
    data_width: int = word(0xFFFF)
    size: int = word()
    form_factor: int = byte(FormFactor.DIMM, FormFactor)
    device_set: int = byte()
    locator: str = text()
    bank: str = text()
    memory_type: int = byte(MemoryType.RAM, MemoryType)
    detail: MemoryDetail = word(MemoryDetail(other=True), MemoryDetail)
    speed: int = word(0, unit="MT/s")
    manufacturer: str = text()
    serial: str = text()
    asset_tag: str = text()
    part_number: str = text()
    rank: int = byte()
    extended_size: int = dword(0, unit="MiB")
    configured_speed: int = word(0, unit="MT/s")
    minimum_voltage: int = word(0, unit="mV")
    maximum_voltage: int = word(0, unit="mV")
    configured_voltage: int = word(0, unit="mV")
    technology: int = byte(Technology.DRAM, Technology)
    operating_modes: OperatingModes = word(OperatingModes(volatile=True), OperatingModes)
    firmware_version: str = text()
    module_manufacturer: int = word()
    module_product: int = word()
    controller_manufacturer: int = word()
    controller_product: int = word()
    non_volatile_size: int = qword(0, unit="bytes")
    volatile_size: int = qword(0, unit="bytes")
    cache_size: int = qword(0, unit="bytes")
    logical_size: int = qword(0, unit="bytes")
    extended_speed: int = dword(0, unit="MT/s")
    extended_configured_speed: int = dword(0, unit="MT/s")

    @classmethod
    def of_size(cls, size_bytes: int, *, handle: int, array: int, locator: str) -> Self:
        """A DIMM of that size, in the array with that handle; PlanError for a size that none can have."""
        short, extended = _device_size(size_bytes)
        return cls(
            handle=handle,
            array=Handle(array),
            locator=locator,
            size=short,
            extended_size=extended,
            volatile_size=size_bytes,
        )

    @property
    def size_bytes(self) -> int | None:
        """How much memory it is, 0 for an empty socket; None when that is not known."""
        if self.size == SIZE_UNKNOWN:
            return None
        if self.size == SIZE_IN_EXTENDED_FIELD:
            return (self.extended_size & 0x7FFFFFFF) * MIB
        return self.size % SIZE_IN_KIB * (KIB if self.size & SIZE_IN_KIB else MIB)

    def summary(self) -> str:
        """Locator and size."""
        size = "unknown size" if self.size_bytes is None else format_size(self.size_bytes)
        return f"{self.locator or 'device'}, {size}"


def _device_size(size_bytes: int) -> tuple[int, int]:
    """What a device's size and extended size hold."""
    if size_bytes % MIB == 0 and 0 <= size_bytes >> 51 < 1:
        mib = size_bytes // MIB
        return (mib, 0) if mib < SIZE_IN_EXTENDED_FIELD else (SIZE_IN_EXTENDED_FIELD, mib)
    if size_bytes % KIB == 0 and 0 <= size_bytes // KIB < SIZE_IN_KIB - 1:
        return SIZE_IN_KIB | size_bytes // KIB, 0
    words = "whole MiB up to 2 PiB, or whole KiB below 32M"
    raise PlanError(f"SMBIOS memory device of {size_bytes} bytes: its size counts {words}; make it two devices")


@attrs.frozen(kw_only=True)
class MemoryArrayMappedAddress(Structure):
    """A range of addresses at which an array's memory lies; `of_region` makes one."""

    TYPE: ClassVar[int] = 19
    NAME: ClassVar[str] = "Memory Array Mapped Address"

    starting_address: int = dword(0, unit="KiB")
    ending_address: int = dword(0, unit="KiB")
    array: Handle = word(0, Handle)
    partition_width: int = byte(1)
    extended_starting_address: int = qword(0, unit="bytes")
    extended_ending_address: int = qword(0, unit="bytes")

    @classmethod
    def of_region(cls, region: Region, *, handle: int, array: int) -> Self:
        """The range of a region of RAM, in whole KiB."""
        first, last = region.start // KIB, region.end // KIB - 1
        made = cls(handle=handle, array=Handle(array))
        if last < ADDRESS_IN_EXTENDED_FIELD:
            return attrs.evolve(made, starting_address=first, ending_address=last)
        return attrs.evolve(
            made,
            starting_address=ADDRESS_IN_EXTENDED_FIELD,
            ending_address=ADDRESS_IN_EXTENDED_FIELD,
            extended_starting_address=region.start,
            extended_ending_address=region.end - 1,
        )

    @property
    def region(self) -> Region:
        """The addresses."""
        if self.starting_address == ADDRESS_IN_EXTENDED_FIELD:
            start, end = self.extended_starting_address, self.extended_ending_address + 1
        else:
            start, end = self.starting_address * KIB, (self.ending_address + 1) * KIB
        return Region(start, end - start, "RAM")

    def summary(self) -> str:
        """First and last address."""
        return f"{self.region.start:#x}-{self.region.end - 1:#x}"
