"""Every hook that is a boot step: replaced and adjusted, with the effect seen in a plan. See `test_hooks`."""

import attrs

from anyvisor.assemble import Steps, assemble
from anyvisor.memory import MIB, Region
from anyvisor.plan import Blob, DeviceSpec, FirmwareTables
from anyvisor.plugins import load_plugins
from anyvisor.states import Change
from anyvisor.x86_64.bootparams import BootParams
from anyvisor.x86_64.chips import Pit
from anyvisor.x86_64.cpuid import Cpuid
from anyvisor.x86_64.features import Feature
from anyvisor.x86_64.gdt import BOOT_GDT, Gdt
from anyvisor.x86_64.generic import FACTS
from anyvisor.x86_64.image import load_kernel
from anyvisor.x86_64.lapic import Lapic
from anyvisor.x86_64.layout import Layout
from anyvisor.x86_64.mptable import MpTable, find_pointer
from anyvisor.x86_64.msrs import Msr, Msrs
from anyvisor.x86_64.paging import PageTables, walk_memory
from anyvisor.x86_64.smbios.entry_point import find_entry
from anyvisor.x86_64.smbios.tables import SmbiosTables
from anyvisor.x86_64.state import Regs, Sregs

pytest_plugins = ["hook_makers"]

# -- boot steps for the whole machine ----------------------------------------------------------------------------------


def test_anyvisor_memory_layout_moves_what_others_make(mine, planned):
    def moved(config):
        return attrs.evolve(Layout.for_memory(config.memory), gdt=0x3000)

    plan = planned(mine.replacing(moved), by="Mine")
    assert plan.blob("GDT").guest_address == plan.vcpus[0].state(Sregs).fields["gdt"].base == 0x3000
    adjusted = planned(mine.adjusting(lambda layout: attrs.evolve(layout, zero_page=0x4000)), by="linux+Adjuster")
    assert adjusted.vcpus[0].state(Regs).rsi == 0x4000


def test_anyvisor_load_kernel_says_where_the_first_instruction_is(mine, planned):
    def another_entry(config, layout):
        return attrs.evolve(load_kernel(config.kernel_path, layout), entry=0x1000010)

    assert planned(mine.replacing(another_entry), by="Mine").vcpus[0].state(Regs).rip == 0x1000010

    def with_module(kernel):
        return attrs.evolve(kernel, blobs=(*kernel.blobs, Blob("module", 64 * MIB, b"module")))

    plan = planned(mine.adjusting(with_module), by="linux+Adjuster")
    assert plan.read(64 * MIB, 6) == b"module"
    assert plan.blob("module").provided_by == "linux+Adjuster"


def test_anyvisor_devices_are_joined_and_a_wrapper_may_drop_some(mine, planned):
    spec = DeviceSpec("counter", "counter0", ports=(Region(0x700, 1),))
    plan = planned(mine.replacing(lambda: (spec,)), by="pc,Mine")
    assert plan.devices[-1] == spec and "serial0" in [device.name for device in plan.devices]

    def only_serial(parts):
        return [tuple(device for device in part if device.kind == "serial") for part in parts]

    assert [device.kind for device in planned(mine.adjusting(only_serial), by="pc+Adjuster").devices] == ["serial"]


def test_anyvisor_gdt_is_what_the_processor_is_given(mine, planned):
    other = Gdt(*BOOT_GDT.segments[:5], BOOT_GDT.segments[2])
    plan = planned(mine.replacing(lambda config, layout: other), by="Mine")
    assert Gdt.from_bytes(plan.blob("GDT").content) == other
    assert plan.blob("GDT").provided_by == "Mine"
    longer = planned(mine.adjusting(lambda gdt: Gdt(*gdt.segments, gdt.segments[3])), by="linux+Adjuster")
    assert longer.vcpus[0].state(Sregs).fields["gdt"].limit == len(longer.blob("GDT").content) - 1 == 55


def test_anyvisor_page_tables_map_what_the_processor_sees(mine, planned):
    def mapped_to(plan, address):
        return walk_memory(plan.read, plan.vcpus[0].state(Sregs).fields["cr3"], address)

    plan = planned(mine.replacing(lambda layout: PageTables.identity(64 * MIB, root=0x9000)), by="Mine")
    assert mapped_to(plan, 64 * MIB - 1) and not mapped_to(plan, 64 * MIB)
    moved = planned(mine.adjusting(lambda tables: tables.at(32 * MIB)), by="linux+Adjuster")
    assert moved.vcpus[0].state(Sregs).fields["cr3"] == 32 * MIB and mapped_to(moved, 5 * MIB)


def test_anyvisor_mptable_is_what_the_kernel_finds(mine, planned):
    def found(plan):
        return MpTable.from_memory(plan.read, find_pointer(plan.read))

    def single(layout):
        return MpTable.for_cpus(1).at(layout.mptable, pointer=layout.mp_pointer)

    assert len(found(planned(by="linux")).processors) == 2
    assert len(found(planned(mine.replacing(single), by="Mine")).processors) == 1
    assert find_pointer(planned(mine.adjusting(lambda tables: None), by="linux+Adjuster").read) is None


def test_anyvisor_acpi_is_in_memory_and_the_kernel_is_told(mine, planned, config):
    def acpi(layout, devices):
        assert devices
        return FirmwareTables(0xE0000 - 0x50000, (Blob("RSDP", 0xE0000 - 0x50000, b"RSD PTR "),))

    def moved(tables):
        return FirmwareTables(0x88000, (Blob("RSDP", 0x88000, tables.blobs[0].content),))

    def told(plan):
        return BootParams.from_bytes(plan.read(plan.vcpus[0].state(Regs).rsi, 4096)).acpi_rsdp_addr

    assert told(assemble(config.replace(tables="none"), FACTS, load_plugins(installed=False))) == 0
    assert told(assemble(config, FACTS, load_plugins(installed=False))) == 0xE0000
    plan = planned(mine.replacing(acpi), by="Mine")
    assert told(plan) == 0x90000 and plan.read(0x90000, 8) == b"RSD PTR " and plan.blob("RSDP").provided_by == "Mine"
    both = planned(mine.replacing(acpi), mine.adjusting(moved), by="Mine+Adjuster")
    assert told(both) == 0x88000 and both.read(0x88000, 8) == b"RSD PTR " and both.read(0x90000, 8) == bytes(8)


def test_anyvisor_smbios_is_what_the_kernel_finds(mine, planned):
    def found(plan):
        entry = find_entry(plan.read)
        return entry and SmbiosTables.from_memory(plan.read, entry)

    def own(layout):
        return usual.at(Region(0xF8000, layout.smbios.end - 0xF8000))

    usual = found(planned(by="linux"))
    assert "anyvisor machine" in usual.describe()
    moved = planned(mine.replacing(own), by="Mine")
    assert found(moved) == usual and find_entry(moved.read) == 0xF8000
    assert find_entry(planned(mine.adjusting(lambda tables: None), by="linux+Adjuster").read) is None


def test_anyvisor_boot_params_are_what_the_kernel_reads(mine, planned):
    def own(layout, kernel, initrd, acpi):
        return (Blob("zero page", layout.zero_page, b"mine"),)

    plan = planned(mine.replacing(own), by="Mine")
    assert plan.read(plan.vcpus[0].state(Regs).rsi, 4) == b"mine"
    assert plan.blob("zero page").provided_by == "Mine"
    more = planned(mine.adjusting(lambda blobs: (*blobs, Blob("dtb", 0x40000, b"dtb"))), by="linux+Adjuster")
    assert more.read(0x40000, 3) == b"dtb"


# -- boot steps for each vCPU ------------------------------------------------------------------------------------------


def test_anyvisor_cpuid_is_asked_for_each_vcpu(mine, planned):
    def own(facts, vcpu):
        cpuid = facts.supported_state(Cpuid)
        return cpuid.without(Feature.SSE2) if vcpu else cpuid

    def sse2(plan):
        return [vcpu.state(Cpuid).has(Feature.SSE2) for vcpu in plan.vcpus]

    assert sse2(planned(mine.replacing(own), by="Mine")) == [True, False]
    assert mine.calls["Mine"] == 2
    assert sse2(planned(mine.adjusting(lambda cpuid: cpuid.without(Feature.SSE2)), by="linux+Adjuster")) == [False] * 2


def test_anyvisor_registers_are_a_vcpus_first_ones(mine, planned):
    def own(kernel, vcpu):
        return (Regs(rip=kernel.entry, rax=0x100 + vcpu),)

    plan = planned(mine.replacing(own), by="Mine")
    assert [vcpu.state(Regs).rax for vcpu in plan.vcpus] == [0x100, 0x101]
    assert plan.vcpus[0].state(Sregs) is None

    def with_rdi(states):
        return tuple(attrs.evolve(state, rdi=7) if isinstance(state, Regs) else state for state in states)

    adjusted = planned(mine.adjusting(with_rdi), by="linux+Adjuster")
    assert adjusted.vcpus[0].state(Regs).rdi == 7 and adjusted.vcpus[1].state(Regs) is None


def test_anyvisor_lapic_is_changed_in_each_vcpu(mine, planned):
    plan = planned(mine.replacing(lambda vcpu: Change(Lapic, spurious_vector=0x1FF - vcpu)), by="Mine")
    assert [vcpu.state(Lapic).fields for vcpu in plan.vcpus] == [{"spurious_vector": 0x1FF}, {"spurious_vector": 0x1FE}]
    merged = planned(
        mine.adjusting(lambda change: Change(Lapic, **change.fields, spurious_vector=0x1FF)), by="linux+Adjuster"
    )
    assert {"lint0", "lint1", "spurious_vector"} <= merged.vcpus[0].state(Lapic).fields.keys()


def test_anyvisor_msrs_are_set_in_each_vcpu(mine, planned):
    plan = planned(mine.replacing(lambda facts, vcpu: Msrs.of({Msr.TSC: vcpu})), by="Mine")
    assert [{each.index: each.value for each in vcpu.state(Msrs)} for vcpu in plan.vcpus] == [
        {0x10: 0},
        {0x10: 1},
    ]
    adjusted = planned(mine.adjusting(lambda msrs: msrs.without(Msr.MTRR_DEF_TYPE)), by="linux+Adjuster")
    assert Msr.MTRR_DEF_TYPE not in adjusted.vcpus[0].state(Msrs) and Msr.STAR in adjusted.vcpus[0].state(Msrs)


# -- reserved for aarch64: no plan asks them, a step does --------------------------------------------------------------


def taken(hook, kind, *extra, **inputs):
    steps = Steps(load_plugins(extra, installed=False))
    result = steps.one(hook, kind, config=None, facts=FACTS, layout=None, **inputs)
    (step,) = steps.taken
    assert (step.hook, step.provided_by, step.adjusted_by) == (hook, "Mine", ("Adjuster",) if len(extra) > 1 else ())
    return result


def test_anyvisor_gic_is_replaced_and_adjusted(mine):
    provide, adjust = mine.replacing(lambda config, facts, layout: Pit(flags=1)), mine.adjusting(lambda _: Pit(flags=2))
    assert taken("anyvisor_gic", Pit, provide) == Pit(flags=1)
    assert taken("anyvisor_gic", Pit, provide, adjust) == Pit(flags=2)


def test_anyvisor_fdt_is_replaced_and_adjusted(mine):
    provide = mine.replacing(lambda devices: Blob("FDT", 0x1000, bytes(len(devices))))
    adjust = mine.adjusting(lambda blob: attrs.evolve(blob, guest_address=0x2000))
    assert taken("anyvisor_fdt", Blob, provide, devices=(1, 2)) == Blob("FDT", 0x1000, b"\0\0")
    assert taken("anyvisor_fdt", Blob, provide, adjust, devices=(1,)).guest_address == 0x2000
