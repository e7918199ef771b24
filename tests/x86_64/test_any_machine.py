"""Whatever is configured: a clear refusal, or a plan whose pieces fit and whose tables all tell of the same machine."""

import collections
import itertools

import pytest
from any_machines import HOSTS, LACKING, configs, facts, with_transports, write_images
from hypothesis import Phase, event, given, settings
from hypothesis import strategies as st

from anyvisor.assemble import assemble
from anyvisor.errors import ConfigError, KernelImageError, PlanError
from anyvisor.x86_64.acpi.madt import IoApic, Lapic, Madt, X2Apic
from anyvisor.x86_64.acpi.srat import LapicAffinity, MemoryAffinity, Srat, X2ApicAffinity
from anyvisor.x86_64.cpuid import Cpuid
from anyvisor.x86_64.e820 import E820Type
from anyvisor.x86_64.features import Feature
from anyvisor.x86_64.firmware_tables import Firmware
from anyvisor.x86_64.state import Sregs

KERNELS_OWN = {"BIOS data area", "GDT", "IDT", "page tables", "zero page", "command line", "initrd"}
"""What a kernel takes over with the RAM: it reads it while it starts, or knows that it is there."""
HANDED_OVER = ("kernel", "raw image", "PVH", "multiboot", "module")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    made = tmp_path_factory.mktemp("images")
    write_images(made)
    return made


@settings(max_examples=150, deadline=None, phases=[Phase.explicit, Phase.reuse, Phase.generate, Phase.shrink])
@given(st.data(), st.sampled_from(HOSTS), st.sampled_from(LACKING), st.sampled_from([0, 1, 32]))
def test_any_machine_is_refused_clearly_or_fits_together(folder, data, host, lacking, transports):
    config = data.draw(configs(folder))
    plan, refusal = attempt(config, facts(host, lacking), with_transports(transports))
    if plan is None:
        event(type(refusal).__name__)
        assert len(str(refusal)) > 30, "it says what is wrong, and why"
        return
    event("planned")
    firmware = Firmware(plan)
    check_pieces(plan)
    check_memory_map(plan, firmware)
    check_ids(config, plan, firmware)
    check_numa(config, plan, firmware)


def attempt(config, host, plugins):
    """The plan, or else why there is none."""
    try:
        return assemble(config, host, plugins), None
    except (ConfigError, PlanError, KernelImageError) as error:
        return None, error


def check_pieces(plan):
    """They lie in RAM, and none over another."""
    placed = sorted(
        (blob.guest_address, blob.guest_address + blob.size_bytes) for blob in plan.blobs if blob.size_bytes
    )
    for (_, end), (start, _) in itertools.pairwise(placed):
        assert end <= start
    for start, end in placed:
        assert any(ram.start <= start and end <= ram.end for ram in plan.ram)


def check_memory_map(plan, firmware):
    """It has all RAM, as RAM or as reserved, and nothing else; what must survive lies where the map has no RAM."""
    told = firmware.handed_over
    if told is None:
        return
    entries = sorted((each.start, each.end, each.type is E820Type.RAM) for each in told.memory_map)
    for (_, end, _), (start, _, _) in itertools.pairwise(entries):
        assert end <= start
    for start, end, usable in entries:
        assert start < end
        assert not usable or any(ram.start <= start and end <= ram.end for ram in plan.ram)
    for ram in plan.ram:
        mapped = sum(max(0, min(end, ram.end) - max(start, ram.start)) for start, end, _ in entries)
        assert mapped == ram.size_bytes
    for blob in plan.blobs:
        parts = [usable for start, end, usable in entries if start < blob.region.end and blob.guest_address < end]
        if blob.size_bytes:
            assert set(parts) == {is_the_kernels(blob)}, blob.region


def is_the_kernels(blob):
    return blob.name in KERNELS_OWN or blob.name.startswith(HANDED_OVER)


def check_ids(config, plan, firmware):
    """Every table has the same APIC ids, and no I/O APIC has one of them."""
    ids = [glued(config.topology, vcpu) for vcpu in range(config.vcpus)]
    assert [vcpu.hardware_id for vcpu in plan.vcpus] == ids
    for vcpu, number in zip(plan.vcpus, ids, strict=True):
        check_cpuid(vcpu.state(Cpuid), number, config.topology, vcpu.index)
        sregs = vcpu.state(Sregs)
        base = sregs.fields.get("apic_base") if sregs else None
        assert (base is not None and base.x2apic and base.bsp == (vcpu.index == 0)) == (ids[-1] > 254)
    has_apics = plan.vcpus[0].state(Cpuid).has(Feature.APIC)
    madt, mptable = firmware.acpi_table(Madt), firmware.mptable
    assert (madt is not None) == (config.wants_acpi and has_apics)
    assert (mptable is not None) == (config.wants_mptable and has_apics)
    if madt:
        assert [each.apic_id for each in madt.entries if isinstance(each, Lapic | X2Apic)] == ids
        assert all(each.apic_id <= 254 for each in madt.entries if isinstance(each, Lapic))
        all_are_taken = set(range(255)) <= set(ids)
        assert [each.id in ids for each in madt.entries if isinstance(each, IoApic)] == [all_are_taken]
    if mptable:
        assert [each.apic_id for each in mptable.table.processors] == ids


def glued(topology, vcpu):
    """The APIC id, worked out by multiplication."""
    number, width = 0, 1
    for count in (topology.threads, topology.cores, topology.dies, topology.sockets):
        vcpu, part = divmod(vcpu, count)
        number += part * width
        width *= 1 << (count - 1).bit_length()
    return number


def check_cpuid(cpuid, number, topology, vcpu):
    assert cpuid[1].ebx >> 24 == number % 256
    for leaf in (0xB, 0x1F, 0x8000_0026):
        assert {each.edx for each in cpuid.subleaves(leaf)} <= {number}
    assert cpuid.apic_id == number
    node = vcpu // (topology.threads * topology.cores)
    for each in cpuid.subleaves(0x8000_001E):
        assert (each.eax, each.ecx & 0xFF) == (number, node % 256)
    last = cpuid.subleaves(0x1F) or cpuid.subleaves(0xB)
    if last:
        assert last[-2].ebx == topology.threads * topology.cores * topology.dies
        assert number >> last[-2].eax == vcpu // last[-2].ebx
    assert not cpuid.subleaves(0x1F) or [each.ecx >> 8 for each in last] == [
        1,
        2,
        *([5] if topology.dies > 1 else []),
        0,
    ]


def check_numa(config, plan, firmware):
    """The SRAT has each vCPU and each byte of RAM once, in the node that was asked for."""
    srat = firmware.acpi_table(Srat)
    assert (srat is not None) == bool(config.numa and config.wants_acpi)
    if srat is None:
        return
    near = collections.defaultdict(list)
    for each in srat.entries:
        if isinstance(each, LapicAffinity | X2ApicAffinity):
            near[each.node].append(each.apic_id)
    memory = [
        (each.start, each.start + each.size_bytes, each.node)
        for each in srat.entries
        if isinstance(each, MemoryAffinity)
    ]
    for number, node in enumerate(config.numa):
        assert near[number] == [plan.vcpus[vcpu].hardware_id for vcpu in node.vcpus]
        assert sum(end - start for start, end, owner in memory if owner == number) == node.memory
    assert sum(end - start for start, end, _ in memory) == config.memory
    for (_, end, _), (start, _, _) in itertools.pairwise(sorted(memory)):
        assert end <= start
    for start, end, _ in memory:
        assert any(ram.start <= start and end <= ram.end for ram in plan.ram)
