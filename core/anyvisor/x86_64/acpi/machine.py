"""The ACPI tables of a machine, from what it is made of: its topology, its RAM, its devices and its NUMA nodes.

>>> from anyvisor.memory import MIB
>>> from anyvisor.topology import Topology
>>> tables = acpi_tables(topology=Topology(cores=2), ram=(Region(0, 64 * MIB),))
>>> [each.name for each in tables.tables]
['FADT', 'DSDT', 'MADT', 'SSDT']
>>> placed = tables.at(Region(0xA0000, 0x40000), rsdp=0xE0000)
>>> [blob.name for blob in placed.blobs]
['RSDP', 'XSDT', 'FADT', 'DSDT', 'MADT', 'SSDT']
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

import attrs

from anyvisor.errors import PlanError
from anyvisor.memory import Region
from anyvisor.plan import DeviceSpec
from anyvisor.topology import NumaNode, Topology, distances
from anyvisor.x86_64.acpi import power
from anyvisor.x86_64.acpi.dsdt import ISA_INTERRUPTS, dsdt_aml, processors_aml
from anyvisor.x86_64.acpi.entries import Entry
from anyvisor.x86_64.acpi.facs import Facs
from anyvisor.x86_64.acpi.fadt import BootFlags, Fadt, FadtFlags
from anyvisor.x86_64.acpi.generic_address import GenericAddress
from anyvisor.x86_64.acpi.hpet import Hpet, HpetBlock
from anyvisor.x86_64.acpi.madt import Madt
from anyvisor.x86_64.acpi.mcfg import Ecam, Mcfg
from anyvisor.x86_64.acpi.slit import Slit
from anyvisor.x86_64.acpi.spcr import Spcr, SpcrInterrupts
from anyvisor.x86_64.acpi.srat import MemoryAffinity, Srat, affinity, cut
from anyvisor.x86_64.acpi.table import SystemTable, Table
from anyvisor.x86_64.acpi.tables import AcpiTables
from anyvisor.x86_64.reset_vector import reset_register
from anyvisor.x86_64.topology import apic_ids as ids_of

AML_REVISION = 2
"""Of a DSDT or SSDT whose integers have 64 bits."""
CENTURY = 0x32
"""The byte of CMOS RAM that holds the century."""
BOARD_DEVICES = {"serial", "i8042", "rtc"}
"""Kinds of devices that a PC had on its ISA bus."""
INTEL_HPET = HpetBlock(revision=1, last_comparator=2, wide_counter=True, legacy_replacement=True, pci_vendor=0x8086)
NO_INTERRUPTS = (
    "reduced hardware needs APICs, since an OS leaves a pair of 8259s alone there; leave out reduced_hardware "
    "(with a device of kind acpi-pm), or take a processor with a local APIC"
)
CHIP_IDS = range(255)
"""The numbers that an I/O APIC can have as its id, as long as no local APIC has it."""


def acpi_tables(
    *,
    topology: Topology,
    ram: Sequence[Region],
    devices: Sequence[DeviceSpec] = (),
    numa: Sequence[NumaNode] = (),
    apics: bool = True,
    reduced_hardware: bool = False,
) -> AcpiTables:
    """The tables of an x86_64 machine: FADT, FACS, DSDT, MADT, SRAT, SLIT, SPCR, HPET, MCFG, and an SSDT of processors.

    `ram` and `numa` say where memory lies and which of it is near to which vCPU; `apics` whether there are local and
    I/O APICs. The hardware is reduced where `reduced_hardware` asks for it or there is no device of kind `acpi-pm`.
    A device brings the tables that describe it. PlanError for devices that no table can describe, and for reduced
    hardware without APICs; ConfigError for a topology without APIC ids.
    """
    ids = ids_of(topology)
    pm = _at_ports("acpi-pm", devices)
    reduced = reduced_hardware or pm is None or bool(pm.settings.get("reduced"))
    if reduced and not apics:
        raise PlanError(f"ACPI: {NO_INTERRUPTS}")
    tables: list[SystemTable | Facs] = [fadt(devices, reduced), *([] if reduced else [Facs()])]
    tables.append(Table("DSDT", dsdt_aml(devices), revision=AML_REVISION))
    if apics:
        sci = None if reduced or pm is None else pm.gsi
        tables.append(Madt.for_processors(ids, ioapic_id=ioapic_id(ids), sci_gsi=sci))
    if numa:
        tables += [srat(ram, numa, ids), Slit(distances(numa))]
    tables += _device_tables(devices, apics)
    tables.append(Table("SSDT", processors_aml(range(len(ids))), revision=AML_REVISION))
    return AcpiTables(tuple(tables))


def ioapic_id(apic_ids: Sequence[int]) -> int:
    """The I/O APIC's id: the one above all local APICs', as in the MP table; 0 when they have them all."""
    free = set(CHIP_IDS) - set(apic_ids)
    return max(apic_ids) + 1 if max(apic_ids) + 1 in free else min(free, default=0)


# -- the FADT --------------------------------------------------------------------------------------------------


def fadt(devices: Sequence[DeviceSpec], reduced: bool) -> Fadt:
    """The FADT of a machine with those devices; without the addresses of other tables."""
    pm, kinds = _at_ports("acpi-pm", devices), {each.kind for each in devices}
    boot = BootFlags(
        legacy_devices=bool(kinds & BOARD_DEVICES),
        i8042="i8042" in kinds,
        no_vga=True,
        no_cmos_rtc="rtc" not in kinds,
    )
    table = Fadt(iapc_boot_arch=boot, century=CENTURY if "rtc" in kinds else 0)
    return _with_reset(_reduced(table, pm) if reduced or pm is None else _fixed(table, pm), devices)


_NO_BUTTONS = FadtFlags(wbinvd=True, proc_c1=True, pwr_button=True, slp_button=True, fix_rtc=True)


def _fixed(table: Fadt, pm: DeviceSpec) -> Fadt:
    """The table of fixed hardware."""
    base = pm.ports[0].start
    event, control, timer = base + power.PM1_EVENT, base + power.PM1_CONTROL, base + power.PM_TIMER
    return attrs.evolve(
        table,
        flags=_NO_BUTTONS.replace(tmr_val_ext=True),
        sci_int=pm.gsi or 0,
        pm1a_evt_blk=event,
        pm1a_cnt_blk=control,
        pm_tmr_blk=timer,
        pm1_evt_len=power.PM1_EVENT_BYTES,
        pm1_cnt_len=power.PM1_CONTROL_BYTES,
        pm_tmr_len=power.PM_TIMER_BYTES,
        x_pm1a_evt_blk=GenericAddress.io(event, 8 * power.PM1_EVENT_BYTES),
        x_pm1a_cnt_blk=GenericAddress.io(control, 8 * power.PM1_CONTROL_BYTES),
        x_pm_tmr_blk=GenericAddress.io(timer, 8 * power.PM_TIMER_BYTES),
    )


def _reduced(table: Fadt, pm: DeviceSpec | None) -> Fadt:
    """The table of reduced hardware; without the device there are no sleep registers either."""
    table = attrs.evolve(table, flags=_NO_BUTTONS.replace(hw_reduced_acpi=True))
    if pm is None:
        return table
    control, status = (pm.ports[0].start + each for each in (power.SLEEP_CONTROL, power.SLEEP_STATUS))
    return attrs.evolve(
        table,
        sleep_control_reg=GenericAddress.io(control, 8),
        sleep_status_reg=GenericAddress.io(status, 8),
    )


def _with_reset(table: Fadt, devices: Sequence[DeviceSpec]) -> Fadt:
    """The table with the register that resets the machine, if there is one."""
    register = reset_register(devices)
    if register is None:
        return table
    port, value = register
    flags = table.flags.replace(reset_reg_sup=True)
    return attrs.evolve(table, flags=flags, reset_reg=GenericAddress.io(port, 8), reset_value=value)


# -- NUMA, and tables of devices -------------------------------------------------------------------------------


def srat(ram: Iterable[Region], numa: Sequence[NumaNode], apic_ids: Sequence[int]) -> Srat:
    """Which vCPUs and which RAM belong to which node; RAM is dealt out from address 0 up."""
    entries: list[Entry] = []
    for number, (node, memory) in enumerate(zip(numa, cut(ram, [each.memory for each in numa]), strict=True)):
        entries += [affinity(number, apic_ids[vcpu]) for vcpu in node.vcpus]
        entries += [MemoryAffinity(number, each.start, each.size_bytes) for each in memory]
    return Srat(entries=tuple(entries))


def _device_tables(devices: Sequence[DeviceSpec], apics: bool) -> Iterator[SystemTable]:
    """A table for the console, the event timers and PCI Express, as far as they exist."""
    serial = _at_ports("serial", devices)
    hpet = next((each for each in devices if each.kind == "hpet" and each.mmio), None)
    spaces = tuple(Ecam.covering(each.mmio[0]) for each in devices if each.kind == "pcie" and each.mmio)
    if serial is not None:
        yield _console(serial, apics)
    if hpet is not None:
        yield Hpet(INTEL_HPET, GenericAddress.memory(hpet.mmio[0].start, 64))
    if spaces:
        yield Mcfg(spaces=tuple(attrs.evolve(each, segment=number) for number, each in enumerate(spaces)))


def _console(serial: DeviceSpec, apics: bool) -> Spcr:
    """The console at a serial port. Interrupts from 16 up are no ISA bus's, so the pair of 8259s has them not."""
    wired, gsi = serial.gsi is not None, serial.gsi or 0
    isa = wired and gsi < ISA_INTERRUPTS
    interrupts = SpcrInterrupts(pic=isa, io_apic=wired and apics)
    address = GenericAddress.io(serial.ports[0].start, 8)
    return Spcr(address=address, interrupts=interrupts, irq=gsi if isa else 0, gsi=gsi)


def _at_ports(kind: str, devices: Iterable[DeviceSpec]) -> DeviceSpec | None:
    """The first device of that kind that has ports, without which no table can tell of it."""
    return next((each for each in devices if each.kind == kind and each.ports), None)
