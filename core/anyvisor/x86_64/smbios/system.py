"""What the machine is: BIOS (type 0), system (1), baseboard (2) and chassis (3); DSP0134, 7.1 to 7.4."""

# Fields are declared by the functions of `wire`, which ruff cannot tell from defaults with a state of their own.
# ruff: noqa: RUF009

from __future__ import annotations

import enum
import uuid as uuids
from typing import Any, ClassVar

import attrs

from anyvisor.bits import Bits, bit
from anyvisor.x86_64.smbios.structure import Structure
from anyvisor.x86_64.smbios.wire import NO_UUID, Handle, Hex, byte, dword, qword, sized, text, uuid, word


class BiosCharacteristics(Bits):
    """What the firmware can do: few of the 64 bits matter where there is none."""

    not_supported = bit(3)
    """None of the bits says anything."""
    upgradeable = bit(11)
    selectable_boot = bit(16)


class BiosExtension(Bits):
    """The two bytes of extended characteristics."""

    acpi = bit(0)
    targeted_content = bit(10)
    uefi = bit(11)
    virtual_machine = bit(12)


@attrs.frozen(kw_only=True)
class BiosInformation(Structure):
    """Who made the firmware. `rom_size` counts 64 KiB less one; 0xFF says to look at `extended_rom_size`.

    `release_date` is written mm/dd/yyyy: Linux takes the year from it.
    """

    TYPE: ClassVar[int] = 0
    NAME: ClassVar[str] = "BIOS Information"

    vendor: str = text()
    version: str = text()
    start_segment: int = word(0, Hex)
    release_date: str = text()
    rom_size: int = byte()
    characteristics: BiosCharacteristics = qword(0, BiosCharacteristics)
    extension: BiosExtension = word(0, BiosExtension)
    major_release: int = byte(0xFF)
    minor_release: int = byte(0xFF)
    controller_major_release: int = byte(0xFF)
    controller_minor_release: int = byte(0xFF)
    extended_rom_size: int = word()


class WakeUp(enum.IntEnum):
    """What switched the machine on."""

    RESERVED = 0
    OTHER = 1
    UNKNOWN = 2
    APM_TIMER = 3
    MODEM_RING = 4
    LAN_REMOTE = 5
    POWER_SWITCH = 6
    PCI_PME = 7
    AC_POWER_RESTORED = 8


@attrs.frozen(kw_only=True)
class SystemInformation(Structure):
    """Who the machine says it is. A `uuid` of zeros says that it has none."""

    TYPE: ClassVar[int] = 1
    NAME: ClassVar[str] = "System Information"

    manufacturer: str = text()
    product: str = text()
    version: str = text()
    serial: str = text()
    uuid: uuids.UUID = uuid()
    wake_up: int = byte(WakeUp.POWER_SWITCH, WakeUp)
    sku: str = text()
    family: str = text()

    @property
    def has_uuid(self) -> bool:
        """Whether the UUID is one: all bits 0 or all bits 1 are none."""
        return self.uuid not in (NO_UUID, uuids.UUID(int=(1 << 128) - 1))


class BoardType(enum.IntEnum):
    """What sort of board it is."""

    UNKNOWN = 1
    OTHER = 2
    SERVER_BLADE = 3
    MOTHERBOARD = 10


class BoardFeatures(Bits):
    """What a board is like."""

    hosting = bit(0)
    needs_daughter_board = bit(1)
    removable = bit(2)
    replaceable = bit(3)
    hot_swappable = bit(4)


def _handles(fields: dict[str, Any]) -> int:
    return int(fields["contained_count"]) * 2


@attrs.frozen(kw_only=True)
class BaseboardInformation(Structure):
    """A board of the machine. `contained` are `contained_count` handles of two bytes, of what is on it."""

    TYPE: ClassVar[int] = 2
    NAME: ClassVar[str] = "Base Board Information"

    manufacturer: str = text()
    product: str = text()
    version: str = text()
    serial: str = text()
    asset_tag: str = text()
    features: BoardFeatures = byte(0, BoardFeatures)
    location: str = text()
    chassis: Handle = word(0xFFFF, Handle)
    board_type: int = byte(BoardType.MOTHERBOARD, BoardType)
    contained_count: int = byte()
    contained: bytes = sized(_handles)


class ChassisType(enum.IntEnum):
    """What sort of case it is; with bit 7 set there is a lock."""

    OTHER = 1
    UNKNOWN = 2
    DESKTOP = 3
    TOWER = 7
    LAPTOP = 9
    MAIN_SERVER_CHASSIS = 17
    RACK_MOUNT = 23


class ChassisState(enum.IntEnum):
    """How the case, its power supply or its temperature was at boot."""

    OTHER = 1
    UNKNOWN = 2
    SAFE = 3
    WARNING = 4
    CRITICAL = 5
    NON_RECOVERABLE = 6


class ChassisSecurity(enum.IntEnum):
    """Whether the case locks the machine."""

    OTHER = 1
    UNKNOWN = 2
    NONE = 3
    EXTERNAL_INTERFACE_LOCKED = 4
    EXTERNAL_INTERFACE_ENABLED = 5


def _elements(fields: dict[str, Any]) -> int:
    return int(fields["element_count"] * fields["element_bytes"])


@attrs.frozen(kw_only=True)
class ChassisInformation(Structure):
    """The case. `elements` are `element_count` records of `element_bytes` bytes, of what is in it."""

    TYPE: ClassVar[int] = 3
    NAME: ClassVar[str] = "Chassis Information"

    manufacturer: str = text()
    chassis_type: int = byte(ChassisType.OTHER, ChassisType)
    version: str = text()
    serial: str = text()
    asset_tag: str = text()
    boot_up_state: int = byte(ChassisState.SAFE, ChassisState)
    power_supply_state: int = byte(ChassisState.SAFE, ChassisState)
    thermal_state: int = byte(ChassisState.SAFE, ChassisState)
    security: int = byte(ChassisSecurity.NONE, ChassisSecurity)
    oem: int = dword()
    height: int = byte(0, unit="U")
    power_cords: int = byte()
    element_count: int = byte()
    element_bytes: int = byte()
    elements: bytes = sized(_elements)
    sku: str = text()
