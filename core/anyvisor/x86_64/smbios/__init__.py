"""SMBIOS: what a machine says about itself to `dmidecode`, to asset management, and in the kernel's first lines.

`smbios_tables` makes the tables of a machine as configured, `SmbiosTables.at` places them, and `find_entry` with
`SmbiosTables.from_memory` reads what any firmware left. Every structure is a value with `to_bytes`, `decode` and
`describe`, and has the same bytes again after it was read. System Management BIOS Reference Specification, DSP0134.
"""

from anyvisor.x86_64.smbios.boot import EndOfTable, SystemBootInformation
from anyvisor.x86_64.smbios.entry_point import EntryPoint32, EntryPoint64, decode_entry, find_entry
from anyvisor.x86_64.smbios.machine import smbios_tables
from anyvisor.x86_64.smbios.memory_devices import MemoryArrayMappedAddress, MemoryDevice, PhysicalMemoryArray
from anyvisor.x86_64.smbios.processor import ProcessorInformation
from anyvisor.x86_64.smbios.structure import RawStructure, Structure
from anyvisor.x86_64.smbios.system import (
    BaseboardInformation,
    BiosInformation,
    ChassisInformation,
    SystemInformation,
)
from anyvisor.x86_64.smbios.tables import SmbiosTables

__all__ = [
    "BaseboardInformation",
    "BiosInformation",
    "ChassisInformation",
    "EndOfTable",
    "EntryPoint32",
    "EntryPoint64",
    "MemoryArrayMappedAddress",
    "MemoryDevice",
    "PhysicalMemoryArray",
    "ProcessorInformation",
    "RawStructure",
    "SmbiosTables",
    "Structure",
    "SystemBootInformation",
    "SystemInformation",
    "decode_entry",
    "find_entry",
    "smbios_tables",
]
