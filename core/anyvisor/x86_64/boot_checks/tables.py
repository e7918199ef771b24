"""The tables that firmware would leave: found where a kernel looks, whole, and with right checksums."""

from __future__ import annotations

from collections.abc import Iterator

from anyvisor.finding import Finding
from anyvisor.memory import MIB, Region
from anyvisor.x86_64.acpi import rsdp
from anyvisor.x86_64.acpi.fadt import Fadt
from anyvisor.x86_64.boot_checks.check import broken, check
from anyvisor.x86_64.boot_checks.scene import Scene
from anyvisor.x86_64.firmware_tables import EBDA_SCANNED_BYTES, RSDP_SCANNED
from anyvisor.x86_64.mptable import EBDA_SEGMENT, POINTER_SIGNATURE, SCANNED

STEP_BYTES = 16
REMAKE = "make it anew, or restore its checksum"
SMBIOS_SCANNED = Region(0xF0000, 0x10000)
SMBIOS_SIGNATURES = (b"_SM3_", b"_SM_")


@check("acpi-tables", "The RSDP, and every ACPI table that it leads to, is in RAM and has a right length and checksum.", "ACPI 6.5, 5.2.5 and 5.2.6")  # fmt: skip  # noqa: E501
def acpi_tables(scene: Scene) -> Iterator[Finding]:
    """The RSDP that the boot protocol names, or else the one that is found by looking."""
    found = scene.acpi
    told = scene.told.rsdp if scene.told else 0
    if error := scene.unreadable.get("ACPI"):
        wanted = f"sound tables in {scene.ram_words}"
        where = f"RSDP at {told:#x}, as the kernel is told" if told else "ACPI"
        yield broken(where, str(error), wanted=wanted, remedy=REMAKE)
    elif found is None and not scene.misled:
        at = _signature(scene, rsdp.SIGNATURE, [*_ebda(scene), RSDP_SCANNED])
        if at is not None:
            yield broken(f"RSDP at {at:#x}", "has a wrong checksum, so no kernel takes it for one", remedy=REMAKE)


@check("acpi-dsdt", "The FADT leads to a DSDT, without which a kernel knows of no device.", "ACPI 6.5, 5.2.9")
def acpi_dsdt(scene: Scene) -> Iterator[Finding]:
    """By its 32-bit or its 64-bit field."""
    for each in scene.acpi.placed if scene.acpi else ():
        if isinstance(each.table, Fadt) and not each.table.dsdt_address:
            yield broken(f"FADT at {each.address:#x}", "leads to no DSDT", found="0", remedy="set its X_DSDT")


@check(
    "mp-table", "The MP table and its pointer are in RAM and have right lengths and checksums.", "MP 1.4, 4.1 and 4.2"
)
def mp_table(scene: Scene) -> Iterator[Finding]:
    """Found by the pointer, at one of the places where a kernel looks."""
    found = scene.mptable
    if error := scene.unreadable.get("MP"):
        yield broken("MP table", str(error), remedy=REMAKE)
    elif found is None and (at := _signature(scene, POINTER_SIGNATURE, [*_ebda(scene), *SCANNED])) is not None:
        yield broken(f"MP pointer at {at:#x}", "is broken, so no kernel takes it for one", remedy=REMAKE)


@check("smbios-tables", "The SMBIOS entry point and its tables are whole and have a right checksum.", "SMBIOS 3.7, 5.2")
def smbios_tables(scene: Scene) -> Iterator[Finding]:
    """Found from 0xF0000 on."""
    found = scene.smbios
    if error := scene.unreadable.get("SMBIOS"):
        yield broken("SMBIOS", str(error), remedy=REMAKE)
    elif found is None:
        places = (_signature(scene, each, [SMBIOS_SCANNED]) for each in SMBIOS_SIGNATURES)
        if (at := next((each for each in places if each is not None), None)) is not None:
            yield broken(f"SMBIOS entry point at {at:#x}", "is broken, so no kernel takes it for one", remedy=REMAKE)


def _ebda(scene: Scene) -> list[Region]:
    """The first KiB of the extended BIOS data area, where the BIOS data area names one."""
    start = int.from_bytes(scene.plan.read(EBDA_SEGMENT, 2), "little") << 4
    return [Region(start, EBDA_SCANNED_BYTES)] if EBDA_SCANNED_BYTES <= start <= MIB - EBDA_SCANNED_BYTES else []


def _signature(scene: Scene, signature: bytes, places: list[Region]) -> int | None:
    """Where something begins that is called so, at a multiple of 16."""
    for place in places:
        area = scene.plan.read(place.start, place.size_bytes)
        at = area.find(signature)
        while at >= 0:
            if at % STEP_BYTES == 0:
                return place.start + at
            at = area.find(signature, at + 1)
    return None


CHECKS = (acpi_tables, acpi_dsdt, mp_table, smbios_tables)
