"""Offences of memory maps, and of the tables from which a kernel learns of processors and devices."""

import attrs
from boot_plans import ENTRY, all_of, content, header, line, piece, poke, told, unchanged

from anyvisor.memory import MIB
from anyvisor.x86_64.acpi.fadt import Fadt
from anyvisor.x86_64.acpi.madt import Madt
from anyvisor.x86_64.cpuid import Cpuid
from anyvisor.x86_64.e820 import E820Entry, E820Type
from anyvisor.x86_64.firmware_tables import Firmware
from anyvisor.x86_64.mptable import MpTable

RAM_END = 256 * MIB
RAM, RESERVED = E820Type.RAM, E820Type.RESERVED
RSDP = 0xE0000


def memory_map(*entries):
    return told(lambda page: attrs.evolve(page, e820=tuple(E820Entry(*each) for each in entries)))


LOW, ROM = (0, 0x9E000, RAM), (0x9E000, 0x62000, RESERVED)
HIGH = (MIB, RAM_END - MIB, RAM)


def rewritten(kind, change):
    """An ACPI table changed and written anew, as long as before."""

    def changed(plan):
        placed = next(each for each in Firmware(plan).acpi.placed if isinstance(each.table, kind))
        return poke(placed.address, change(placed.table).to_bytes())(plan)

    return changed


def madt_entry(number, **fields):
    """One entry of the MADT with other fields."""

    def change(madt):
        entries = list(madt.entries)
        entries[number] = attrs.evolve(entries[number], **fields)
        return attrs.evolve(madt, entries=tuple(entries))

    return rewritten(Madt, change)


def swapped(madt):
    first, second, *rest = madt.entries
    return attrs.evolve(madt, entries=(second, first, *rest))


def mp(change):
    """The MP table with other entries."""

    def changed(old):
        table = MpTable.decode(MpTable(()).pointer_bytes(4), old)
        return attrs.evolve(table, entries=tuple(change(each) for each in table.entries)).to_bytes()

    return content("mp table", changed)


def mp_entries(kind, **fields):
    """The MP table's entries of a kind with other fields, but for those of the second processor."""
    return mp(lambda each: attrs.evolve(each, **fields) if type(each).__name__ == kind and _is_first(each) else each)


def _is_first(entry):
    return getattr(entry, "apic_id", 0) == 0


def cpuid(leaf, **registers):
    """The second vCPU's CPUID with other registers in a leaf."""

    def change(plan):
        second = plan.vcpus[1]
        old = second.state(Cpuid)
        new = old.replace(
            old[leaf].replace(**{name: value(getattr(old[leaf], name)) for name, value in registers.items()})
        )
        states = tuple(new if each is old else each for each in second.states)
        return attrs.evolve(plan, vcpus=(plan.vcpus[0], attrs.evolve(second, states=states)))

    return change


def gone(*names):
    """No such pieces, nor what the kernel is told of them."""

    def change(plan):
        plan = told(lambda page: attrs.evolve(page, acpi_rsdp_addr=0))(plan) if "RSDP" in names else plan
        return attrs.evolve(plan, blobs=tuple(each for each in plan.blobs if each.name not in names))

    return change


def one_vcpu(plan):
    return attrs.evolve(plan, vcpus=plan.vcpus[:1])


CASES = [
    ("memory-map-ram", "no RAM", "bzimage", memory_map((0, RAM_END, RESERVED)), memory_map(LOW, ROM, HIGH)),
    ("memory-map-ram", "more than there is", "bzimage", memory_map(LOW, ROM, (MIB, RAM_END - MIB + 4096, RAM)),
     unchanged),
    ("memory-map-overlaps", "RAM under reserved", "bzimage",
     memory_map(LOW, ROM, HIGH, (RAM_END - 4096, 4096, RESERVED)),
     memory_map(LOW, ROM, HIGH, (MIB, 4096, RAM))),
    ("kernel-memory", "a hole", "bzimage", memory_map(LOW, ROM, (MIB, ENTRY + 0x400000 - MIB, RAM),
                                                       (ENTRY + 0x401000, RAM_END - ENTRY - 0x401000, RAM)),
     memory_map(LOW, ROM, (MIB, ENTRY + 0x400000 - MIB, RAM), (ENTRY + 0x400000, RAM_END - ENTRY - 0x400000, RAM))),
    ("kernel-memory, initrd-apart", "not enough", "bzimage", header(init_size=RAM_END), unchanged),
    ("initrd-memory", "reserved", "bzimage", memory_map(LOW, ROM, (MIB, RAM_END - 2 * MIB, RAM),
                                                         (RAM_END - MIB, MIB, RESERVED)), unchanged),
    ("memory-map-holes", "the BIOS's", "bzimage", memory_map(LOW, HIGH), memory_map(LOW, ROM, HIGH)),
    ("firmware-reserved", "called RAM", "bzimage", memory_map((0, RAM_END, RAM)), unchanged),
    # tables
    ("acpi-tables", "RSDP's checksum", "bzimage", poke(RSDP + 9, b"X"), unchanged),
    ("acpi-tables", "told elsewhere", "bzimage", told(lambda page: attrs.evolve(page, acpi_rsdp_addr=RSDP + 16)),
     told(lambda page: attrs.evolve(page, acpi_rsdp_addr=0))),
    ("acpi-tables", "outside RAM", "bzimage", told(lambda page: attrs.evolve(page, acpi_rsdp_addr=RAM_END)), unchanged),
    ("acpi-tables", "found, and broken", "multiboot", poke(RSDP + 9, b"X"), unchanged),
    ("acpi-tables", "a table's checksum", "pvh", lambda plan: poke(_madt(plan) + 20, b"\xff")(plan), unchanged),
    ("acpi-dsdt", "none", "bzimage", rewritten(Fadt, lambda fadt: attrs.evolve(fadt, dsdt=0, x_dsdt=0)), unchanged),
    ("mp-table", "the table's checksum", "bzimage", content("mp table", lambda old: old[:20] + b"X" + old[21:]),
     unchanged),
    ("mp-table", "the pointer's checksum", "bzimage", content("mp pointer", lambda old: old[:10] + b"X" + old[11:]),
     all_of(gone("mp pointer"), piece(0x9FC18, b"_MP_"))),
    ("smbios-tables", "entry point's checksum", "bzimage", poke(0xF0005, b"\x00"), unchanged),
    # processors
    ("apic-id-cpuid", "leaf 1", "bzimage", cpuid(1, ebx=lambda old: old & 0xFFFFFF | 9 << 24),
     cpuid(1, ebx=lambda old: old ^ 0xFF)),
    ("apic-id-cpuid", "leaf 0xb", "bzimage", cpuid(0xB, edx=lambda _: 9), cpuid(0xB, edx=lambda old: old)),
    ("apic-ids-agree", "MADT", "bzimage", madt_entry(1, apic_id=9), madt_entry(1, uid=9)),
    ("apic-ids-agree", "a disabled processor", "pvh", madt_entry(1, flags=0), unchanged),
    ("apic-ids-agree", "one twice", "bzimage", madt_entry(1, apic_id=0), unchanged),
    ("apic-ids-agree", "the only one twice", "bzimage",
     all_of(gone("mp pointer"), madt_entry(1, apic_id=0), one_vcpu), unchanged),
    ("apic-ids-agree", "MP table", "bzimage",
     mp(lambda each: attrs.evolve(each, apic_id=9) if getattr(each, "apic_id", 0) == 1 else each), unchanged),
    ("boot-processor", "MADT's second", "bzimage", rewritten(Madt, swapped), unchanged),
    ("boot-processor", "nobody marked", "bzimage", mp_entries("Processor", bootstrap=False), unchanged),
    ("ioapic-ids", "a processor's", "bzimage", mp_entries("IoApic", id=1), mp_entries("IoApic", id=7)),
    ("processor-tables", "none", "bzimage", gone("RSDP", "mp pointer"), gone("mp pointer")),
    ("processor-tables", "acpi=off", "bzimage", all_of(gone("mp pointer"), line(b"console=ttyS0 acpi=off\0")),
     line(b"console=ttyS0 acpi=off\0")),
]  # fmt: skip


def _madt(plan):
    return next(each.address for each in Firmware(plan).acpi.placed if isinstance(each.table, Madt))
