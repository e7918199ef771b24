r"""The devices of a machine in AML: the body of its DSDT, and that of an SSDT for its processors.

Some facts about what an OS looks for here. What it cannot find by asking the hardware, it finds by the name of a kind
(`_HID`) that some driver knows, a number among those of its kind (`_UID`), and ports, addresses and interrupts
(`_CRS`). A processor's `_UID` is the one its entry in the MADT has. `\_S5` holds what to write into the
power-management registers to switch the machine off.

Ports and addresses that belong to no such device are claimed for the motherboard, so that no driver is given them. The
chips that every PC's OS knows without being told, and claims itself, are left out.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence

import attrs

from anyvisor.errors import PlanError
from anyvisor.memory import Region
from anyvisor.plan import DeviceSpec
from anyvisor.x86_64.acpi.aml import Data, Device, EisaId, Name, Package, Scope, String, is_eisa_id
from anyvisor.x86_64.acpi.aml_resources import (
    IO,
    Interrupt,
    IRQNoFlags,
    Memory32Fixed,
    QWordMemory,
    Resource,
    ResourceTemplate,
)
from anyvisor.x86_64.acpi.power import SOFT_OFF

PROCESSOR = "ACPI0007"
MOTHERBOARD = "PNP0C02"
MAX_PROCESSORS = 4096
MAX_OF_A_KIND = 256
ISA_INTERRUPTS = 16
PORTS_AT_ONCE = 0x80
"""Into pieces of so many a range of ports is cut: a descriptor's count has 8 bits."""


@attrs.frozen
class Described:
    """How devices of one kind are told of: a hardware id that drivers know, and names that begin with `prefix`."""

    hardware_id: str
    prefix: str
    first: int = 0
    isa: bool = True
    """Whether an interrupt below 16 is told as the ISA bus has it."""


DESCRIBED = {
    "serial": Described("PNP0501", "COM", first=1),
    "rtc": Described("PNP0B00", "RTC"),
    "i8042": Described("PNP0303", "KBD"),
    "hpet": Described("PNP0103", "HPT"),
    "virtio-mmio": Described("LNRO0005", "VIO", isa=False),
}
"""The kinds of devices that have an entry of their own."""

KNOWN_TO_ALL = {"apic", "debug", "pci", "pic", "pit"}
"""Kinds that every OS knows of without ACPI, or learns of from another table, and claims itself."""


def dsdt_aml(devices: Sequence[DeviceSpec]) -> bytes:
    r"""The body of a DSDT (revision 2, for integers of 64 bits) that tells of these devices, in their order.

    Without a device of kind `acpi-pm` there is no `\_S5`: such a machine cannot be switched off. With it the object is
    the same for fixed and for reduced hardware, since both kinds of registers here take the same sleep type. PlanError
    for more than 256 devices of a kind, or for ports or addresses that no descriptor can name.
    """
    body: bytes = Scope("_SB", *_own_entries(devices), *_motherboard(devices))
    if any(each.kind == "acpi-pm" for each in devices):
        body += Name("_S5", Package(SOFT_OFF, SOFT_OFF, 0, 0))
    return body


def processors_aml(uids: Sequence[int]) -> bytes:
    r"""The body of an SSDT with a processor device `\_SB.C000`, `\_SB.C001`, ... for each of these numbers.

    30 bytes each at most while the numbers have 16 bits. PlanError for more than 4096.
    """
    if len(uids) > MAX_PROCESSORS:
        raise PlanError(f"ACPI names for {len(uids)} processors: there are {MAX_PROCESSORS}, C000 to CFFF")
    kind = Name("_HID", hardware_id(PROCESSOR))
    return bytes(Scope("_SB", *(Device(f"C{i:03X}", kind, Name("_UID", uid)) for i, uid in enumerate(uids))))


def hardware_id(text: str) -> Data:
    """What `_HID` stands for: an EISA id packed, any other id as a string."""
    return EisaId(text) if is_eisa_id(text) else String(text)


def _own_entries(devices: Iterable[DeviceSpec]) -> list[Device]:
    seen: Counter[str] = Counter()
    entries = []
    for spec in devices:
        if (how := DESCRIBED.get(spec.kind)) is not None:
            entries.append(_entry(spec, how, seen[spec.kind]))
            seen[spec.kind] += 1
    return entries


def _entry(spec: DeviceSpec, how: Described, index: int) -> Device:
    if index >= MAX_OF_A_KIND - how.first:
        raise PlanError(f"device {spec.name}: ACPI has names here for {MAX_OF_A_KIND - how.first} of kind {spec.kind}")
    uid = index + how.first
    terms = [Name("_HID", hardware_id(how.hardware_id)), Name("_UID", uid)]
    if resources := [*_ranges(spec), *_interrupts(spec, how)]:
        terms.append(Name("_CRS", ResourceTemplate(*resources)))
    return Device(_numbered(how.prefix, uid), *terms)


def _numbered(prefix: str, number: int) -> str:
    """A name of four letters: as much of the prefix as the hexadecimal number leaves room for."""
    digits = f"{number:X}"
    return prefix[: 4 - len(digits)] + digits


def _motherboard(devices: Iterable[DeviceSpec]) -> list[Device]:
    resources = [
        resource
        for spec in devices
        if spec.kind not in DESCRIBED and spec.kind not in KNOWN_TO_ALL
        for resource in _ranges(spec)
    ]
    if not resources:
        return []
    return [Device("MB", Name("_HID", hardware_id(MOTHERBOARD)), Name("_CRS", ResourceTemplate(*resources)))]


def _ranges(spec: DeviceSpec) -> list[Resource]:
    return [*(piece for region in spec.ports for piece in _ports(region)), *map(_memory, spec.mmio)]


def _ports(region: Region) -> list[Resource]:
    starts = range(region.start, region.end, PORTS_AT_ONCE)
    return [IO(start, min(PORTS_AT_ONCE, region.end - start)) for start in starts]


def _memory(region: Region) -> Resource:
    kind = Memory32Fixed if region.end <= 1 << 32 else QWordMemory
    return kind(region.start, region.size_bytes)


def _interrupts(spec: DeviceSpec, how: Described) -> list[Resource]:
    """The device's interrupt: edge-triggered and active high, as every line of these machines but the SCI.

    A virtio-mmio device holds its line until the driver acknowledges, so a level would do as well; an edge also does
    when the hypervisor only pulses the line, which is how an event file descriptor drives it.
    """
    if spec.gsi is None:
        return []
    return [IRQNoFlags(spec.gsi) if how.isa and spec.gsi < ISA_INTERRUPTS else Interrupt(spec.gsi)]
