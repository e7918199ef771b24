"""Differences of x86_64 plans are told in the manuals' words."""

import struct

import attrs
import pytest

from anyvisor import MachineConfig, assemble, generic_facts, hookimpl
from anyvisor.memory import GIB, MIB, Region
from anyvisor.plugins import load_plugins
from anyvisor.states import Change
from anyvisor.testing.kernels import tiny_kernel
from anyvisor.x86_64 import differences
from anyvisor.x86_64.cpuid import Cpuid, CpuidEntry
from anyvisor.x86_64.features import Feature
from anyvisor.x86_64.gdt import BOOT_GDT, Gdt, Segment
from anyvisor.x86_64.mptable import MpTable
from anyvisor.x86_64.msrs import MiscEnable, Msr, Msrs
from anyvisor.x86_64.state import Sregs
from seen_plans import kernel_for


@pytest.fixture
def kernel(tmp_path):
    return tiny_kernel(tmp_path / "vmlinux")


@pytest.fixture
def plan(kernel):
    """Plans with a plugin of those hooks, and for a machine of those options."""

    def plan(options=None, **hooks):
        plugins = [type("Mine", (), {name: staticmethod(hook) for name, hook in hooks.items()})] if hooks else []
        usual = {"kernel": kernel, "memory": "64M", "vcpus": 2, "tables": "mptable"}
        config = MachineConfig(**{**usual, **(options or {})})
        return assemble(config, generic_facts(), load_plugins(plugins, installed=False))

    return plan


def adjusts(change):
    @hookimpl(wrapper=True)
    def adjust():
        return change((yield))

    return adjust


def about(difference, name):
    """Words and details of the changes of a piece of memory."""
    return [(change.words, *change.details) for change in difference.of("Memory") if change.subject == name]


def replaced(plan, name, content):
    """The plan with other bytes in one of its pieces."""
    old = plan.blob(name)
    new = attrs.evolve(old, content=content, size_bytes=len(content))
    return attrs.evolve(plan, blobs=tuple(new if each is old else each for each in plan.blobs))


def test_segments_are_told_by_selector_and_field(plan):
    idle = Segment.tss(busy=False, base=0x5000, available=True)
    gdt = Gdt(*BOOT_GDT[:3], Segment.data(limit_bytes=0xFFFFF, privilege=3), idle, Segment.code(bits=32))
    found = plan().diff(plan(anyvisor_gdt=adjusts(lambda _: gdt)))
    assert about(found, "GDT") == [
        ("resized",),
        (
            "14 bytes changed, the first at offset 0x19",
            "+ 0x20 available yes",
            "+ 0x30 code32 accessed|readable|executable, base 0x0, limit 0xffffffff, dpl 0, granularity 4 KiB pages",
            "0x18 limit 0xffffffff -> 0xfffff",
            "0x18 dpl 0 -> 3",
            "0x20 tss64 busy -> tss64",
            "0x20 base 0x0 -> 0x5000",
        ),
    ]
    assert "vCPU 0 Sregs.gdt.limit 0x2f -> 0x37" in found
    assert "vCPU 0 Sregs.ds|es|fs|gs|ss.dpl 0x0 -> 0x3" in found


def test_features_are_told_by_name_and_the_rest_by_leaf_and_register(plan):
    def change(cpuid):
        leaf = cpuid[1].replace(ebx=cpuid[1].ebx | 0x1100)
        return cpuid.replace(leaf).without(Feature.SSE2, Feature.MCA).with_(Feature.SSE3)

    found = plan().diff(plan(anyvisor_cpuid=adjusts(change)))
    for line in ("Cpuid +SSE3", "Cpuid -SSE2", "Cpuid -MCA"):
        assert f"every vCPU {line}" in found
    assert "every vCPU Cpuid +SSE3 -MCA -SSE2" in str(found)
    assert any("Cpuid 0x1 EBX: 0x" in str(change) for change in found)


def test_msrs_are_told_by_name_and_bits(plan):
    def change(msrs):
        return msrs.replace({Msr.MISC_ENABLE: MiscEnable(), Msr.PAT: 6}).without(Msr.STAR)

    found = plan().diff(plan(anyvisor_msrs=adjusts(change)))
    assert [str(each) for each in found.of("vCPUs")] == [
        "every vCPU Msrs.IA32_STAR 0x0 -> (as it was)",
        "every vCPU Msrs.IA32_MISC_ENABLE 0x1 (fast_strings) -> 0x0",
        "every vCPU Msrs.IA32_PAT (as it was) -> 0x6",
    ]


def test_states_in_another_order_are_told():
    one, two = CpuidEntry(0, eax=1), CpuidEntry(1)
    assert differences.state_changes(Cpuid((one, two)), Cpuid((two, one))) == []
    assert differences.state_changes(Msrs.of({1: 2}), Msrs.of({1: 2})) == []
    assert differences.state_changes(Change(Sregs, cr3=1), Change(Sregs, cr3=2)) is None


def test_mp_table_entries_are_told(plan):
    def change(tables):
        table = MpTable.for_cpus(2, apic_ids=[0, 4])
        return attrs.evolve(table, oem="EXAMPLE").at(Region(tables.blobs[0].guest_address, 0x1000), tables.pointer)

    ((words, *details),) = about(plan().diff(plan(anyvisor_mptable=adjusts(change))), "mp table")
    assert words.endswith("bytes changed, the first at offset 0x7")
    assert details[:4] == [
        "- processor 1 enabled, signature 0x600, features 0x201",
        "- I/O APIC 2 enabled, version 0x11, at 0xfec00000",
        "+ processor 4 enabled, signature 0x600, features 0x201",
        "+ I/O APIC 5 enabled, version 0x11, at 0xfec00000",
    ]
    assert "made by ANYVISOR anyvisor -> EXAMPLE anyvisor" in details
    assert "INT bus 0 irq 4 I/O APIC 2 pin 4 -> I/O APIC 5 pin 4" in details


def test_acpi_tables_are_told_by_what_they_describe(plan):
    found = plan({"tables": "acpi"}).diff(plan({"tables": "acpi", "vcpus": 3, "reduced_hardware": True}))
    assert "+ Device C002 _HID ACPI0007, _UID 2" in about(found, "SSDT")[-1]
    fadt = about(found, "FADT")[-1]
    assert {"- fixed hardware, SCI 9, always in ACPI mode", "+ hardware-reduced"} <= set(fadt)
    assert not any("header" in line for line in fadt)
    (xsdt,) = (details for words, *details in about(found, "XSDT") if "bytes changed" in words)
    assert {line[:13] for line in xsdt} == {"- table at 0x", "+ table at 0x"}


def test_smbios_structures_are_told_by_handle(plan):
    ((words, *details),) = about(plan().diff(plan({"memory": "128M"})), "SMBIOS tables")
    assert words.startswith("4 bytes changed")
    assert details[:2] == [
        "handle 0x1000 type 16, Physical Memory Array: 64M in 1 devices -> "
        "type 16, Physical Memory Array: 128M in 1 devices",
        "handle 0x1000 maximum capacity 65536 KiB -> 131072 KiB",
    ]


@pytest.mark.parametrize(
    ("protocol", "place", "field"),
    [
        ("pvh", "PVH start info", "rsdp_paddr 0xe0000 -> 0x0"),
        ("multiboot", "multiboot information", "mem_upper 0xfc00 -> 0x1fc00"),
    ],
)
def test_what_other_protocols_hand_over_is_told_by_field(plan, tmp_path, protocol, place, field):
    options = {"kernel": kernel_for(protocol, tmp_path), "protocol": protocol, "tables": "acpi", "command_line": "one"}
    found = plan(options).diff(plan({**options, "tables": "none", "memory": "128M", "command_line": "three"}))
    assert about(found, place)[-1][1:] == (field, "e820 0x100000 to 0x3ffffff -> 0x7ffffff")
    (text,) = about(found, "command line")[-1][1:]
    assert text.startswith("text '") and text.endswith("three'")


def test_what_is_dropped_is_told_once_and_with_its_place(plan):
    found = plan().diff(plan(anyvisor_mptable=adjusts(lambda _: None)))
    assert [str(change) for change in found] == [
        "anyvisor_mptable: dropped by Mine",
        "mp table: removed: 308 bytes at 0x9e000-0x9e133",
        "mp pointer: removed: 16 bytes at 0x9fc10-0x9fc1f",
    ]


def test_a_move_is_told_with_what_points_there(plan):
    def move(layout):
        elsewhere = {
            "command_line": attrs.evolve(layout.command_line, start=0x40000),
            "page_tables": attrs.evolve(layout.page_tables, start=0xA000, size_bytes=0x10000),
            "mptable": attrs.evolve(layout.mptable, start=0x9F000, size_bytes=0x800),
        }
        return attrs.evolve(layout, **elsewhere)

    found = plan().diff(plan(anyvisor_memory_layout=adjusts(move)))
    assert about(found, "command line") == [("moved",)]
    assert about(found, "zero page")[0][1:] == ("cmd_line_ptr 0x20000 -> 0x40000",)
    assert about(found, "mp pointer")[0][1:] == ("leads to 0x9e000 -> 0x9f000",)
    assert about(found, "BIOS data area")[0][1:] == ("base memory 632 KiB -> 636 KiB",)
    assert [words[1:] for words in about(found, "page tables")] == [(), ("page tables: the same entries",)]
    assert "vCPU 0 Sregs.cr3 0x9000 -> 0xa000" in found


def test_page_tables_are_told_by_what_they_map(plan):
    before = plan()
    tables = bytearray(before.blob("page tables").content)
    struct.pack_into("<Q", tables, 2 * 4096 + 8, 4 * MIB | 0x83)
    assert about(before.diff(replaced(before, "page tables", bytes(tables))), "page tables")[0][1:] == (
        "+ linear 0x200000 to 0x3fffff, leads to 0x400000, in pages of 2M, that are writable",
        "+ linear 0x400000 to 0xffffffff, leads to itself, in pages of 2M, that are writable",
        "linear 0x0 to 0xffffffff -> 0x1fffff",
    )
    more = before.diff(plan({"memory": 4 * GIB}))
    assert about(more, "page tables")[-1][1:] == ("linear 0x0 to 0xffffffff -> 0x13fffffff",)


def test_the_zero_page_is_told_by_field_and_the_command_line_in_full(plan):
    found = plan().diff(plan({"memory": "128M", "command_line": "quiet"}))
    assert about(found, "zero page")[0][1:] == ("e820 0x100000 to 0x3ffffff -> 0x7ffffff",)
    assert about(found, "command line")[-1][1:] == ("text 'console=ttyS0 panic=-1 pci=off acpi=off' -> 'quiet'",)


def test_a_table_that_cannot_be_read_is_told_with_the_reason(plan):
    before = plan()
    gdt = bytearray(before.blob("GDT").content)
    gdt[0x1D] = 0x8E  # a gate
    _, *details = about(before.diff(replaced(before, "GDT", bytes(gdt))), "GDT")[0]
    assert "+ the GDT cannot be read: GDT entry of selector 0x18: *" in [
        f"{line.partition('0x18: ')[0]}0x18: *" for line in details
    ]


def test_a_damaged_mp_table_is_told_byte_by_byte(plan):
    before = plan()
    table = before.blob("mp table").content
    found = before.diff(replaced(before, "mp table", b"PCMQ" + table[4:]))
    assert about(found, "mp table") == [("1 byte changed, the first at offset 0x3",)]


def test_every_table_says_where_it_lies(plan):
    made = plan()
    places = {table.title: table.regions for table in differences.tables(made)}
    assert list(places) == [
        "BIOS data area",
        "GDT",
        "page tables",
        "zero page",
        "command line",
        "MP pointer",
        "MP table",
        "SMBIOS entry point",
        "SMBIOS tables",
    ]
    names = {"MP pointer": "mp pointer", "MP table": "mp table"}
    for title, regions in places.items():
        blob = made.blob(names.get(title, title))
        assert blob.region.contains(regions[0].start, 1), title
        assert sum(region.size_bytes for region in regions) == len(blob.content), title


def test_a_table_of_a_plugin_in_a_piece_of_another_name_is_decoded(plan):
    def renamed(made):
        blobs = (attrs.evolve(each, name=each.name.replace("GDT", "x")) for each in made.blobs)
        return attrs.evolve(made, blobs=tuple(blobs))

    user = plan(anyvisor_gdt=adjusts(lambda gdt: Gdt(*gdt[:3], Segment.data(privilege=3), gdt[4])))
    before, after = renamed(plan()), renamed(user)
    assert about(before.diff(after), "x") == [("1 byte changed, the first at offset 0x1d", "0x18 dpl 0 -> 3")]
