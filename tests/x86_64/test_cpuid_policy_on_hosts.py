"""The CPUID policy on machines of several generations; the judges are hwloc and the Debian tool `cpuid`."""

import re

import pytest
from cpuid_hosts import shaped
from cpuid_judges import cpuid_tool, hwloc, values

from anyvisor.x86_64.cpuid import REGISTERS, Cpuid
from anyvisor.x86_64.cpuid_policy import for_vcpu
from anyvisor.x86_64.features import Feature
from anyvisor.x86_64.leaves import Leaf
from anyvisor.x86_64.topology import apic_id
from anyvisor_mock.host_facts import host_facts, host_names

HOSTS = host_names()
AMD = [name for name in HOSTS if name.startswith("amd")]
INTEL = [name for name in HOSTS if name.startswith("intel")]
TELLS_THREADS = [name for name in HOSTS if name != "amd-k10"]
"""That one has no TopologyExtensions: to such a processor's guest threads are cores."""
SHAPES = [(1, 1, 1), (1, 2, 2), (2, 4, 2)]
POLICY_ADDS = {Feature.HYPERVISOR, Feature.TSC_DEADLINE, Feature.HTT, Feature.CMP_LEGACY}
FEATURE_REGISTERS = {
    (0x1, 0): ("ecx", "edx"),
    (0x6, 0): REGISTERS,
    (0x7, 0): ("ebx", "ecx", "edx"),
    (0x7, 1): REGISTERS,
    (0x7, 2): REGISTERS,
    (0xD, 1): ("eax",),
    (0x4000_0001, 0): REGISTERS,
    (0x8000_0001, 0): ("ecx", "edx"),
    (0x8000_0007, 0): REGISTERS,
    (0x8000_0008, 0): ("ebx",),
    (0x8000_000A, 0): ("edx",),
    (0x8000_0021, 0): REGISTERS,
}
"""Where each bit is a feature, whether it has a name here or not."""

shapes = pytest.mark.parametrize("shape", SHAPES, ids=lambda each: "x".join(map(str, each)))


def host(name: str) -> Cpuid:
    return host_facts(name).supported_state(Cpuid)


def guests(name: str, shape: tuple[int, int, int]) -> list[Cpuid]:
    topology = shaped(shape)
    return [for_vcpu(host_facts(name), topology, vcpu) for vcpu in range(topology.vcpus)]


@shapes
@pytest.mark.parametrize("name", HOSTS)
def test_a_guest_gets_no_bit_that_its_host_lacks(name, shape):
    for cpuid in guests(name, shape):
        assert cpuid.features - host(name).features <= POLICY_ADDS
        for place, registers in FEATURE_REGISTERS.items():
            adds = [each for each in POLICY_ADDS if (each.leaf, each.subleaf) == place]
            for register in registers:
                allowed = sum(1 << each.position for each in adds if each.register == register)
                extra = getattr(cpuid[place], register) & ~getattr(host(name)[place], register)
                assert extra & ~allowed == 0, f"{place[0]:#x}/{place[1]} {register}: {extra:#x}"


@shapes
@pytest.mark.parametrize("name", HOSTS)
def test_what_a_guest_loses_is_performance_monitoring_and_its_host_s_topology(name, shape):
    monitoring = {Feature.PDCM, Feature.DS, Feature.DTES64, Feature.PERF_CTR_EXT_CORE}
    for cpuid in guests(name, shape):
        assert host(name).features - cpuid.features <= monitoring | {Feature.HTT, Feature.CMP_LEGACY}
        assert not cpuid.features & monitoring


@shapes
@pytest.mark.parametrize("name", TELLS_THREADS)
def test_hwloc_sees_packages_cores_and_threads(name, shape, tmp_path):
    _, cores, threads = shape
    seen = hwloc(guests(name, shape), tmp_path)
    assert [seen[cpu].package for cpu in sorted(seen)] == [cpu // (cores * threads) for cpu in sorted(seen)]
    assert [seen[cpu].core for cpu in sorted(seen)] == [cpu // threads % cores for cpu in sorted(seen)]
    for cpu, place in seen.items():
        core = frozenset(range(cpu - cpu % threads, cpu - cpu % threads + threads))
        assert {place.sharing[name] for name in ("L1Cache", "L2Cache") if name in place.sharing} == {core}


@shapes
def test_hwloc_sees_packages_on_a_processor_that_cannot_tell_threads_from_cores(shape, tmp_path):
    seen = hwloc(guests("amd-k10", shape), tmp_path)
    assert [seen[cpu].package for cpu in sorted(seen)] == [cpu // (shape[1] * shape[2]) for cpu in sorted(seen)]


@shapes
@pytest.mark.parametrize("name", HOSTS)
def test_the_cpuid_tool_sees_a_hypervisor_and_no_counters(name, shape):
    for lines in cpuid_tool(guests(name, shape)):
        assert values(lines, "hypervisor guest status") == ["true"]
        assert values(lines, "PDCM: perfmon and debug") == ["false"]
        assert values(lines, "DS: debug store") == ["false"]
        assert values(lines, "DTES64: 64-bit debug store") == ["false"]
        assert set(values(lines, "core performance counter extensions")) <= {"false"}
        assert [int(each, 0) for each in values(lines, "number of counters per logical processor")] in ([0], [])
        assert values(lines, "hypervisor_id (0x40000000)") == [r'"KVMKVMKVM\0\0\0"']


@shapes
@pytest.mark.parametrize("name", HOSTS)
def test_the_cpuid_tool_reads_the_same_apic_id_in_every_leaf(name, shape):
    for cpu, lines in enumerate(cpuid_tool(guests(name, shape))):
        wanted = apic_id(shaped(shape), cpu)
        assert [int(each, 0) for each in values(lines, "process local APIC physical ID")] == [wanted]
        x2apic = values(lines, "extended APIC ID") + values(lines, "x2APIC ID of logical processor")
        assert len(x2apic) == (0 if name == "amd-k10" else 1) + (name in AMD and name != "amd-k10") + _has_0x1f(name)
        assert {int(each, 0) for each in x2apic} <= {wanted}


def _has_0x1f(name):
    return name in INTEL and host(name).max_leaf >= Leaf.TOPOLOGY_V2


@shapes
@pytest.mark.parametrize("name", HOSTS)
def test_the_leaves_that_count_processors_agree(name, shape):
    _, cores, threads = shape
    for cpu, cpuid in enumerate(guests(name, shape)):
        package = cores * threads
        if cpuid.max_leaf >= Leaf.TOPOLOGY:
            assert [each.ebx for each in cpuid.subleaves(Leaf.TOPOLOGY)] == [threads, package, 0]
            assert cpuid.subleaves(Leaf.TOPOLOGY)[1].eax == (package - 1).bit_length()
        if _has_0x1f(name):
            words = [each.registers for each in cpuid.subleaves(Leaf.TOPOLOGY)]
            assert [each.registers for each in cpuid.subleaves(Leaf.TOPOLOGY_V2)] == words
        if name in AMD:
            assert cpuid[Leaf.ADDRESS_SIZES].ecx & 0xFF == package - 1
            assert cpuid[Leaf.ADDRESS_SIZES].ecx >> 12 & 0xF == (package - 1).bit_length()
        else:
            assert {each.eax >> 26 for each in cpuid.subleaves(Leaf.CACHES) if each.eax} == {cores - 1}
        if name in AMD and name in TELLS_THREADS:
            assert cpuid[Leaf.AMD_TOPOLOGY].registers[:2] == (cpu, (threads - 1) << 8 | cpu // threads % cores)
            shared = {
                each.eax >> 14 & 0xFFF for each in cpuid.subleaves(Leaf.AMD_CACHES) if each.eax >> 5 & 7 in (1, 2)
            }
            assert shared - {package - 1} == {threads - 1} - {package - 1}
        assert cpuid.has(Feature.HTT) == (package > 1)


@shapes
@pytest.mark.parametrize("name", HOSTS)
def test_the_xsave_area_is_that_of_the_features_that_are_left(name, shape):
    needs = {Feature.AVX: 0b100, Feature.MPX: 0b11000, Feature.AVX512F: 0xE0, Feature.PKU: 1 << 9}
    needs |= {Feature.AMX_TILE: 0x60000}
    for cpuid, lines in zip(guests(name, shape), cpuid_tool(guests(name, shape)), strict=True):
        xcr0 = cpuid[Leaf.XSAVE].eax
        for feature, components in needs.items():
            assert xcr0 & components == (components if cpuid.has(feature) else 0), feature.name
        found = {int(number, 0) for number in re.findall(r"features \(0xd/(\w+)\):", "\n".join(lines))}
        assert found - {0, 1} == {number for number in range(2, 32) if xcr0 >> number & 1}
        assert cpuid.has(Feature.XSAVE) == bool(xcr0)


@pytest.mark.parametrize("name", HOSTS)
def test_addresses_of_57_bits_come_with_the_paging_for_them(name):
    (cpuid,) = guests(name, (1, 1, 1))
    assert cpuid.has(Feature.LA57) == (cpuid[Leaf.ADDRESS_SIZES].eax >> 8 & 0xFF == 57)
