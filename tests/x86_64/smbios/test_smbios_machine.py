import uuid

import pytest
from cpuid_hosts import HOSTS
from hypothesis import given
from hypothesis import strategies as st

import anyvisor
from anyvisor import MachineConfig
from anyvisor.identity import Identity
from anyvisor.memory import GIB, MIB, TIB, Region
from anyvisor.topology import Topology
from anyvisor.x86_64.cpuid import Cpuid, CpuidEntry
from anyvisor.x86_64.generic import FACTS
from anyvisor.x86_64.layout import MMIO_GAP, Layout
from anyvisor.x86_64.smbios import (
    BiosInformation,
    MemoryArrayMappedAddress,
    MemoryDevice,
    PhysicalMemoryArray,
    ProcessorInformation,
    SmbiosTables,
    SystemInformation,
    find_entry,
    smbios_tables,
)
from anyvisor.x86_64.smbios.machine import module_sizes
from elves import tiny_elf

UUID = "00112233-4455-6677-8899-aabbccddeeff"
WHO = Identity(
    manufacturer="ACME", product="Anvil", version="2nd", serial="S-7", uuid=UUID, sku="SKU-1", family="Irons"
)


def tables_of(topology=None, memory="64M", cpuid=None, identity=WHO):
    config = MachineConfig(memory=memory)
    return smbios_tables(identity, topology or Topology(), Layout.for_memory(config.memory).ram, cpuid)


def test_the_types_that_a_reader_expects_are_there_in_order():
    types = [each.to_raw().type for each in tables_of(Topology(sockets=2), "4G").structures]
    assert types == [0, 1, 2, 3, 4, 4, 16, 17, 19, 19, 32, 127]


def test_no_two_structures_have_a_handle_in_common():
    structures = tables_of(Topology(sockets=512, threads=2), "64T").structures
    assert len({each.handle for each in structures}) == len(structures)


def test_handles_lead_to_the_structures_they_mean():
    tables = tables_of(memory="40G")
    known = {each.handle: each for each in tables.structures}
    for each in (*tables.of(MemoryDevice), *tables.of(MemoryArrayMappedAddress)):
        assert isinstance(known[each.array], PhysicalMemoryArray)
    assert known[tables.structures[2].chassis] == tables.structures[3]


def test_the_identity_is_the_systems():
    [system] = tables_of().of(SystemInformation)
    assert (system.manufacturer, system.product, system.version) == ("ACME", "Anvil", "2nd")
    assert (system.serial, system.uuid, system.sku, system.family) == ("S-7", uuid.UUID(UUID), "SKU-1", "Irons")


def test_without_a_uuid_it_is_all_zeros():
    [system] = tables_of(identity=Identity()).of(SystemInformation)
    assert not system.has_uuid
    assert system.to_bytes()[8:24] == bytes(16)


def test_the_firmware_is_ours_and_its_year_is_one_that_linux_does_not_mistrust():
    [bios] = tables_of().of(BiosInformation)
    assert (bios.vendor, bios.version) == ("anyvisor", anyvisor.__version__)
    assert int(bios.release_date.split("/")[2]) >= 2008
    assert bios.extension.virtual_machine


@pytest.mark.parametrize(
    ("topology", "sockets", "cores", "threads"),
    [
        (Topology(), 1, 1, 1),
        (Topology(sockets=2, cores=4, threads=2), 2, 4, 8),
        (Topology(sockets=3, dies=2, cores=3), 3, 6, 6),
        (Topology(cores=254), 1, 254, 254),
        (Topology(cores=255), 1, 255, 255),
        (Topology(cores=512, threads=2), 1, 512, 1024),
        (Topology(sockets=300), 300, 1, 1),
    ],
)
def test_there_is_a_processor_structure_for_each_socket(topology, sockets, cores, threads):
    found = SmbiosTables.decode(tables_of(topology).to_bytes()).of(ProcessorInformation)
    assert [each.socket for each in found] == [f"CPU {number}" for number in range(sockets)]
    assert {(each.cores, each.threads) for each in found} == {(cores, threads)}
    assert {each.core_count for each in found} == {min(cores, 255)}
    assert found[0].characteristics.multi_core == (cores > 1)
    assert found[0].characteristics.hardware_thread == (threads > cores)


@pytest.mark.parametrize("host", HOSTS, ids=str)
def test_processors_are_described_by_their_cpuid(host):
    cpuid = HOSTS[host]
    [found] = tables_of(cpuid=cpuid).of(ProcessorInformation)
    assert (found.manufacturer, found.version) == (cpuid.vendor, cpuid.brand)
    assert found.processor_id & 0xFFFFFFFF == cpuid[1].eax
    assert found.processor_id >> 32 == cpuid[1].edx


@pytest.mark.parametrize(
    ("leaf", "ability"),
    [
        (CpuidEntry(0x80000001, edx=1 << 29), 1 << 2),  # long mode
        (CpuidEntry(0x80000001, edx=1 << 20), 1 << 5),  # no-execute
        (CpuidEntry(0x80000001, ecx=1 << 2), 1 << 6),  # SVM
        (CpuidEntry(1, ecx=1 << 5), 1 << 6),  # VMX
        (CpuidEntry(1), 0),
    ],
)
def test_the_abilities_of_a_processor_come_from_cpuid(leaf, ability):
    [found] = tables_of(cpuid=Cpuid((leaf,))).of(ProcessorInformation)
    assert found.characteristics == ability


def test_without_cpuid_a_processor_is_not_described():
    [plain] = tables_of().of(ProcessorInformation)
    assert (plain.characteristics, plain.processor_id, plain.manufacturer, plain.version) == (0, 0, "", "")


def test_the_longer_count_is_believed_only_where_the_short_one_says_so():
    assert ProcessorInformation(core_count=4, core_count_2=9).cores == 4
    assert ProcessorInformation(core_count=255, core_count_2=9).cores == 9
    assert ProcessorInformation(thread_count=255).threads == 255  # of a version without the longer one


@pytest.mark.parametrize(
    ("memory_bytes", "sizes"),
    [
        (64 * MIB, [64 * MIB]),
        (16 * GIB, [16 * GIB]),
        (17 * GIB, [16 * GIB, GIB]),
        (256 * GIB, [16 * GIB] * 16),
        (256 * GIB + 2 * MIB, [32 * GIB] * 8 + [2 * MIB]),
        (TIB, [64 * GIB] * 16),
        (64 * TIB, [4 * TIB] * 16),
        (MIB + 4096, [MIB, 4096]),
        (512 * MIB + 1020 * 1024, [512 * MIB, 1020 * 1024]),
    ],
)
def test_memory_is_cut_into_few_modules(memory_bytes, sizes):
    assert module_sizes(memory_bytes) == sizes


@given(st.integers(256, 1 << 34).map(lambda pages: pages * 4096))
def test_modules_and_ranges_make_up_all_of_the_memory(memory_bytes):
    ram = Layout.for_memory(memory_bytes).ram
    tables = SmbiosTables.decode(smbios_tables(Identity(), Topology(), ram).to_bytes())
    [array] = tables.of(PhysicalMemoryArray)
    devices = tables.of(MemoryDevice)
    assert sum(each.size_bytes for each in devices) == array.capacity_bytes == memory_bytes
    assert array.device_count == len(devices) <= 18
    ranges = [each.region for each in tables.of(MemoryArrayMappedAddress)]
    assert [(each.start, each.size_bytes) for each in ranges] == [(each.start, each.size_bytes) for each in ram]
    assert not any(each.overlaps(MMIO_GAP) for each in ranges)


def test_a_tebibyte_has_few_structures():
    assert len(tables_of(memory="1T").structures) < 32


@pytest.fixture
def kernel(tmp_path):
    return tiny_elf(tmp_path / "vmlinux", code=b"\xf4")


def test_an_assembled_plan_has_the_tables_of_its_configuration(kernel):
    config = MachineConfig(kernel=kernel, memory="5G", topology=Topology(sockets=2, cores=2), vcpus=4, identity=WHO)
    plan = anyvisor.assemble(config, FACTS)
    entry = find_entry(plan.read)
    tables = SmbiosTables.from_memory(plan.read, entry)
    assert [each.product for each in tables.of(SystemInformation)] == ["Anvil"]
    assert [each.cores for each in tables.of(ProcessorInformation)] == [2, 2]
    assert [each.region.start for each in tables.of(MemoryArrayMappedAddress)] == [0, 4 * GIB]
    assert plan.blob("SMBIOS tables").provided_by == "linux"


def test_a_machine_without_tables_has_no_smbios(kernel):
    plan = anyvisor.assemble(MachineConfig(kernel=kernel, tables="none"), FACTS)
    assert find_entry(plan.read) is None


def test_regions_of_any_number_are_told():
    ram = [Region(number * GIB, MIB) for number in range(5)]
    found = smbios_tables(Identity(), Topology(), ram).of(MemoryArrayMappedAddress)
    assert [each.region.start for each in found] == [number * GIB for number in range(5)]
