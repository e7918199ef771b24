"""The raw bytes of a plan's tables, as files that other tools read: iasl, dmidecode, cpuid, hexdump.

They are the bytes in the guest's memory, found as the guest finds them. `KINDS` are what can be dumped.
"""

from __future__ import annotations

import collections
from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType

import attrs

from anyvisor.errors import PlanError
from anyvisor.plan import BootPlan
from anyvisor.testing.kernels import tiny_kernel
from anyvisor.x86_64.acpi.rsdp import SIZE_BYTES
from anyvisor.x86_64.describe_processors import table_of
from anyvisor.x86_64.firmware_tables import Firmware
from anyvisor.x86_64.mptable import POINTER
from anyvisor.x86_64.read_back import find_gdt
from anyvisor.x86_64.smbios import EntryPoint32, EntryPoint64

DUMP_TABLE = 0x20
"""Where the structures lie in a file for dmidecode."""
Files = dict[str, bytes]
"""Names of files, and what is in them."""


def dump(plan: BootPlan, kind: str) -> Files:
    """The files of a kind of tables, by name; PlanError when the plan has none, or they are broken.

    `kind` is one of `KINDS`.
    """
    return KINDS[kind].files(plan)


def stand_in_kernel(directory: Path) -> Path:
    """A kernel for plans whose tables are dumped and whose kernel does not matter, written to a directory."""
    return tiny_kernel(directory / "kernel")


def _acpi(plan: BootPlan) -> Files:
    """A file for each table, as `acpidump -b` and Linux name them: DSDT.dat, SSDT1.dat, SSDT2.dat."""
    found = Firmware(plan).acpi
    if found is None:
        raise PlanError("the plan has no ACPI tables; ask for them with --tables acpi")
    places = [(each.table.to_bytes(), each.address) for each in found.all_placed]
    counts = collections.Counter(content[:4] for content, _ in places)
    seen: collections.Counter[bytes] = collections.Counter()
    files = {"RSDP.dat": plan.read(found.address, SIZE_BYTES if found.rsdp.revision else 20)}
    for content, address in places:
        seen[content[:4]] += 1
        number = str(seen[content[:4]]) if counts[content[:4]] > 1 else ""
        files[f"{_name(content[:4])}{number}.dat"] = plan.read(address, len(content))
    return files


def _name(signature: bytes) -> str:
    """A signature as a file's name: a plugin may have put anything in it."""
    return "".join(chr(each) if chr(each).isalnum() and each < 128 else "_" for each in signature)


def _mptable(plan: BootPlan) -> Files:
    found = Firmware(plan).mptable
    if found is None:
        raise PlanError("the plan has no MP table; ask for one with --tables mptable, or both")
    pointer = plan.read(found.pointer, POINTER.size)
    return {"mppointer.bin": pointer, "mptable.bin": plan.read(found.address, found.table.size_bytes)}


def _smbios(plan: BootPlan) -> Files:
    """As in /sys/firmware/dmi/tables, and in one file as `dmidecode --from-dump` reads it."""
    found = Firmware(plan).smbios
    if found is None or found.tables.entry is None:
        raise PlanError("the plan has no SMBIOS tables; ask for some with --tables acpi, mptable or both")
    entry = found.tables.entry
    table = plan.read(entry.table_address, found.tables.size_bytes)
    kind: type[EntryPoint32 | EntryPoint64] = type(entry)
    return {
        "smbios_entry_point": plan.read(found.entry_point, kind.SHAPE.size),
        "DMI": table,
        "dmidecode.bin": entry.moved(DUMP_TABLE).to_bytes().ljust(DUMP_TABLE, b"\0") + table,
    }


def _cpuid(plan: BootPlan) -> Files:
    text = "".join(table_of(vcpu).to_raw_dump(vcpu.index) for vcpu in plan.vcpus)
    if not text:
        raise PlanError("the plan has no vCPUs")
    return {"cpuid.txt": text.encode()}


def _bootparams(plan: BootPlan) -> Files:
    """The structure that the boot protocol hands the kernel, without what it leads to."""
    told = Firmware(plan).handed_over
    if told is None:
        raise PlanError("the plan hands its kernel no parameters: a flat binary is told nothing")
    name = {"Linux": "zero_page.bin", "PVH": "start_info.bin"}.get(told.protocol, "mbi.bin")
    return {name: plan.read(told.place.start, len(told.structure.to_bytes()))}


def _gdt(plan: BootPlan) -> Files:
    place = find_gdt(plan)
    if place is None:
        raise PlanError("the plan has no GDT: GDTR keeps its reset value")
    return {"gdt.bin": plan.read(place.start, place.size_bytes)}


@attrs.frozen
class Kind:
    """A kind of tables: in words, how to get their files, and whether they depend on the kernel."""

    words: str
    files: Callable[[BootPlan], Files]
    needs_kernel: bool = False


KINDS: Mapping[str, Kind] = MappingProxyType(
    {
        "acpi": Kind("ACPI tables, one to a file, for iasl and acpiexec", _acpi),
        "mptable": Kind("the MP table and its pointer", _mptable),
        "smbios": Kind("SMBIOS tables as Linux shows them, and for dmidecode --from-dump", _smbios),
        "cpuid": Kind("what CPUID answers on each vCPU, for cpuid -f", _cpuid),
        "bootparams": Kind("what the boot protocol hands the kernel", _bootparams, needs_kernel=True),
        "gdt": Kind("the global descriptor table", _gdt, needs_kernel=True),
    }
)
