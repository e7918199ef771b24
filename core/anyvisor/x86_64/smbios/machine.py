"""The SMBIOS tables of a machine as configured: who it is, its sockets, its memory.

Some facts about what is in them. A guest learns its processors and its memory elsewhere (CPUID, ACPI, the e820 map):
these tables are for people and for asset management, so they show the machine as one would buy it. There is a processor
structure for each socket. RAM is cut into modules of the size that makes at most 16 of them, from 16 GiB up, and where
the last one would have no whole number of MiB, its odd KiB are a module of their own.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import attrs

from anyvisor.identity import Identity
from anyvisor.memory import GIB, MIB, Region
from anyvisor.topology import Topology
from anyvisor.x86_64.cpuid import Cpuid
from anyvisor.x86_64.features import Feature
from anyvisor.x86_64.leaves import Leaf
from anyvisor.x86_64.smbios.boot import EndOfTable, SystemBootInformation
from anyvisor.x86_64.smbios.memory_devices import MemoryArrayMappedAddress, MemoryDevice, PhysicalMemoryArray
from anyvisor.x86_64.smbios.processor import ProcessorCharacteristics, ProcessorInformation
from anyvisor.x86_64.smbios.system import (
    BaseboardInformation,
    BiosCharacteristics,
    BiosExtension,
    BiosInformation,
    BoardFeatures,
    ChassisInformation,
    SystemInformation,
)
from anyvisor.x86_64.smbios.tables import SmbiosTables
from anyvisor.x86_64.smbios.wire import NO_UUID, Handle

BIOS, SYSTEM, BOARD, CHASSIS = 0x0000, 0x0100, 0x0200, 0x0300
PROCESSORS, ARRAY, DEVICES, ADDRESSES, BOOT, END = 0x4000, 0x1000, 0x1100, 0x1300, 0x2000, 0x7F00
"""Handles; several structures of a type count up from theirs."""
MAX_DEVICES = 16
SMALLEST_DEVICE = 16 * GIB
BIOS_DATE = "01/01/2025"
"""Linux takes the year to tell old firmware, with its faults, from new: it works around some from before 2008."""


def smbios_tables(
    identity: Identity, topology: Topology, ram: Sequence[Region], cpuid: Cpuid | None = None
) -> SmbiosTables:
    """The SMBIOS tables of a machine; `.at(region)` places them. `ram` are its regions of RAM, in whole KiB.

    From `cpuid` come the processors' maker, name and abilities; without it they are left out.

    >>> tables = smbios_tables(Identity(product="Toaster"), Topology(cores=4), [Region(0, 2 * GIB)])
    >>> print(tables.structures[1].describe())
    handle 0x0100, type 1, System Information
      manufacturer: anyvisor
      product: Toaster
      uuid: none
      wake up: power switch
    >>> [each.summary() for each in tables.structures[4:7]]
    ['CPU 0 with 4 cores, 4 threads', '2G in 1 devices', 'DIMM 0, 2G']
    """
    return SmbiosTables(
        (
            *_names(identity),
            *_processors(topology, cpuid),
            *_memory(ram),
            SystemBootInformation(handle=BOOT),
            EndOfTable(handle=END),
        )
    )


def module_sizes(memory_bytes: int) -> list[int]:
    """The sizes in bytes of the modules that make up that much memory."""
    share = max(memory_bytes // MAX_DEVICES, SMALLEST_DEVICE)
    size = 1 << (share - 1).bit_length()
    full, rest = divmod(memory_bytes, size)
    return [*[size] * full, *filter(None, (rest // MIB * MIB, rest % MIB))]


def _names(
    identity: Identity,
) -> tuple[BiosInformation, SystemInformation, BaseboardInformation, ChassisInformation]:
    """Firmware, system, board and case; board and case are of the system's maker and have no names of their own."""
    from anyvisor import __version__  # noqa: PLC0415 - the package itself, which may import this module

    bios = BiosInformation(
        handle=BIOS,
        vendor="anyvisor",
        version=__version__,
        release_date=BIOS_DATE,
        characteristics=BiosCharacteristics(not_supported=True),
        extension=BiosExtension(virtual_machine=True),
    )
    names = attrs.asdict(identity, recurse=False)
    system = SystemInformation(handle=SYSTEM, **{**names, "uuid": identity.uuid or NO_UUID})
    board = BaseboardInformation(
        handle=BOARD,
        manufacturer=identity.manufacturer,
        features=BoardFeatures(hosting=True),
        chassis=Handle(CHASSIS),
    )
    return bios, system, board, ChassisInformation(handle=CHASSIS, manufacturer=identity.manufacturer)


def _processors(topology: Topology, cpuid: Cpuid | None) -> Iterator[ProcessorInformation]:
    """A structure for each socket."""
    cores = topology.dies * topology.cores
    one = _processor(cpuid or Cpuid()).with_counts(cores, cores * topology.threads)
    characteristics = one.characteristics.replace(multi_core=cores > 1, hardware_thread=topology.threads > 1)
    for number in range(topology.sockets):
        handle, socket = Handle(PROCESSORS + number), f"CPU {number}"
        yield attrs.evolve(one, handle=handle, socket=socket, characteristics=characteristics)


def _processor(cpuid: Cpuid) -> ProcessorInformation:
    """What CPUID says of a processor."""
    leaf = cpuid[Leaf.PROCESSOR]
    return ProcessorInformation(
        manufacturer=cpuid.vendor,
        version=cpuid.brand,
        processor_id=leaf.edx << 32 | leaf.eax,
        characteristics=ProcessorCharacteristics(
            long_mode=cpuid.has(Feature.LM),
            execute_protection=cpuid.has(Feature.NX),
            virtualization=cpuid.has(Feature.VMX) or cpuid.has(Feature.SVM),
        ),
    )


def _memory(ram: Sequence[Region]) -> Iterator[PhysicalMemoryArray | MemoryDevice | MemoryArrayMappedAddress]:
    """One array, its modules, and the addresses at which it lies."""
    memory_bytes = sum(region.size_bytes for region in ram)
    sizes = module_sizes(memory_bytes)
    yield PhysicalMemoryArray.of_size(memory_bytes, len(sizes), handle=ARRAY)
    for number, size_bytes in enumerate(sizes):
        yield MemoryDevice.of_size(size_bytes, handle=DEVICES + number, array=ARRAY, locator=f"DIMM {number}")
    for number, region in enumerate(ram):
        yield MemoryArrayMappedAddress.of_region(region, handle=ADDRESSES + number, array=ARRAY)
