"""The judges are hwloc, which finds topologies from CPUID alone, and the Debian tool `cpuid`."""

import attrs
import pytest
from cpuid_hosts import AMD, HOSTS, INTEL, OLDER, ends_at, shaped
from cpuid_judges import cpuid_tool, hwloc, values
from hypothesis import given, settings
from hypothesis import strategies as st

from anyvisor.config import Topology
from anyvisor.errors import ConfigError, Unsupported
from anyvisor.facts import Capability, HostFacts
from anyvisor.x86_64.cpuid import Cpuid, CpuidEntry
from anyvisor.x86_64.cpuid_policy import for_vcpu, guest_cpuid
from anyvisor.x86_64.features import Feature
from anyvisor.x86_64.topology import apic_id

CHIPS = frozenset({Capability.IRQCHIP, Capability.TSC_DEADLINE})
SHAPES = [(1, 1, 1), (1, 4, 1), (2, 2, 2), (1, 3, 2), (2, 3, 2), (3, 1, 1), (1, 1, 2), (2, 5, 3)]


def guests(host, shape, *, tsc_deadline=True):
    topology = shaped(shape)
    return [guest_cpuid(host, topology, vcpu, tsc_deadline=tsc_deadline) for vcpu in range(topology.vcpus)]


def tells_apart(name, shape):
    """Without leaf 0xB, hwloc counts AMD's processors where the APM shifts, and three threads confuse it."""
    return shape[2] in (1, 2) or name == "AMD" or name.startswith("Intel")


@pytest.mark.parametrize(
    ("name", "shape"), [(name, each) for name in HOSTS | OLDER for each in SHAPES if tells_apart(name, each)]
)
def test_hwloc_sees_the_topology_that_was_asked_for(name, shape, tmp_path):
    sockets, cores, threads = shape
    seen = hwloc(guests((HOSTS | OLDER)[name], shape), tmp_path)
    cpus = range(sockets * cores * threads)
    assert [seen[cpu].package for cpu in cpus] == [cpu // (cores * threads) for cpu in cpus]
    if name == "AMD without TopologyExtensions":  # such a processor does not tell its threads from its cores
        assert {each.core for each in seen.values()} == {None}
    else:
        assert [seen[cpu].core for cpu in cpus] == [cpu // threads % cores for cpu in cpus]


@pytest.mark.parametrize(
    ("name", "shape"), [(name, each) for name in HOSTS for each in SHAPES if tells_apart(name, each)]
)
def test_hwloc_sees_small_caches_shared_by_threads_and_the_last_by_the_package(name, shape, tmp_path):
    _, cores, threads = shape
    for cpu, place in hwloc(guests(HOSTS[name], shape), tmp_path).items():
        core = frozenset(range(cpu - cpu % threads, cpu - cpu % threads + threads))
        first = cpu - cpu % (cores * threads)
        package = frozenset(range(first, first + cores * threads))
        assert place.sharing == {"L1Cache": core, "L1iCache": core, "L2Cache": core, "L3Cache": package}


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("host", [AMD, ends_at(AMD, 7)])
def test_the_cpuid_tool_takes_amd_s_apic_ids_apart(host, shape):
    _, cores, threads = shape
    package_vcpus = cores * threads
    for cpu, lines in enumerate(cpuid_tool(guests(host, shape))):
        words = f"multi-core (c={package_vcpus})" if package_vcpus > 1 else "none"
        assert values(lines, "multi-processing synth") == [words]
        if package_vcpus > 1:
            place = f"PKG_ID={cpu // package_vcpus} CORE_ID={cpu // threads % cores} SMT_ID={cpu % threads}"
            assert values(lines, "APIC synth") == [place]


@pytest.mark.parametrize("shape", SHAPES)
def test_the_cpuid_tool_takes_intel_s_apic_ids_apart(shape):
    """From leaves 1 and 4; of 0xB and 0x1F, this tool (20230120) takes the package's width for the core's."""
    _, cores, threads = shape
    core_ids = 1 << (cores - 1).bit_length()  # leaf 4 counts ids, not cores
    for cpu, lines in enumerate(cpuid_tool(guests(ends_at(INTEL, 0xA), shape))):
        place = f"PKG_ID={cpu // (cores * threads)} CORE_ID={cpu // threads % cores} SMT_ID={cpu % threads}"
        assert values(lines, "APIC synth") == [place]
        if threads in (1, 2):
            words = [f"multi-core (c={core_ids})"] * (cores > 1) + ["hyper-threaded (t=2)"] * (threads == 2)
            assert values(lines, "multi-processing synth") == [", ".join(words) or "none"]


@pytest.mark.parametrize("shape", SHAPES)
def test_the_cpuid_tool_reads_the_levels_of_leaves_0xb_and_0x1f(shape):
    _, cores, threads = shape
    thread_bits = (threads - 1).bit_length()
    package_bits = thread_bits + (cores - 1).bit_length()
    for cpu, lines in enumerate(cpuid_tool(guests(INTEL, shape))):
        widths = [int(each, 0) for each in values(lines, "bit width of level")]
        counts = [int(each, 0) for each in values(lines, "number of logical processors at level")]
        assert widths == [thread_bits, package_bits, 0] * 2
        assert counts == [threads, cores * threads, 0] * 2
        wanted = apic_id(shaped(shape), cpu)
        assert values(lines, "extended APIC ID") == [str(wanted)]
        assert [int(each, 0) for each in values(lines, "x2APIC ID of logical processor")] == [wanted]
        assert [int(each, 0) for each in values(lines, "process local APIC physical ID")] == [wanted]


@pytest.mark.parametrize("name", HOSTS)
def test_the_cpuid_tool_sees_a_hypervisor_a_deadline_timer_and_no_pmu(name):
    for lines in cpuid_tool(guests(HOSTS[name], (1, 2, 1))):
        assert values(lines, "hypervisor guest status") == ["true"]
        assert values(lines, "time stamp counter deadline") == ["true"]
        assert values(lines, "PDCM: perfmon and debug") == ["false"]
        assert values(lines, "hyper-threading / multi-core supported") == ["true"]
        assert values(lines, "CLFLUSH line size") == ["0x8"]
        assert set(values(lines, "Intel Turbo Boost Technology")) <= {"false"}
        assert values(lines, "version ID")[:1] == ["0x0"]
        assert values(lines, "hypervisor_id (0x40000000)") == [r'"KVMKVMKVM\0\0\0"']


@pytest.mark.parametrize("name", HOSTS | OLDER)
@pytest.mark.parametrize("vcpu", [0, 3])
def test_nothing_of_the_host_s_own_topology_is_left(name, vcpu):
    """Two hosts that differ in nothing but their topology make the same guest."""
    host = (HOSTS | OLDER)[name]
    other = guest_cpuid(host, Topology(sockets=7, cores=5, threads=3), 40, tsc_deadline=True)
    topology = Topology(sockets=2, cores=2, threads=2)
    one, two = (guest_cpuid(each, topology, vcpu, tsc_deadline=True) for each in (host, other))
    assert one.diff(two) == []


def test_one_processor_to_a_package_has_no_siblings():
    for host in HOSTS.values():
        for cpuid in guests(host, (2, 1, 1)):
            assert not cpuid.has(Feature.HTT)
            assert not cpuid.has(Feature.CMP_LEGACY)
            assert cpuid[1].ebx >> 16 & 0xFF == 0


def test_amd_s_own_leaves_are_rewritten():
    cpuid = guests(AMD, (2, 3, 2))[9]
    assert cpuid.has(Feature.CMP_LEGACY) and cpuid.has(Feature.HTT) and cpuid.has(Feature.TOPOLOGY_EXTENSIONS)
    assert cpuid[1].ebx == 0x0B060800
    assert cpuid[0x8000_0008].ecx == 0x3005
    assert cpuid[0x8000_0008].eax == AMD[0x8000_0008].eax
    assert cpuid[0x8000_001E].registers == (0xB, 0x0101, 0x0001, 0)
    assert [each.eax >> 14 & 0xFFF for each in cpuid.subleaves(0x8000_001D)] == [1, 1, 1, 7, 0]
    assert [(each.eax, each.ebx, each.ecx) for each in cpuid.subleaves(0xB)] == [
        (1, 2, 0x100), (3, 6, 0x201), (0, 0, 2)
    ]  # fmt: skip
    assert not cpuid.subleaves(0x1F)


def test_intel_s_own_leaves_are_rewritten():
    cpuid = guests(INTEL, (1, 3, 2))[5]
    assert not cpuid.has(Feature.CMP_LEGACY)
    assert cpuid[1].ebx == 0x05080800
    assert [each.eax >> 14 for each in cpuid.subleaves(4)] == [
        3 << 12 | 1,
        3 << 12 | 1,
        3 << 12 | 1,
        3 << 12 | 7,
        0,
    ]
    assert [each.edx for each in cpuid.subleaves(0x18)] == [0, 0x4122]
    assert [each.edx for each in guests(INTEL, (1, 3, 1))[0].subleaves(0x18)] == [0, 0x0122]
    assert cpuid[0xA].registers == (0, 0, 0, 0)
    assert cpuid[0x8000_0008] == INTEL[0x8000_0008]
    assert not any(cpuid.subleaves(leaf) for leaf in (0x8000_001D, 0x8000_001E))


def test_leaf_1_counts_up_to_254_processors():
    amd, intel = (guest_cpuid(host, Topology(cores=254), 253, tsc_deadline=False) for host in (AMD, INTEL))
    assert (amd[1].ebx, intel[1].ebx) == (0xFDFE0800, 0xFDFF0800)
    assert intel[4].eax >> 26 == 63
    assert amd[0x8000_0008].ecx & 0xFF == 253


@pytest.mark.parametrize("name", HOSTS | OLDER)
def test_features_of_the_host_stay_but_for_those_a_guest_must_not_have(name):
    host = (HOSTS | OLDER)[name]
    (cpuid,) = guests(host, (1, 1, 1))
    gone = host.features - cpuid.features
    assert gone <= {
        Feature.HTT, Feature.CMP_LEGACY, Feature.PDCM, Feature.TURBO_BOOST, Feature.ENERGY_PERFORMANCE_BIAS,
        Feature.TOPOLOGY_EXTENSIONS,
    }  # fmt: skip
    assert cpuid.features - host.features <= {Feature.HYPERVISOR, Feature.TSC_DEADLINE}
    assert cpuid.subleaves(0x4000_0000) + cpuid.subleaves(0x4000_0001) == host.subleaves(0x4000_0000) + host.subleaves(
        0x4000_0001
    )
    assert cpuid.physical_address_bits == host.physical_address_bits


def test_every_vcpu_knows_of_the_hypervisor_and_the_deadline_timer_is_the_caller_s_word():
    for deadline in (True, False):
        for cpuid in guests(INTEL, (1, 3, 1), tsc_deadline=deadline):
            assert cpuid.has(Feature.HYPERVISOR)
            assert cpuid.has(Feature.TSC_DEADLINE) is deadline


def test_what_mirrors_cr4_starts_unset():
    host = INTEL.with_(Feature.OSXSAVE, Feature.OSPKE)
    (cpuid,) = guests(host, (1, 1, 1))
    assert not cpuid.has(Feature.OSXSAVE) and not cpuid.has(Feature.OSPKE)
    assert cpuid.has(Feature.XSAVE) and cpuid.has(Feature.PKU)


def test_no_entry_lies_beyond_the_highest_leaf():
    for host in (HOSTS | OLDER).values():
        for cpuid in guests(host, (1, 2, 2)):
            assert (cpuid.max_leaf, cpuid.max_extended_leaf) == (host.max_leaf, host.max_extended_leaf)
            assert all(each.leaf <= cpuid.max_leaf for each in cpuid if each.leaf < 0x4000_0000)
            assert all(each.leaf <= cpuid.max_extended_leaf for each in cpuid if each.leaf >= 0x8000_0000)


def test_a_newer_amd_s_levels_are_the_guest_s_own():
    host = AMD.replace(AMD[0x8000_0000].replace(eax=0x8000_0026), CpuidEntry(0x8000_0026, 0, 1, 2, 0x100, 9))
    cpuid = guests(host, (2, 3, 2))[9]
    assert [each.registers for each in cpuid.subleaves(0x8000_0026)] == [
        (1, 2, 0x100, 0xB), (3, 6, 0x201, 0xB), (3, 6, 0x302, 0xB), (3, 6, 0x403, 0xB), (0, 0, 4, 0xB)
    ]  # fmt: skip
    beyond = AMD.replace(CpuidEntry(0x8000_0026, 0, 1, 2, 0x100, 9))
    assert not guests(beyond, (1, 1, 1))[0].subleaves(0x8000_0026)


def test_amd_s_performance_monitoring_goes_too():
    host = AMD.with_(Feature.PERF_CTR_EXT_CORE).replace(CpuidEntry(0x8000_0022, eax=1, ebx=6))
    (cpuid,) = guests(host, (1, 1, 1))
    assert not cpuid.has(Feature.PERF_CTR_EXT_CORE) and not cpuid.subleaves(0x8000_0022)


def test_a_bare_table_gets_what_it_has_leaves_for():
    bare = Cpuid((CpuidEntry(0, eax=1, ebx=AMD[0].ebx, ecx=AMD[0].ecx, edx=AMD[0].edx), CpuidEntry(1)))
    cpuid = guests(bare, (1, 2, 1))[1]
    assert [each.leaf for each in cpuid] == [0, 1]
    assert cpuid.has(Feature.HYPERVISOR) and cpuid[1].ebx == 0x01020000
    with pytest.raises(Unsupported, match="HYPERVISOR"):
        guests(Cpuid(), (1, 1, 1))
    with pytest.raises(ConfigError, match="vCPU 2"):
        guest_cpuid(AMD, Topology(cores=2), 2, tsc_deadline=False)


@settings(deadline=None)
@given(st.lists(st.sampled_from([*AMD, *INTEL]), unique=True, max_size=40))
def test_any_mixture_of_leaves_makes_a_table_or_is_refused_for_its_leaf_1(found):
    try:
        cpuid = guest_cpuid(Cpuid(tuple(found)), Topology(cores=2, threads=2), 3, tsc_deadline=True)
    except Unsupported:
        assert all(each.leaf != 1 for each in found)
        return
    assert cpuid.has(Feature.HYPERVISOR) and cpuid[1].ebx >> 24 == 3


def test_the_tables_of_a_machine_share_every_entry_that_has_no_id_in_it():
    """So a thousand vCPUs cost little more than one."""
    for host in HOSTS.values():
        first, *others = guests(host, (2, 2, 2))
        for other in others:
            own = {mine.leaf for shared, mine in zip(first, other, strict=True) if mine is not shared}
            assert own <= {0x1, 0xB, 0x1F, 0x8000_001E, 0x8000_0026}


def test_for_vcpu_asks_the_facts():
    facts = HostFacts("test", "x86_64", capabilities=CHIPS, supported=(INTEL,))
    assert for_vcpu(facts, Topology(cores=2), 1) == guest_cpuid(INTEL, Topology(cores=2), 1, tsc_deadline=True)
    with pytest.raises(Unsupported, match="Cpuid"):
        for_vcpu(HostFacts("test", "x86_64"), Topology(), 0)


def test_what_needs_the_hypervisor_s_own_apic_is_gone_where_it_has_none():
    wanted = (Feature.X2APIC, Feature.KVM_PV_EOI, Feature.KVM_ASYNC_PF_INT)
    host = AMD.replace(CpuidEntry(0x40000001)).with_(*wanted, Feature.KVM_CLOCKSOURCE2)
    facts = HostFacts("a backend", "x86_64", supported=(host,))
    with_chips = attrs.evolve(facts, capabilities=CHIPS)
    assert all(for_vcpu(with_chips, Topology(), 0).has(each) for each in wanted)
    without = for_vcpu(facts, Topology(), 0)
    assert not any(without.has(each) for each in wanted)
    assert without.has(Feature.KVM_CLOCKSOURCE2)
